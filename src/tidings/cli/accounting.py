"""`tidings accounting`: how many notifications were accepted, in which states they are, and how many are missing."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from pyreqwest.client import SyncClientBuilder
from pyreqwest.exceptions import PyreqwestError

from tidings.backends.memory.clock import SystemClock
from tidings.backends.postgres.store import PostgresStore
from tidings.cli.client import connect
from tidings.cli.folder import DataFolder
from tidings.cli.options import AsJson, DataDir, Key, SettingsFile, Url, settings_from
from tidings.cli.plain import CannotGoOn, command_line, say
from tidings.cli.tables import Column, print_table
from tidings.cli.tenants import dsn_from
from tidings.cli.times import duration, moment
from tidings.model.tenant import CANARY_TENANT
from tidings.report.accounting import Accounting, AccountView, Resting

app = command_line()

_RESTING = Resting.__struct_fields__
_SERIES = re.compile(r"^(tidings_(?:stuck|swept_total|canary_\w+|audit_\w+)(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)
_METRICS_WITHIN = timedelta(seconds=5)

Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Accepted at or after this time (2026-01-31 or RFC 3339) [24 hours ago]."),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Accepted before this time [now].")]


@app.command()
def accounting(
    since: Since = None,
    until: Until = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="All tenants, and the system's health; reads the database, not the API.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Show in which states all accepted notifications are, and whether any is missing.

    The exit code is 1 if something is missing.
    """
    if everyone:
        accounts = asyncio.run(_accounts_of_all(dsn_from(settings_file, data_dir), _instant(since), _instant(until)))
    else:
        query = {name: text for name, text in (("since", since), ("until", until)) if text is not None}
        with connect(url, key, settings_file, data_dir) as api:
            accounts = [api.call("GET", "/v1/accounting", query=query)]
    if as_json:
        say(msgspec.json.format(msgspec.json.encode(accounts if everyone else accounts[0])).decode())
    else:
        _print_notifications(accounts)
        if not everyone:
            _print_deliveries(accounts[0]["deliveries"])
        else:
            for line in _health(settings_file, data_dir):
                say(line)
        say(verdict(accounts))
    if not all(account["notifications"]["balanced"] for account in accounts):
        raise typer.Exit(1)


def verdict(accounts: Sequence[Mapping[str, Any]]) -> str:
    """Whether the sums close, in a sentence."""
    missing = sum(account["notifications"]["missing"] for account in accounts)
    if missing:
        return (
            f"{missing:,} accepted notifications are MISSING: neither recorded nor queued. docs/how-to/operate.md says "
            "what to do."
        )
    accepted = sum(account["notifications"]["accepted"] for account in accounts)
    in_flight = sum(account["notifications"]["in_flight"]["total"] for account in accounts)
    return f"The sums close: {accepted:,} accepted, {in_flight:,} of them in flight, none missing."


def _print_notifications(accounts: Sequence[Mapping[str, Any]]) -> None:
    first = accounts[0] if accounts else {"since": "1970-01-01T00:00Z", "until": "1970-01-01T00:00Z"}
    title = f"Notifications, {moment(first['since']):%Y-%m-%d %H:%M} to {moment(first['until']):%Y-%m-%d %H:%M}"
    columns = ["accepted", *_RESTING, "queued", "pending", "deferred", "missing"]
    rows = {account["tenant"]: _cells(account["notifications"]) for account in accounts}
    shown = [name for name in columns if name in {"accepted", "missing"} or any(row[name] for row in rows.values())]
    numbers = [Column(f"= {name}" if name == shown[1] else name, is_number=True) for name in shown]
    own = [cells for tenant, cells in rows.items() if tenant != CANARY_TENANT]
    total = ["without the canary", *(f"{sum(cells[name] for cells in own):,}" for name in shown)]
    print_table(
        [Column("tenant"), *numbers],
        [[tenant, *(f"{cells[name]:,}" for name in shown)] for tenant, cells in rows.items()],
        title,
        total if len(rows) > 1 else None,
    )


def _cells(account: Mapping[str, Any]) -> dict[str, int]:
    in_flight = account["in_flight"]
    return {
        "accepted": account["accepted"],
        **account["resting"],
        "queued": in_flight["queued"],
        "pending": in_flight["pending"] + in_flight["sending"],
        "deferred": in_flight["deferred"],
        "missing": account["missing"],
    }


def _print_deliveries(channels: Mapping[str, Mapping[str, Any]]) -> None:
    rows = {
        name: {"all": account["total"], **account["resting"], "in flight": account["in_flight"]}
        for name, account in channels.items()
    }
    columns = ["all", *_RESTING, "in flight"]
    shown = [name for name in columns if name == "all" or any(row[name] for row in rows.values())]
    print_table(
        [Column("channel"), *(Column(name, is_number=True) for name in shown)],
        [[channel, *(f"{cells[name]:,}" for name in shown)] for channel, cells in rows.items()],
        "Deliveries",
    )


async def _accounts_of_all(dsn: str, since: int | None, until: int | None) -> list[Any]:
    store = await PostgresStore.open(dsn, 2)
    try:
        report = Accounting(store.history, store.accounts, store.days, SystemClock())
        accounts: list[AccountView] = [
            await report.account(tenant.id, since, until) for tenant in await store.tenants.list()
        ]
        return [msgspec.to_builtins(account) for account in accounts]
    finally:
        await store.close()


def _instant(text: str | None) -> int | None:
    """The time in milliseconds since the epoch. Raises CannotGoOn if the text is not a time."""
    if text is None:
        return None
    try:
        when = moment(text if "T" in text or " " in text else f"{text}T00:00:00+00:00")
    except ValueError as error:
        raise CannotGoOn(f"{text!r} is not a time: write 2026-01-31 or 2026-01-31T09:00:00Z") from error
    return int(when.timestamp() * 1000)


def _health(settings_file: Path | None, data_dir: Path | None) -> list[str]:
    """The canary, the audit and stuck items, in sentences, from the metrics of the system on the data folder."""
    running = DataFolder(settings_from(settings_file, data_dir).data_dir).running()
    if running is None:
        return ["Nothing runs on the data folder, so the canary and stuck items are unknown."]
    page = f"{running.operations_url or running.api_url}/metrics"
    client = SyncClientBuilder().timeout(_METRICS_WITHIN).no_proxy().build()
    try:
        text = bytes(client.get(page).build().send().bytes()).decode()
    except PyreqwestError:
        return [f"{page} does not answer, so the canary and stuck items are unknown."]
    finally:
        client.close()
    return health({name: float(value) for name, value in _SERIES.findall(text)}, time.time())


def health(series: Mapping[str, float], now: float) -> list[str]:
    """The canary, the audit and stuck items, in sentences; `now` is in seconds since the epoch."""

    def ago(name: str) -> str:
        at = series.get(name, 0.0)
        return f"{duration(max(0.0, now - at))} ago" if at else "not yet"

    def count(name: str) -> int:
        return int(series.get(name, 0))

    failed, requeued = count("tidings_canary_failures_total"), count('tidings_swept_total{result="requeued"}')
    dead, backlog = count('tidings_swept_total{result="dead"}'), count('tidings_stuck{kind="backlog"}')
    aside = count('tidings_stuck{kind="aside"}')
    return [
        f"canary   arrived {ago('tidings_canary_timestamp_seconds')}; {failed} failed since the start",
        f"audit    {ago('tidings_audit_timestamp_seconds')}; {requeued} swept and {dead} given up since the start",
        f"stuck    {backlog} behind others in a queue, {aside} put aside as unreadable",
    ]
