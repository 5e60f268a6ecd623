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
from tidings.model.vocabulary import Priority
from tidings.working import LANES

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
        typer.Option("--lane", help="What a worker routes and delivers; may be given several times. Default: all."),
    ] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Run one role, or several in one process.

    It runs until SIGTERM, on a PostgreSQL that runs already, and prints a
    line `ready {"<role>": "<address>"}` for each role that is ready. Several
    API processes may share one socket with --fd: whoever holds it loses no
    connection when one of them is stopped, replaced or killed.

    A worker has two processes: the second is for the critical lane alone, so
    that nothing else takes its turns. With --lane there is one, for the lanes
    that are named. Every lane needs a worker; one with `--lane critical` alone
    records and schedules nothing.
    """
    roles = wiring.ROLES if "all" in role else frozenset(role)
    if fd is None and "api" in roles:
        fd = passed_socket()
    held = Held(
        api=None if fd is None else inherited(fd),
        sandbox=None if sandbox_fds is None else (inherited(sandbox_fds[0]), inherited(sandbox_fds[1])),
    )
    if supervised:
        line = socket.socket(fileno=os.dup(0))
        reader = line.makefile("rb")
        settings = Settings.model_validate_json(reader.readline())
        threading.Thread(
            target=_end_with_parent, args=(reader, settings.stop.kill_after), name="parent", daemon=True
        ).start()

        def ready(addresses: Mapping[str, str]) -> None:
            with contextlib.suppress(OSError):  # the parent is gone, and this process ends for that
                line.sendall(_ready_line(addresses) + b"\n")
    else:
        settings = settings_from(settings_file, data_dir)
        if settings.database.dsn is None:
            raise CannotGoOn(
                "the command `run` needs a PostgreSQL that runs already: set database.dsn in the settings file or "
                "TIDINGS_DATABASE__DSN. `tidings up` brings its own."
            )

        def ready(addresses: Mapping[str, str]) -> None:
            say(_ready_line(addresses).decode())

    if "worker" in roles and not lane:
        uvloop.run(apart.run(settings, roles, ready, held))
    else:
        uvloop.run(wiring.run(settings, roles, ready, held, frozenset(lane or LANES)))


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
