"""Plain sentences for people: steps, warnings and the errors that end a command."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from tidings.cli.hints import as_called
from tidings.model.errors import TidingsError


def command_line(**options: Any) -> typer.Typer:
    """A command, or a group of them, that looks like all others; `options` are Typer's."""
    options = {"add_completion": False, **options}
    return typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, **options)


class CannotGoOn(TidingsError):
    """The command ends here; the text says why and what to do next. `code` is the exit code."""

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)
        self.code = code


def say(text: str = "") -> None:
    """A line on standard output, at once. Never wrapped: what is printed can be copied."""
    print(text, flush=True)


def say_error(text: str) -> None:
    """A sentence on standard error; the commands in it can be pasted."""
    print(f"tidings: {as_called(text)}", file=sys.stderr, flush=True)


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
