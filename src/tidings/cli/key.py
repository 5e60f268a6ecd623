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
    scope: Annotated[list[Scope] | None, typer.Option(help="A scope; may be given several times [all].")] = None,
    name: Annotated[str, typer.Option(help="A name, to recognise the key in the list.")] = "",
    per_second: PerSecond = None,
    burst: Burst = None,
    notifications_per_second: NotificationsPerSecond = None,
    notifications_burst: NotificationsBurst = None,
    as_json: AsJson = False,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Create an API key and print it.

    Limits that are not given here are taken from the settings. The limits of its tenant apply too.
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

    It shows each key's id, the start of its secret, its scopes, and its state.
    """
    keys = asyncio.run(_list(dsn_from(settings_file, data_dir), tenant))
    if as_json:
        print_json([_as_json(key) for key in keys])
        return
    for key in keys:
        state = "works" if key.revoked_at is None else f"revoked {local(key.revoked_at)}"
        limits = f"  {described(key.limits)}" if key.limits != Rates() else ""
        created = f"since {local(key.created_at)}"
        say(f"{key.id}  {key.prefix}…  {'+'.join(key.scopes):<16}  {state}  {created}  {key.name}{limits}")


def _as_json(key: ApiKey) -> dict[str, Any]:
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
    id: Annotated[str, typer.Argument(help="The key's id, or the start of its secret, as in `key list`.")],
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
        matching = [
            key for key in await tenants.keys(tenant) if id in {key.id, key.prefix} or id.startswith(key.prefix)
        ]
        if len(matching) != 1:
            raise CannotGoOn(f"the tenant {tenant!r} has no key {id[:24]!r}; `tidings key list` shows its keys")
        await tenants.revoke(tenant, matching[0].id, now())
        return matching[0]
