"""The Makefile's install script, on machines without a suitable Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / ".ci" / "python"


def python(folder: Path, name: str, program: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    return path


def install(folder: Path, named: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script with a PATH of only `folder` and the system's own tools."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    environment = {"PATH": f"{folder}:{tools}", "PYTHON": named}
    command = ["/bin/sh", str(SCRIPT), str(folder / "venv")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


OLD = 'case "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac'
WITHOUT_VENV = 'case "$1 $2" in -V*) echo Python 3.12.1;; *ensurepip*) exit 1;; *) exit 0;; esac'


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        (OLD, "Tidings needs Python 3.11 or newer, and here is Python 3.9.2."),
        (WITHOUT_VENV, "Python 3.12.1 has no venv module. On Debian or Ubuntu: apt-get install python3-venv."),
    ],
)
def test_a_python_that_does_not_do_is_said(tmp_path: Path, program: str, sentence: str) -> None:
    python(tmp_path, "python3", program)
    result = install(tmp_path)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert not (tmp_path / "venv").exists()


def test_a_newer_one_beside_an_old_one_is_found(tmp_path: Path) -> None:
    python(tmp_path, "python3", OLD)
    python(tmp_path, "python3.12", WITHOUT_VENV)
    assert "Python 3.12.1 has no venv module" in install(tmp_path).stderr


def test_a_named_one_that_does_not_do_is_said(tmp_path: Path) -> None:
    old = python(tmp_path, "old", OLD)
    assert f"Tidings needs Python 3.11 or newer; {old} is Python 3.9.2." in install(tmp_path, str(old)).stderr
    assert "There is no /nowhere/python here." in install(tmp_path, "/nowhere/python").stderr


def test_without_any_python(tmp_path: Path) -> None:
    result = install(tmp_path)
    assert result.returncode == 2
    assert "Tidings needs Python 3.11 or newer" in result.stderr


def test_it_is_a_script_for_every_shell() -> None:
    for script in (SCRIPT, SCRIPT.with_name("parts")):
        assert os.access(script, os.X_OK)
        subprocess.run(["/bin/sh", "-n", str(script)], check=True)
