"""`tidings key`: the API keys of a tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tidings.cli.limits import Burst, NotificationsBurst, NotificationsPerSecond, PerSecond, described, rates_of
from tidings.cli.options import AsJson, DataDir, SettingsFile, print_json
from tidings.cli.plain import CannotGoOn, command_line, say
from tidings.cli.tenants import DEMO_TENANT, dsn_from, new_key, now, opened
from tidings.cli.times import local
from tidings.model.tenant import ApiKey, Rates, Scope
from tidings.report.notifications import rfc3339

app = command_line(help="Create, list and revoke API keys.", no_args_is_help=True)

OfTenant = Annotated[str, typer.Option("--tenant", help="The tenant's id.")]


@app.command()
def create(
    tenant: OfTenant = DEMO_TENANT,
    scope: Annotated[list[Scope] | None, typer.Option(help="What it may do; without it, everything.")] = None,
    name: Annotated[str, typer.Option(help="What it is for, to know it in the list.")] = "",
    per_second: PerSecond = None,
    burst: Burst = None,
    notifications_per_second: NotificationsPerSecond = None,
    notifications_burst: NotificationsBurst = None,
    as_json: AsJson = False,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make an API key and print it.

    Its limits are those of the settings, unless given here; those of its tenant hold as well.
    """
    scopes = tuple(scope or Scope)
    limits = rates_of(per_second, burst, notifications_per_second, notifications_burst)
    secret = asyncio.run(_create(dsn_from(settings_file, data_dir), tenant, scopes, name, limits))
    if as_json:
        print_json({"tenant": tenant, "key": secret, "scopes": scopes, "name": name, "limits": limits})
        return
    say(f"API key  {secret}\nmay      {', '.join(scopes)}\nThe key is shown only now: keep it.")


@app.command(name="list")
def list_(
    tenant: OfTenant = DEMO_TENANT,
    as_json: AsJson = False,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """List a tenant's keys.

    The id, the start of the secret, and what each may do.
    """
    found = asyncio.run(_list(dsn_from(settings_file, data_dir), tenant))
    if as_json:
        print_json([_told(key) for key in found])
        return
    for key in found:
        state = "works" if key.revoked_at is None else f"revoked {local(key.revoked_at)}"
        limits = f"  {described(key.limits)}" if key.limits != Rates() else ""
        made = f"since {local(key.created_at)}"
        say(f"{key.id}  {key.prefix}…  {'+'.join(key.scopes):<16}  {state}  {made}  {key.name}{limits}")


def _told(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": key.scopes,
        "created_at": rfc3339(key.created_at),
        "revoked_at": None if key.revoked_at is None else rfc3339(key.revoked_at),
        "limits": key.limits,
    }


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(help="The key's id, or the start of its secret, as `key list` shows them.")],
    tenant: OfTenant = DEMO_TENANT,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Revoke a key.

    Every process of the API refuses it within a second.
    """
    key = asyncio.run(_revoke(dsn_from(settings_file, data_dir), tenant, id))
    say(f"{key.id} ({key.prefix}…) is revoked")


async def _create(dsn: str, tenant: str, scopes: tuple[Scope, ...], name: str, limits: Rates) -> str:
    async with opened(dsn) as tenants:
        return await new_key(tenants, tenant, scopes, name, limits)


async def _list(dsn: str, tenant: str) -> Sequence[ApiKey]:
    async with opened(dsn) as tenants:
        return await tenants.keys(tenant)


async def _revoke(dsn: str, tenant: str, id: str) -> ApiKey:
    async with opened(dsn) as tenants:
        found = [key for key in await tenants.keys(tenant) if id in {key.id, key.prefix} or id.startswith(key.prefix)]
        if len(found) != 1:
            raise CannotGoOn(f"the tenant {tenant!r} has no key {id[:24]!r}; `tidings key list` shows what it has")
        await tenants.revoke(tenant, found[0].id, now())
        return found[0]
