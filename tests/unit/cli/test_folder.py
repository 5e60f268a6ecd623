from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tidings.cli.folder import DataFolder, Running, write_private
from tidings.cli.plain import CannotGoOn

RUNNING = Running(pid=1, api_url="http://127.0.0.1:1", sandbox_url=None, dsn="postgresql://x", children={"api": 2})


def test_prepare_creates_the_folder_and_leaves_no_probe(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "deep" / "data")
    folder.prepare()
    assert [entry.name for entry in folder.path.iterdir()] == ["logs"]


def test_a_folder_that_cannot_be_written_is_reported_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotGoOn, match=r"the data folder .*file/data cannot be written .*--data-dir"):
        DataFolder(tmp_path / "file" / "data").prepare()


def test_a_full_disk_is_reported_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=12 * 1024 * 1024)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(CannotGoOn, match=r"only 12 MB are free on the disk of .* at least 200 MB are needed"):
        DataFolder(tmp_path).prepare()


def test_the_folder_knows_what_runs_while_it_runs(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    assert folder.running() is None
    with folder.mine():
        assert folder.running() is None
        folder.announce(RUNNING)
        assert DataFolder(tmp_path).running() == RUNNING
    assert folder.running() is None


def test_a_second_process_on_the_folder_is_refused_and_told_about_the_first(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    with folder.mine():
        folder.announce(RUNNING)
        told = pytest.raises(CannotGoOn, match=r"already runs on the data folder .*process 1, http://127.0.0.1:1")
        with told, DataFolder(tmp_path).mine():
            pytest.fail("two have the folder")
        assert folder.running() == RUNNING


def test_a_file_of_a_killed_process_is_ignored(tmp_path: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path; from tidings.cli.folder import *\n"
        f"folder = DataFolder(Path({str(tmp_path)!r}))\n"
        "with folder.mine():\n"
        "    folder.announce(Running(os.getpid(), 'http://x', None, 'dsn'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert (tmp_path / "running.json").exists()
    folder = DataFolder(tmp_path)
    assert folder.running() is None
    with folder.mine():
        assert folder.running() is None


def test_secrets_are_private(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    assert [folder.demo_key] == [None]
    folder.keep_demo_key("tk_1")
    folder.keep_demo_key("tk_2")
    folder.announce(RUNNING)
    assert folder.demo_key == "tk_2"
    assert {entry.stat().st_mode & 0o777 for entry in tmp_path.iterdir()} == {0o600}


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old and longer")
    path.chmod(0o644)
    write_private(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
