"""`tidings restart`: replaces the processes of `tidings up`, without a failed request."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Annotated

import typer

from tidings.backends.postgres.migrate import migrate
from tidings.cli.folder import DataFolder, Running
from tidings.cli.options import DataDir, SettingsFile, settings_from
from tidings.cli.plain import CannotGoOn, command_line, say, step
from tidings.cli.restarting import SIGNAL

app = command_line()

_LOOK_EVERY_S = 0.05
_WITHIN_S = 600.0


@app.command()
def restart(
    roles: Annotated[list[str] | None, typer.Argument(help="worker, api, sandbox [all of them].")] = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Replace the running processes one by one, without a failed request.

    Use it after an upgrade, or if a process misbehaves. New worker and API
    processes start beside the old ones, which then finish their work; the
    sandbox is replaced last. New settings take effect only when `tidings up`
    itself is started again.
    """
    folder = DataFolder(settings_from(settings_file, data_dir).data_dir)
    running = folder.running()
    if running is None:
        raise CannotGoOn(f"nothing runs on the data folder {folder.path}; start it with `tidings up`")
    if running.restarts is None:
        raise CannotGoOn(
            f"the running `tidings up` (process {running.pid}) is of a version that cannot restart: stop it with "
            "Ctrl-C, and start it again"
        )
    chosen = roles or []
    if unknown := set(chosen) - set(running.children):
        raise CannotGoOn(f"{', '.join(sorted(unknown))} does not run here; {', '.join(sorted(running.children))} do")
    # The old processes work with the `pre` migrations; the `post` migrations must wait until these processes are gone.
    with step("Schema, before"):
        asyncio.run(migrate(running.dsn, ("pre",)))
    folder.request_restart(chosen)
    os.kill(running.pid, SIGNAL)
    _follow(folder, running.restarts + (1 if not running.restarting else 2))
    if chosen:
        say(f"Replaced: {', '.join(chosen)}.")
        return
    with step("Schema, after"):
        asyncio.run(migrate(running.dsn))
    say("All processes are replaced.")


def _follow(folder: DataFolder, count: int) -> None:
    """Show each step until `count` restarts have ended. Raises CannotGoOn if one failed or took too long."""
    deadline = time.monotonic() + _WITHIN_S
    role = ""
    while (running := _running(folder)).restarts != count:
        if running.restarting and running.restarting != role:
            role = running.restarting
            with step(role):
                while (running := _running(folder)).restarting == role and running.restarts != count:
                    _pause(deadline)
        _pause(deadline)
    if running.failure:
        raise CannotGoOn(f"the restart was given up: {running.failure}", 1)


def _running(folder: DataFolder) -> Running:
    running = folder.running()
    if running is None:
        raise CannotGoOn("`tidings up` has ended meanwhile; its own terminal says why", 1)
    return running


def _pause(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise CannotGoOn(f"the restart has not ended after {_WITHIN_S:.0f} s; look at the terminal of `tidings up`", 1)
    time.sleep(_LOOK_EVERY_S)
