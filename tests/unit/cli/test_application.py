from __future__ import annotations

import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

from tidings.cli.application import COMMANDS, run
from tidings.cli.folder import DataFolder, Running
from tidings.model.errors import SettingsError, Unavailable

REPORT_IT = "Run the same command with --debug to see where, and report the error with that output.\n"
HEAVY = ("asyncpg", "fastapi", "uvicorn", "pydantic", "phonenumbers", "confluent_kafka", "pyreqwest", "cryptography")


def test_the_program_without_a_command_loads_no_driver() -> None:
    program = f"import sys, tidings.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"tidings {metadata.version('tidings')}\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [name for name in COMMANDS if any(line.strip().startswith(f"{name} ") for line in lines)] == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(import_module(COMMANDS[name]).__doc__).startswith(f"`tidings {name}`")
    assert run([name, "--help"]) == 0
    assert f"Usage: tidings {name}" in capsys.readouterr().out


def test_an_unknown_command_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["frobnicate"]) == 2
    assert "No such command 'frobnicate'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (SettingsError("set it right"), 2, "tidings: set it right\n"),
        (Unavailable("the store does not answer"), 1, "tidings: the store does not answer\n"),
        (ExceptionGroup("several", [SettingsError("inside")]), 2, "tidings: inside\n"),
        (
            ZeroDivisionError("by zero"),
            1,
            f"tidings: something went wrong that should not have: ZeroDivisionError: by zero\n{REPORT_IT}",
        ),
    ],
)
def test_errors_are_sentences(
    error: Exception, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("tidings.cli.migrate.dsn_from", fail)
    assert run(["migrate"]) == code
    assert capsys.readouterr().err == text
    with pytest.raises(type(error)):
        run(["--debug", "migrate"])


def test_invalid_settings_end_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[http]\nport = 'many'\n")
    for command in (["up"], ["check"], ["migrate"], ["settings"], ["run", "--role", "api"], ["tenant", "list"]):
        assert run([*command, "--settings", str(file)]) == 2
        assert f"http.port (from {file}): Input should be a valid integer" in capsys.readouterr().err


def test_client_commands_say_when_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--data-dir", str(tmp_path)]
    for command in (["status", "ntf_x"], ["send", "--to", "demo", "--text", "hello"], ["key", "list"], ["migrate"]):
        assert run([*command, *here]) == 2
        assert f"nothing runs on the data folder {tmp_path}" in capsys.readouterr().err


def test_run_needs_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--role", "worker", "--data-dir", str(tmp_path)]) == 2
    assert "the command `run` needs a running PostgreSQL" in capsys.readouterr().err


def test_the_demo_writes_to_nobody_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tidings.toml"
    file.write_text(
        '[channels]\nemail = ["smtp"]\n[providers.smtp]\nhost = "mail.example.com"\nfrom_address = "a@example.com"\n'
    )
    folder = DataFolder(tmp_path / "data")
    assert run(["demo", "--data-dir", str(folder.path), "--settings", str(file)]) == 2
    assert "the demo needs the sandbox, but these channels are sent for real: email by smtp" in capsys.readouterr().err
    folder.prepare()
    with folder.mine():
        folder.announce(Running(1, "http://127.0.0.1:1", None, "postgresql://x", real=("sms by twilio",)))
        assert run(["demo", "--data-dir", str(folder.path)]) == 2
    assert "these channels are sent for real: sms by twilio" in capsys.readouterr().err
