"""`tidings migrate`: brings a database's schema up to date. `tidings up` does so itself."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from tidings.backends.postgres.migrate import PHASES
from tidings.backends.postgres.migrate import migrate as apply
from tidings.cli.options import DataDir, SettingsFile
from tidings.cli.plain import command_line, say
from tidings.cli.tenants import dsn_from

app = command_line()


class Phase(StrEnum):
    """The phase of a rolling deploy in which migrations run."""

    PRE = "pre"
    POST = "post"


@app.command()
def migrate(
    phase: Annotated[
        Phase | None,
        typer.Option(help="pre: before new processes start; post: when all old processes have ended [both]."),
    ] = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Bring the database's schema up to date.

    It is safe to run this at any time, and repeatedly.
    """
    phases = PHASES if phase is None else (phase.value,)
    applied = asyncio.run(apply(dsn_from(settings_file, data_dir), phases))
    say("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")
