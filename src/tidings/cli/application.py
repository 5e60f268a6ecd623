"""The program `tidings`: finds a command's module, runs it, and turns every error into a plain sentence."""

from __future__ import annotations

import os
import sys
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tidings.cli.hints import started_with
from tidings.cli.plain import CannotGoOn, command_line, say_error
from tidings.model.errors import SettingsError, TidingsError
from tidings.telemetry.redaction import described

COMMANDS = {
    "up": "tidings.cli.up",
    "restart": "tidings.cli.restart",
    "run": "tidings.cli.run",
    "send": "tidings.cli.send",
    "status": "tidings.cli.status",
    "dead-letters": "tidings.cli.dead_letters",
    "replays": "tidings.cli.replays",
    "accounting": "tidings.cli.accounting",
    "archive": "tidings.cli.archive",
    "check": "tidings.cli.check",
    "providers": "tidings.cli.providers",
    "settings": "tidings.cli.settings",
    "migrate": "tidings.cli.migrate",
    "tenant": "tidings.cli.tenant",
    "key": "tidings.cli.key",
    "demo": "tidings.cli.demo",
    "simulate": "tidings.cli.simulate",
    "bench": "tidings.cli.bench",
}
"""Each command's module, in the order of the help; the module's `app` is the command."""


class Commands(TyperGroup):
    """Imports a command's module only when that command runs, so that no command waits for the others' imports."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command called `cmd_name`; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        return typer.main.get_command(import_module(COMMANDS[cmd_name]).app)


_UMASK = 0o077
"""New files are 0600 and new folders 0700: they hold addresses, contents and secrets."""

app = command_line(cls=Commands, no_args_is_help=True, add_completion=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tidings {metadata.version('tidings')}")
        raise typer.Exit


@app.callback()
def tidings(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
) -> None:
    """One API call, every channel, every notification accounted for."""


def main() -> None:
    """Run the command line and exit: 0 for success, 2 for errors in the command line or the settings, 1 for others."""
    os.umask(_UMASK)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    started_with(arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        app(arguments, prog_name="tidings")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception as error:
        if debug:
            raise
        return _explain(error)
    return 0


def _explain(error: Exception) -> int:
    """Say the error in a sentence; the exit code."""
    if isinstance(error, BaseExceptionGroup):
        inner: BaseException = error
        while isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        if isinstance(inner, Exception):
            error = inner
    if isinstance(error, CannotGoOn):
        say_error(str(error))
        return error.code
    if isinstance(error, TidingsError):
        say_error(str(error))
        return 2 if isinstance(error, SettingsError) else 1
    say_error(
        f"something went wrong that should not have: {described(error)}\n"
        "Run the same command with --debug to see where, and report the error with that output."
    )
    return 1
