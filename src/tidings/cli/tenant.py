"""`tidings tenant`: create, list and limit tenants."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from tidings.cli.limits import Burst, NotificationsBurst, NotificationsPerSecond, PerSecond, described, rates_of
from tidings.cli.options import AsJson, DataDir, SettingsFile, print_json
from tidings.cli.plain import CannotGoOn, command_line, say
from tidings.cli.tenants import dsn_from, new_key, now, opened
from tidings.cli.times import local
from tidings.model.tenant import Rates, Scope, Tenant
from tidings.report.notifications import rfc3339

app = command_line(help="Create, list and limit tenants.", no_args_is_help=True)


@app.command()
def create(
    id: Annotated[str, typer.Argument(help="A short name: letters, digits and dashes.")],
    name: Annotated[str | None, typer.Option(help="A name for people [the id].")] = None,
    as_json: AsJson = False,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Create a tenant with a first API key that may do everything, and print that key."""
    if not (id.replace("-", "").isalnum() and id.isascii() and id == id.lower() and len(id) <= 63):
        raise CannotGoOn(f"{id!r} cannot be a tenant's id: use lower-case letters, digits and dashes, at most 63")
    secret = asyncio.run(_create(dsn_from(settings_file, data_dir), Tenant(id, name or id, now())))
    if as_json:
        print_json({"id": id, "name": name or id, "key": secret})
        return
    say(f"tenant   {id}\nAPI key  {secret}\nThe key is shown only now: keep it.")


@app.command(name="list")
def list_(as_json: AsJson = False, settings_file: SettingsFile = None, data_dir: DataDir = None) -> None:
    """List the tenants."""
    tenants = asyncio.run(_list(dsn_from(settings_file, data_dir)))
    if as_json:
        print_json([_as_json(tenant) for tenant in tenants])
        return
    for tenant in tenants:
        limits = f"  {described(tenant.limits)}" if tenant.limits != Rates() else ""
        say(f"{tenant.id:<24} {tenant.name:<32} since {local(tenant.created_at)}{limits}")


def _as_json(tenant: Tenant) -> dict[str, Any]:
    created_at = rfc3339(tenant.created_at)
    return {"id": tenant.id, "name": tenant.name, "created_at": created_at, "limits": tenant.limits}


@app.command()
def limit(
    id: Annotated[str, typer.Argument(help="The tenant's id.")],
    per_second: PerSecond = None,
    burst: Burst = None,
    notifications_per_second: NotificationsPerSecond = None,
    notifications_burst: NotificationsBurst = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Set how much a tenant may ask of the API, all its keys together.

    Limits that are not given are taken from the settings; so the command without options removes the tenant's own
    limits. It takes effect in every process within a second.
    """
    limits = rates_of(per_second, burst, notifications_per_second, notifications_burst)
    asyncio.run(_limit(dsn_from(settings_file, data_dir), id, limits))
    say(f"tenant   {id}\nlimits   {described(limits)}")


async def _limit(dsn: str, tenant: str, limits: Rates) -> None:
    async with opened(dsn) as tenants:
        if not await tenants.limit(tenant, limits):
            raise CannotGoOn(f"there is no tenant {tenant!r}; `tidings tenant list` shows all tenants")


async def _create(dsn: str, tenant: Tenant) -> str:
    async with opened(dsn) as tenants:
        if not await tenants.add(tenant):
            raise CannotGoOn(f"there is a tenant {tenant.id!r} already; `tidings key create` makes more keys for it")
        return await new_key(tenants, tenant.id, tuple(Scope), "first key")


async def _list(dsn: str) -> list[Tenant]:
    async with opened(dsn) as tenants:
        return list(await tenants.list())
