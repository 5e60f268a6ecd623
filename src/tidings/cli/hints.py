"""Commands to suggest: as this program was called, on the folder and with the settings that it was given."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path

_PLACE = ("--settings", "--data-dir")
_API = (*_PLACE, "--url")
_ASK_THE_API = frozenset({"send", "status", "dead-letters", "replays", "accounting"})
_SETTINGS_ALONE = frozenset({"simulate"})
_arguments: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())
_QUOTED = re.compile(r"`tidings ([a-z][^`]*)`")


def started_with(arguments: Sequence[str]) -> None:
    """Remember what follows the program's name on the command line."""
    _arguments.set(tuple(arguments))


def has_settings_file() -> bool:
    """Whether this command was given a settings file."""
    return bool(_given(("--settings",)))


def command_name() -> str:
    """How the reader can call this program, for a shell: by its name where it is on the PATH, else by its path."""
    called = Path(sys.argv[0])
    if called.name != "tidings":
        return f"{shlex.quote(sys.executable)} -m tidings.cli"
    found = shutil.which("tidings")
    if found is not None and Path(found).resolve() == called.resolve():
        return "tidings"
    near = os.path.relpath(called)
    return shlex.quote(str(called.absolute()) if near.startswith("..") else near)


def command(words: str, *, data_dir: Path | None = None) -> str:
    """The command `tidings <words>` for a shell, on the same folder, settings and API as this one.

    `data_dir`: the folder to name, where this command was not given one and the next would not find it.
    """
    name = words.partition(" ")[0]
    wanted = _API if name in _ASK_THE_API else _PLACE[:1] if name in _SETTINGS_ALONE else _PLACE
    said = {word.partition("=")[0] for word in words.split()}
    given = _given([option for option in wanted if option not in said])
    if data_dir is not None and "--data-dir" not in said.union(given):
        given += ["--data-dir", str(data_dir)]
    return " ".join([command_name(), words, *map(shlex.quote, given)])


def as_called(text: str) -> str:
    """The text with each `tidings …` in backticks as the command that the reader can paste."""
    return _QUOTED.sub(lambda found: f"`{command(found[1])}`", text)


def demo_command(data_dir: Path | None, *, installed: bool) -> str:
    """The command that runs the demo, and brings the name generator that it needs where it is not `installed`."""
    if installed:
        return command("demo", data_dir=data_dir)
    root = checkout()
    if root is None or shutil.which("make") is None:
        return f"{shlex.quote(sys.executable)} -m pip install faker && {command('demo', data_dir=data_dir)}"
    where = "" if Path.cwd() == root else f" -C {shlex.quote(str(root))}"
    given = [str(Path(word).absolute()) if place % 2 else word for place, word in enumerate(_given(_PLACE))]
    if data_dir is not None and "--data-dir" not in given:
        given += ["--data-dir", str(data_dir)]
    return f"make{where} demo" + (f" ARGS={shlex.quote(shlex.join(given))}" if given else "")


def checkout() -> Path | None:
    """The clone of the repository that this program runs from; None where it was installed as a package."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "Makefile").is_file() and (root / "pyproject.toml").is_file() else None


def _given(options: Sequence[str]) -> list[str]:
    """Those of the options that this command was given, each followed by its value; the last one of a kind holds."""
    found: dict[str, str] = {}
    arguments = _arguments.get()
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name not in options:
            continue
        if equals:
            found[name] = value
        elif place + 1 < len(arguments):
            found[name] = arguments[place + 1]
    return [word for pair in found.items() for word in pair]
