from __future__ import annotations

import shlex
import stat
from pathlib import Path
from typing import Protocol

import pytest

from tidings.cli import first_start, hints
from tidings.cli.application import run
from tidings.cli.first_start import greet
from tidings.cli.folder import DataFolder
from tidings.cli.hints import as_called, command, started_with
from tidings.config import Settings, load
from tidings.model.vocabulary import Channel


class Call(Protocol):
    def __call__(self, *arguments: str, program: str = ...) -> None: ...


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Sets this process's program name and arguments, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, program: str = ".venv/bin/tidings") -> None:
        monkeypatch.setattr("sys.argv", [program, *arguments])
        started_with(arguments)

    return call


@pytest.mark.parametrize(
    ("arguments", "words", "line"),
    [
        (["send", "--to", "demo"], "status ntf_1", "status ntf_1"),
        (["send", "--data-dir", "/tmp/x"], "status ntf_1", "status ntf_1 --data-dir /tmp/x"),
        (["send", "--data-dir=/tmp/x y"], "status ntf_1", "status ntf_1 --data-dir '/tmp/x y'"),
        (["send", "--url", "http://h:1", "--key", "tk_1"], "status ntf_1", "status ntf_1 --url http://h:1"),
        (["send", "--url", "http://h:1", "--settings", "a.toml"], "key create", "key create --settings a.toml"),
        (["up", "--data-dir", "a", "--data-dir", "b"], "check", "check --data-dir b"),
        (["settings", "--data-dir", "a"], "check --settings f", "check --settings f --data-dir a"),
        (["simulate", "--settings", "s.toml"], "simulate --seed 3", "simulate --seed 3 --settings s.toml"),
        (["send", "--data-dir"], "status", "status"),
    ],
)
def test_a_suggested_command_has_the_folder_and_settings_of_this_one(
    called: Call, arguments: list[str], words: str, line: str
) -> None:
    called(*arguments)
    assert command(words) == f".venv/bin/tidings {line}"


def test_the_program_is_named_so_that_it_can_be_called(
    called: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "bin dir" / "tidings"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    called(program=str(program))
    assert shlex.split(command("check")) == ["bin dir/tidings", "check"]
    monkeypatch.setenv("PATH", str(program.parent))
    assert command("check") == "tidings check"
    called(program="/x/tidings/cli/__main__.py")
    assert command("check").endswith(" -m tidings.cli check")


def test_commands_inside_an_error_can_be_pasted(called: Call, capsys: pytest.CaptureFixture[str]) -> None:
    called("status", "ntf_x", "--data-dir", "here")
    assert as_called("use `tidings up`, or `tidings key create`") == (
        "use `.venv/bin/tidings up --data-dir here`, or `.venv/bin/tidings key create --data-dir here`"
    )
    assert as_called("`tidings` and `up` and tidings up") == "`tidings` and `up` and tidings up"
    assert run(["status", "ntf_x", "--data-dir", "here"]) == 2
    assert "Start it with `.venv/bin/tidings up --data-dir here`" in capsys.readouterr().err


def test_the_example_never_replaces_a_file(called: Call, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    called()
    file = tmp_path / "tidings.toml"
    assert run(["settings", "--example", "--write", "tidings.toml"]) == 0
    assert capsys.readouterr().out == ("tidings.toml is written. Fill in a provider, then: .venv/bin/tidings check\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load(file, {}) == Settings()
    file.write_text("mine")
    assert run(["settings", "--example", "--write", "tidings.toml"]) == 2
    assert "tidings.toml exists already" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert run(["settings", "--write", "other.toml"]) == 2
    assert run(["settings", "--example", "--write", "no/such/folder.toml"]) == 2


def test_the_greeting_does_not_suggest_to_write_a_settings_file_that_exists(
    called: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    called("up")
    greet(Settings(), DataFolder(Path("tidings-data")), "tk_secret", 1.0)
    assert "settings --example --write tidings.toml" in capsys.readouterr().out
    Path("tidings.toml").write_text("")
    greet(Settings(), DataFolder(Path("tidings-data")), "tk_secret", 1.0)
    said = capsys.readouterr().out
    assert "--example" not in said
    assert ".venv/bin/tidings check " in said
    Path("tidings.toml").unlink()
    called("up", "--settings", "mine.toml")
    greet(Settings(), DataFolder(Path("tidings-data")), "tk_secret", 1.0)
    said = capsys.readouterr().out
    assert "--example" not in said
    assert "check --settings mine.toml" in said


def test_no_demo_is_offered_where_it_would_be_refused(
    called: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called("up")
    smtp = {"host": "mail.example.com", "from_address": "news@example.com"}
    real = Settings(channels={Channel.EMAIL: {"smtp": 1}}, providers={"smtp": smtp})
    greet(real, DataFolder(Path("tidings-data")), "tk_secret", 1.0)
    assert "demo     " not in capsys.readouterr().out
    monkeypatch.setattr(first_start, "find_spec", lambda _name: None)
    monkeypatch.setattr(hints, "checkout", lambda: None)
    greet(Settings(), DataFolder(Path("tidings-data")), "tk_secret", 1.0)
    said = capsys.readouterr().out
    assert "make demo" not in said
    assert "-m pip install faker && .venv/bin/tidings demo" in said
