"""`tidings run`: one process with one or more roles. `up` and the operators of larger systems start it."""

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
from tidings.listening import Held, Ready, inherited, passed_socket
from tidings.model.duties import Duties, Duty
from tidings.model.vocabulary import Channel, Priority

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
        typer.Option("--lane", help="A lane that the worker serves; may be given several times [all]."),
    ] = None,
    channel: Annotated[
        list[Channel] | None,
        typer.Option("--channel", help="A channel that the worker delivers; may be given several times [all]."),
    ] = None,
    duty: Annotated[
        list[Duty] | None,
        typer.Option("--duty", help="A part of the flow that the worker does; may be given several times [all]."),
    ] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Run one role, or several in one process.

    It runs until SIGTERM and needs a running PostgreSQL. For each role that is
    ready it prints a line `ready {"<role>": "<address>"}`. Several API
    processes may share one socket with --fd: then no connection is lost when
    one of them is stopped, replaced or killed.

    A worker starts a second process for the critical lane, so that other work
    cannot delay it. With --duty, --channel or --lane there is one process, and
    it does only what they name: `--duty deliver --channel email` only sends
    mails, for example. Every duty, with each of its channels and lanes, needs
    at least one worker.
    """
    roles = frozenset(wiring.ROLES) if "all" in role else frozenset(role)
    if fd is None and "api" in roles:
        fd = passed_socket()
    held = Held(
        api=None if fd is None else inherited(fd),
        sandbox=None if sandbox_fds is None else (inherited(sandbox_fds[0]), inherited(sandbox_fds[1])),
    )
    settings, ready = _from_parent() if supervised else _without_parent(settings_file, data_dir)
    if "worker" in roles and not (duty or channel or lane):
        uvloop.run(apart.run(settings, roles, ready, held))
    else:
        duties = Duties(frozenset(duty or Duty), frozenset(channel or Channel), frozenset(lane or Priority))
        uvloop.run(wiring.run(settings, roles, ready, held, duties))


def _from_parent() -> tuple[Settings, Ready]:
    """The settings that the parent writes into standard input, and a `ready` that reports to the parent."""
    line = socket.socket(fileno=os.dup(0))
    reader = line.makefile("rb")
    settings = Settings.model_validate_json(reader.readline())
    threading.Thread(
        target=_end_with_parent, args=(reader, settings.stop.kill_after), name="parent", daemon=True
    ).start()

    def ready(addresses: Mapping[str, str]) -> None:
        with contextlib.suppress(OSError):  # the parent is gone; `_end_with_parent` ends this process
            line.sendall(_ready_line(addresses) + b"\n")

    return settings, ready


def _without_parent(settings_file: SettingsFile, data_dir: DataDir) -> tuple[Settings, Ready]:
    """The settings from the file and the environment, and a `ready` that prints. Raises CannotGoOn without a DSN."""
    settings = settings_from(settings_file, data_dir)
    if settings.database.dsn is None:
        raise CannotGoOn(
            "the command `run` needs a running PostgreSQL: set database.dsn in the settings file or "
            "TIDINGS_DATABASE__DSN. `tidings up` starts its own."
        )

    def ready(addresses: Mapping[str, str]) -> None:
        say(_ready_line(addresses).decode())

    return settings, ready


def _ready_line(addresses: Mapping[str, str]) -> bytes:
    return READY + msgspec.json.encode(addresses)


def _end_with_parent(reader: BufferedReader, grace_s: float) -> None:
    """When the parent closes the socket, terminate this process, and kill it if it runs on for `grace_s`."""
    with contextlib.suppress(OSError):
        while reader.readline():
            continue
    # If the process stops in time, the timer never fires.
    timer = threading.Timer(grace_s, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), signal.SIGTERM)
