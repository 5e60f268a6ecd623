"""`tidings run`: one process, by role. `up` starts its children with it; larger installations start them themselves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Mapping
from io import BufferedReader
from typing import Annotated

import msgspec
import typer
import uvloop

from tidings import wiring
from tidings.cli import apart
from tidings.cli.child import READY
from tidings.cli.options import DataDir, SettingsFile, settings_from
from tidings.cli.plain import CannotGoOn, command_line, say
from tidings.config import Settings
from tidings.listening import Held, inherited, passed_socket
from tidings.model.duties import Duties, Duty
from tidings.model.vocabulary import Channel, Priority
from tidings.serving import Ready

app = command_line()


@app.command()
def run(
    role: Annotated[list[str], typer.Option("--role", help="api, worker, sandbox or all; may be given several times.")],
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
    fd: Annotated[
        int | None,
        typer.Option(help="A listening TCP socket that this process inherits, for the API (or LISTEN_FDS=1)."),
    ] = None,
    sandbox_fds: Annotated[tuple[int, int] | None, typer.Option("--sandbox-fds", hidden=True)] = None,
    lane: Annotated[
        list[Priority] | None,
        typer.Option("--lane", help="A lane that the worker routes and delivers. May be repeated. Default: all."),
    ] = None,
    channel: Annotated[
        list[Channel] | None,
        typer.Option("--channel", help="A channel that the worker delivers. May be repeated. Default: all."),
    ] = None,
    duty: Annotated[
        list[Duty] | None,
        typer.Option("--duty", help="A part of the flow that the worker does. May be repeated. Default: all."),
    ] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Run one role, or several in one process.

    It runs until SIGTERM, on a PostgreSQL that runs already, and prints a
    line `ready {"<role>": "<address>"}` for each role that is ready. Several
    API processes may share one socket with --fd: whoever holds it loses no
    connection when one of them is stopped, replaced or killed.

    A worker has two processes: the second is for the critical lane alone, so
    that nothing else takes its turns. With --duty, --channel or --lane there
    is one process, and it does what they name: for example, `--duty deliver
    --channel email` only sends mails. Every duty, with each of its channels
    and lanes, needs at least one worker somewhere.
    """
    roles = wiring.ROLES if "all" in role else frozenset(role)
    if fd is None and "api" in roles:
        fd = passed_socket()
    held = Held(
        api=None if fd is None else inherited(fd),
        sandbox=None if sandbox_fds is None else (inherited(sandbox_fds[0]), inherited(sandbox_fds[1])),
    )
    settings, ready = _of_the_parent() if supervised else _of_this_machine(settings_file, data_dir)
    if "worker" in roles and not (duty or channel or lane):
        uvloop.run(apart.run(settings, roles, ready, held))
    else:
        duties = Duties(frozenset(duty or Duty), frozenset(channel or Channel), frozenset(lane or Priority))
        uvloop.run(wiring.run(settings, roles, ready, held, duties))


def _of_the_parent() -> tuple[Settings, Ready]:
    """The settings that a supervising parent hands over on standard input, and how it is told what is ready."""
    line = socket.socket(fileno=os.dup(0))
    reader = line.makefile("rb")
    settings = Settings.model_validate_json(reader.readline())
    threading.Thread(
        target=_end_with_parent, args=(reader, settings.stop.kill_after), name="parent", daemon=True
    ).start()

    def ready(addresses: Mapping[str, str]) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, and this process ends for that
            line.sendall(_ready_line(addresses) + b"\n")

    return settings, ready


def _of_this_machine(settings_file: SettingsFile, data_dir: DataDir) -> tuple[Settings, Ready]:
    """The settings of the file and the environment; what is ready is printed. Raises CannotGoOn without a database."""
    settings = settings_from(settings_file, data_dir)
    if settings.database.dsn is None:
        raise CannotGoOn(
            "the command `run` needs a PostgreSQL that runs already: set database.dsn in the settings file or "
            "TIDINGS_DATABASE__DSN. `tidings up` brings its own."
        )

    def ready(addresses: Mapping[str, str]) -> None:
        say(_ready_line(addresses).decode())

    return settings, ready


def _ready_line(addresses: Mapping[str, str]) -> bytes:
    return READY + msgspec.json.encode(addresses)


def _end_with_parent(reader: BufferedReader, grace: float) -> None:
    """Wait until the parent's end of the line closes, then end this process: in good order, or else at once."""
    with contextlib.suppress(OSError):
        while reader.readline():
            continue
    # A process that stops in time is gone before the timer fires.
    timer = threading.Timer(grace, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), signal.SIGTERM)
