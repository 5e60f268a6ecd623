"""`tidings archive`: the archived days, and single notifications from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich import box
from rich.table import Table

from tidings.backends.objects.folder import Folder
from tidings.backends.parquet.files import ParquetFiles
from tidings.backends.postgres.store import PostgresStore
from tidings.cli.options import AsJson, DataDir, SettingsFile, settings_from
from tidings.cli.plain import CannotGoOn, command_line, say
from tidings.cli.tables import console
from tidings.cli.tenants import dsn_from
from tidings.cli.timeline import render
from tidings.cli.times import local
from tidings.model.days import ArchivedDay, day_of, day_text
from tidings.model.ids import NOTIFICATION_PREFIX, from_text
from tidings.ports.days import EVENTS, NOTIFICATIONS
from tidings.report.archive import Archive
from tidings.report.notifications import view

app = command_line(
    help="Read the archive: days older than the setting retention.days, as Parquet files in the object store.\n\n"
    "Both commands read the database and the object store; they need no API.",
    no_args_is_help=True,
)

_CONNECTIONS = 2


@app.command(name="list")
def list_(as_json: AsJson = False, settings_file: SettingsFile = None, data_dir: DataDir = None) -> None:
    """List the days in the archive, oldest first."""
    days = [_described(day) for day in asyncio.run(_days(settings_file, data_dir))]
    if as_json:
        say(msgspec.json.format(msgspec.json.encode(days)).decode())
        return
    if not days:
        say("nothing has been archived")
        return
    console().print(_table(days), highlight=False)
    say(f"The files are under archive/ in {settings_from(settings_file, data_dir).data_dir / 'objects'}.")


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="The notification's id, ntf_….")],
    tenant: Annotated[
        str | None, typer.Option(help="Search only this tenant's notifications: faster if there are many tenants.")
    ] = None,
    as_json: AsJson = False,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Show an archived notification, like `tidings status` shows others."""
    notification = asyncio.run(_notification(id, tenant, settings_file, data_dir))
    if as_json:
        say(msgspec.json.format(msgspec.json.encode(notification)).decode())
        return
    for line in render(notification):
        typer.echo(line)


async def _days(settings_file: Path | None, data_dir: Path | None) -> Sequence[ArchivedDay]:
    async with _opened(settings_file, data_dir) as (_, archive):
        return await archive.list()


async def _notification(
    id: str, tenant: str | None, settings_file: Path | None, data_dir: Path | None
) -> Mapping[str, Any]:
    """The notification as the API would show it. Raises CannotGoOn if it is not in the archive."""
    notification_id = from_text(NOTIFICATION_PREFIX, id)
    day = day_of(notification_id)
    async with _opened(settings_file, data_dir) as (store, archive):
        record = await archive.find(notification_id, tenant)
        if record is None:
            if await store.history.get_many([notification_id]):
                raise CannotGoOn(f"{id} is not archived: it is in the database; see `tidings status {id}`", 1)
            if not any(state.archived for state in await store.days.states(day, day)):
                raise CannotGoOn(f"there is no {id}, and {day_text(day)} is not archived", 1)
            whose = "" if tenant is None else f" of {tenant}"
            raise CannotGoOn(f"there is no notification {id}{whose} in the archive of {day_text(day)}", 1)
    notification: Mapping[str, Any] = msgspec.json.decode(msgspec.json.encode(view(record)))
    return notification


@asynccontextmanager
async def _opened(settings_file: Path | None, data_dir: Path | None) -> AsyncIterator[tuple[PostgresStore, Archive]]:
    settings = settings_from(settings_file, data_dir)
    store = await PostgresStore.open(dsn_from(settings_file, data_dir), _CONNECTIONS)
    try:
        yield store, Archive(store.days, Folder(settings.data_dir / "objects"), ParquetFiles())
    finally:
        await store.close()


def _described(day: ArchivedDay) -> dict[str, Any]:
    rows = {kind: sum(part.rows for part in day.parts if part.kind == kind) for kind in (NOTIFICATIONS, EVENTS)}
    return {
        "day": day_text(day.day),
        "archived_at": local(day.archived_at),
        **rows,
        "bytes": sum(part.bytes for part in day.parts),
        "objects": [part.name for part in day.parts],
    }


def _table(days: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("day", "archived", box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("notifications", "events", "objects", "MB"):
        table.add_column(name, justify="right")
    for day in days:
        table.add_row(
            day["day"],
            day["archived_at"],
            f"{day[NOTIFICATIONS]:,}",
            f"{day[EVENTS]:,}",
            f"{len(day['objects']):,}",
            f"{day['bytes'] / 1e6:,.1f}",
        )
    return table
