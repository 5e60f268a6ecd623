"""Plain sentences for people: steps, warnings and the errors that end a command."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from tidings.model.errors import TidingsError


def command_line(**options: Any) -> typer.Typer:
    """A command, or a group of them, that looks like all others; `options` are Typer's."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **options)


class CannotGoOn(TidingsError):
    """The command ends here; the text says why and what to do next. `code` is the exit code."""

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)
        self.code = code


def say(text: str = "") -> None:
    """A line on standard output, at once. Never wrapped: what is printed can be copied."""
    print(text, flush=True)


def say_error(text: str) -> None:
    """A sentence on standard error."""
    print(f"tidings: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """A step that takes a while: its name while it runs, then how long it took (on one line in a terminal)."""
    began = time.monotonic()
    live = sys.stdout.isatty()
    if live:
        print(f"  {what} …", end="", flush=True)
    try:
        yield
    except BaseException:
        if live:
            print(flush=True)
        raise
    took = f"{time.monotonic() - began:5.1f} s"
    print(f"\r  {what:<44} {took}" if live else f"  {what:<44} {took}", flush=True)


def command_name() -> str:
    """How the reader can call this program: by its name where it is on the PATH, else by its path."""
    called = Path(sys.argv[0])
    if called.name != "tidings":
        return f"{sys.executable} -m tidings.cli"
    found = shutil.which("tidings")
    if found is not None and Path(found).resolve() == called.resolve():
        return "tidings"
    near = os.path.relpath(called)
    return str(called.absolute()) if near.startswith("..") else near


def with_faker(options: str) -> str:
    """The command that runs the demo and brings the name generator that it needs, as this program was installed."""
    root = checkout()
    if root is None:
        return f"{shlex.quote(sys.executable)} -m pip install faker && {command_name()} demo{options}"
    where = "" if Path.cwd() == root else f" -C {shlex.quote(str(root))}"
    return f"make{where} demo" + (f" ARGS={shlex.quote(options.strip())}" if options else "")


def checkout() -> Path | None:
    """The clone of the repository that this program runs from; None where it was installed as a package."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "Makefile").is_file() and (root / "pyproject.toml").is_file() else None
