"""`tidings run`: one process with one or more roles. `up` and the operators of larger systems start it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterable, Mapping
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
from tidings.model.duties import WORKER, Duties, Duty, duties_of

app = command_line()


@app.command()
def run(
    role: Annotated[
        list[str],
        typer.Option("--role", help="What the process runs: names with commas between them, as told above."),
    ],
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
    fd: Annotated[
        int | None,
        typer.Option(help="A listening TCP socket that this process inherits, for the API (or LISTEN_FDS=1)."),
    ] = None,
    operations: Annotated[
        int | None,
        typer.Option(help="The port of /healthz, /readyz and /metrics [operations.port, or the API's port]."),
    ] = None,
    sandbox_fds: Annotated[tuple[int, int] | None, typer.Option("--sandbox-fds", hidden=True)] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Run one role, or several in one process.

    \b
    Roles:
      api       answers HTTP
      worker    does the whole flow; starts a second process for the
                critical lane, so that other work cannot delay it
      sandbox   stands in for the vendors
      all       all three

    Parts of the worker, for processes that do only these:

    \b
      route     decides who gets what; `route:critical` for one lane
      deliver   calls the vendors; `deliver:email` for one channel,
                `deliver:critical` for one lane, `deliver:sms:bulk` for both
      record    writes the history
      schedule  puts back what waited for its time
      rounds    audit, canary, retention and housekeeping

    Each part, with each of its channels and lanes, needs at least one process:
    `tidings run --role route,record,schedule,rounds` on one machine and
    `tidings run --role deliver` on others, for example.

    It runs until SIGTERM and needs a running PostgreSQL. For each role that is
    ready it prints a line `ready {"<role>": "<address>"}`. Several API
    processes may share one socket with --fd: then no connection is lost when
    one of them is stopped, replaced or killed.
    """  # noqa: D301 - the command line wants the character for backspace: it keeps lines as they are
    roles, duties = _roles_of(role)
    if fd is None and "api" in roles:
        fd = passed_socket()
    held = Held(
        api=None if fd is None else inherited(fd),
        sandbox=None if sandbox_fds is None else (inherited(sandbox_fds[0]), inherited(sandbox_fds[1])),
    )
    settings, ready = _from_parent() if supervised else _without_parent(settings_file, data_dir)
    settings, watched = _watched(settings, operations), operations is not None
    if duties is None:
        uvloop.run(apart.run(settings, roles, ready, held, operations=watched))
    else:
        uvloop.run(wiring.run(settings, roles, ready, held, duties, operations=watched))


def _watched(settings: Settings, port: int | None) -> Settings:
    """The settings with this port for the operations, if there is one."""
    if port is None:
        return settings
    return settings.model_copy(update={"operations": settings.operations.model_copy(update={"port": port})})


def _roles_of(given: Iterable[str]) -> tuple[frozenset[str], Duties | None]:
    """The roles of the process, and the duties of its worker; None for a whole worker. Raises CannotGoOn."""
    names = {name.strip() for words in given for name in words.split(",")} - {""}
    if "all" in names:
        return frozenset(wiring.ROLES), None
    roles = frozenset(names & wiring.ROLES.keys())
    parts = names - roles
    try:
        duties = duties_of(parts)
    except ValueError as error:
        choices = ", ".join(["all", *wiring.ROLES, *Duty])
        raise CannotGoOn(f"--role: {error}. There are {choices}; see `tidings run --help`.") from error
    if not names:
        raise CannotGoOn("--role: name at least one role; see `tidings run --help`.")
    return (roles, None) if WORKER in roles else (roles | {WORKER} if parts else roles, duties)


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
