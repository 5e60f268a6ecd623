"""Output for people: sentences, steps with their durations, and the error that ends a command."""

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
    """A command or a group of commands, in the style of all our commands; `options` are Typer's."""
    options = {"add_completion": False, **options}
    return typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, **options)


class CannotGoOn(TidingsError):
    """The command ends here. The text says why and what to do next; `code` is the exit code."""

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)
        self.code = code


def say(text: str = "") -> None:
    """Print a line on standard output at once. It is never wrapped, so that it can be copied."""
    print(text, flush=True)


def say_error(text: str) -> None:
    """Print a sentence on standard error. The commands in it can be pasted."""
    print(f"tidings: {as_called(text)}", file=sys.stderr, flush=True)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print the name of a step, and how long it took; in a terminal the name is there while the step runs."""
    began = time.monotonic()
    in_terminal = sys.stdout.isatty()
    if in_terminal:
        print(f"  {name} …", end="", flush=True)
    try:
        yield
    except BaseException:
        if in_terminal:
            print(flush=True)
        raise
    took = f"{time.monotonic() - began:5.1f} s"
    print(f"\r  {name:<44} {took}" if in_terminal else f"  {name:<44} {took}", flush=True)
