"""Commands to suggest: they call this program as the user did, with the same data folder and settings."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path

_FOLDER_OPTIONS = ("--settings", "--data-dir")
_API_OPTIONS = (*_FOLDER_OPTIONS, "--url")
_API_COMMANDS = frozenset({"send", "status", "dead-letters", "replays", "accounting"})
_SETTINGS_COMMANDS = frozenset({"simulate"})
"""Commands that take --settings and not --data-dir."""
_arguments: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())
_QUOTED = re.compile(r"`tidings ([a-z][^`]*)`")


def started_with(arguments: Sequence[str]) -> None:
    """Remember the arguments of this command."""
    _arguments.set(tuple(arguments))


def has_settings_file() -> bool:
    """Whether this command was given a settings file."""
    return bool(_given(("--settings",)))


def command_name() -> str:
    """This program, for a shell: its name if that finds it on the PATH, else its path."""
    program = Path(sys.argv[0])
    if program.name != "tidings":
        return f"{shlex.quote(sys.executable)} -m tidings.cli"
    on_path = shutil.which("tidings")
    if on_path is not None and Path(on_path).resolve() == program.resolve():
        return "tidings"
    relative = os.path.relpath(program)
    return shlex.quote(str(program.absolute()) if relative.startswith("..") else relative)


def command(words: str, *, data_dir: Path | None = None) -> str:
    """The command `tidings <words>` for a shell, on the same folder, settings and API as this command.

    `data_dir` is named if this command was not given a folder and the suggested one would not find it.
    """
    name = words.partition(" ")[0]
    options: Sequence[str] = _FOLDER_OPTIONS
    if name in _API_COMMANDS:
        options = _API_OPTIONS
    elif name in _SETTINGS_COMMANDS:
        options = _FOLDER_OPTIONS[:1]
    in_words = {word.partition("=")[0] for word in words.split()}
    given = _given([option for option in options if option not in in_words])
    if data_dir is not None and "--data-dir" not in in_words.union(given):
        given += ["--data-dir", str(data_dir)]
    return " ".join([command_name(), words, *map(shlex.quote, given)])


def as_called(text: str) -> str:
    """The text, with each `tidings …` in backticks turned into a command that can be pasted."""
    return _QUOTED.sub(lambda match: f"`{command(match[1])}`", text)


def demo_command(data_dir: Path | None, *, installed: bool) -> str:
    """The command that runs the demo; unless its name generator is `installed`, the command installs it first."""
    if installed:
        return command("demo", data_dir=data_dir)
    root = checkout()
    if root is None or shutil.which("make") is None:
        return f"{shlex.quote(sys.executable)} -m pip install faker && {command('demo', data_dir=data_dir)}"
    where = "" if Path.cwd() == root else f" -C {shlex.quote(str(root))}"
    # Options stand at even places, their values, which are paths, at odd ones.
    words = enumerate(_given(_FOLDER_OPTIONS))
    given = [str(Path(word).absolute()) if place % 2 else word for place, word in words]
    if data_dir is not None and "--data-dir" not in given:
        given += ["--data-dir", str(data_dir)]
    return f"make{where} demo" + (f" ARGS={shlex.quote(shlex.join(given))}" if given else "")


def checkout() -> Path | None:
    """The clone of the repository that this program runs from; None if it was installed as a package."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "Makefile").is_file() and (root / "pyproject.toml").is_file() else None


def _given(options: Sequence[str]) -> list[str]:
    """The given ones of these options, each followed by its value. Of a repeated option the last value counts."""
    values: dict[str, str] = {}
    arguments = _arguments.get()
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name not in options:
            continue
        if equals:
            values[name] = value
        elif index + 1 < len(arguments):
            values[name] = arguments[index + 1]
    return [word for pair in values.items() for word in pair]
