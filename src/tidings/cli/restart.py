"""`tidings restart`: new processes for what `tidings up` runs, without a request that fails."""

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

_LOOK_EVERY = 0.05
_WITHIN = 600.0


@app.command()
def restart(
    roles: Annotated[list[str] | None, typer.Argument(help="worker, api, sandbox; without any, all of them.")] = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Replace the running processes one by one, without a failed request.

    After an upgrade, or for processes that misbehave: worker and API are
    started anew beside the old ones, which then finish what is under way; the
    sandbox comes last. Changed settings need `tidings up` itself to be started
    anew.
    """
    folder = DataFolder(settings_from(settings_file, data_dir).data_dir)
    running = folder.running()
    if running is None:
        raise CannotGoOn(f"nothing runs on the data folder {folder.path}; start it with `tidings up`")
    if running.restarts is None:
        raise CannotGoOn(
            f"the `tidings up` that runs (process {running.pid}) is of a version that cannot restart: stop it with "
            "Ctrl-C, and start it again"
        )
    wanted = roles or []
    if unknown := set(wanted) - set(running.children):
        raise CannotGoOn(f"{', '.join(sorted(unknown))} does not run here; {', '.join(sorted(running.children))} do")
    # What runs now suits the first half of the new schema; the second half has to wait until it is gone.
    with step("Schema, before"):
        asyncio.run(migrate(running.dsn, ("pre",)))
    folder.ask_for(wanted)
    os.kill(running.pid, SIGNAL)
    _follow(folder, running.restarts + (1 if not running.restarting else 2))
    if wanted:
        say(f"Runs anew: {', '.join(wanted)}.")
        return
    with step("Schema, after"):
        asyncio.run(migrate(running.dsn))
    say("Everything runs anew.")


def _follow(folder: DataFolder, count: int) -> None:
    """Show each step until `count` restarts have ended. Raises CannotGoOn when one failed, or took too long."""
    end = time.monotonic() + _WITHIN
    role = ""
    while (now := _look(folder)).restarts != count:
        if now.restarting and now.restarting != role:
            role = now.restarting
            with step(role):
                while (now := _look(folder)).restarting == role and now.restarts != count:
                    _pause(end)
        _pause(end)
    if now.failure:
        raise CannotGoOn(f"the restart was given up: {now.failure}", 1)


def _look(folder: DataFolder) -> Running:
    running = folder.running()
    if running is None:
        raise CannotGoOn("`tidings up` has ended meanwhile; it says why on its own terminal", 1)
    return running


def _pause(end: float) -> None:
    if time.monotonic() > end:
        raise CannotGoOn(f"the restart has not ended after {_WITHIN:.0f} s; look at the terminal of `tidings up`", 1)
    time.sleep(_LOOK_EVERY)
