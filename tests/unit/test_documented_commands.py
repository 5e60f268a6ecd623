"""What README and the how-tos show can be pasted: settings load, JSON is JSON, commands and their options exist."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from tidings.cli.application import app
from tidings.config import load

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "reliability.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(tidings [a-z][^`]*)`")
STAND_INS = re.compile(r"…|<[^>]*>|\.\.\.")


def blocks(*kinds: str) -> list[tuple[str, str]]:
    return [(page.name, text) for page in PAGES for kind, text in FENCED.findall(page.read_text()) if kind in kinds]


def commands() -> list[tuple[str, str]]:
    lines = [
        (name, line.strip())
        for name, text in blocks("", "sh", "bash", "shell", "console")
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip().startswith("tidings ")
    ]
    return lines + [
        (page.name, command) for page in PAGES for command in INLINE.findall(FENCED.sub("", page.read_text()))
    ]


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_settings_that_are_shown_load(page: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "tidings.toml"
    file.write_text(text)
    assert set(tomllib.loads(text)) <= set(load(file, {}).model_fields_set)


@pytest.mark.parametrize(("page", "text"), blocks("json"))
def test_json_that_is_shown_is_json(page: str, text: str) -> None:
    assert isinstance(json.loads(STAND_INS.sub("", text)), dict | list)


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_that_are_shown_exist(page: str, line: str) -> None:
    words = shlex.split(line.partition(" #")[0].partition(" |")[0].replace("…", "x"))[1:]
    command: Any = typer.main.get_command(app)
    context = typer.Context(command, info_name="tidings")
    while hasattr(command, "get_command") and words and not words[0].startswith("-"):
        subcommand = command.get_command(context, words[0])
        if subcommand is None:
            assert not command.list_commands(context) or command.invoke_without_command, (page, line)
            break
        command, words = subcommand, words[1:]
        context = typer.Context(command, parent=context)
    known = {name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.partition("=")[0] for word in words if word.startswith("-") and word != "-"]
    assert set(given) <= known or command.context_settings.get("ignore_unknown_options"), (page, line)


def test_there_is_something_to_look_at() -> None:
    assert len(commands()) > 20
    assert blocks("toml")
