"""`tidings migrate`: bring a database's schema up to date. `up` does it by itself."""

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
    """When migrations run in a rolling deploy."""

    PRE = "pre"
    POST = "post"


@app.command()
def migrate(
    phase: Annotated[
        Phase | None,
        typer.Option(help="pre: before new code serves; post: when no old code is left. Without it, both."),
    ] = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Bring the database's schema up to date.

    It is safe to run at any time, and twice.
    """
    phases = PHASES if phase is None else (phase.value,)
    applied = asyncio.run(apply(dsn_from(settings_file, data_dir), phases))
    say("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")
