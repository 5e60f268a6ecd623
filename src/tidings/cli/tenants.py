"""Tenants and keys, read and written in the database: whoever can read its DSN may change them."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from tidings.api.keys import SECRET_BYTES, digest_of, mint
from tidings.backends.postgres.store import PostgresStore
from tidings.cli.folder import DataFolder
from tidings.cli.options import settings_from
from tidings.cli.plain import CannotGoOn
from tidings.model.tenant import Rates, Scope, Tenant
from tidings.ports.tenants import Tenants

DEMO_TENANT = "demo"
_CONNECTIONS = 2


def now() -> int:
    """Milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


def dsn_from(settings_file: Path | None, data_dir: Path | None) -> str:
    """The DSN from the settings, or else the DSN of the system that runs on the data folder.

    Raises:
        CannotGoOn: the settings have none, and nothing runs.
    """
    settings = settings_from(settings_file, data_dir)
    if settings.database.dsn is not None:
        return settings.database.dsn
    folder = DataFolder(settings.data_dir)
    running = folder.running()
    if running is None:
        raise CannotGoOn(
            f"no database: nothing runs on the data folder {folder.path}, and the settings have no database.dsn. Start "
            "`tidings up` in another terminal, name its folder with --data-dir, or set TIDINGS_DATABASE__DSN."
        )
    return running.dsn


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Tenants]:
    """The tenants in the database at `dsn`."""
    store = await PostgresStore.open(dsn, _CONNECTIONS)
    try:
        yield store.tenants
    finally:
        await store.close()


async def new_key(
    tenants: Tenants, tenant: str, scopes: tuple[Scope, ...], name: str, limits: Rates | None = None
) -> str:
    """Create and store a key; its secret. Raises NotFound if there is no such tenant."""
    secret, key = mint(tenant, scopes, name, now(), secrets.token_bytes(SECRET_BYTES))
    await tenants.add_key(replace(key, limits=limits or Rates()))
    return secret


async def demo_key(dsn: str, folder: DataFolder) -> tuple[str, bool]:
    """The secret of the demo tenant's key, and whether it is new.

    The tenant and the key are created if they are missing, the key also if the kept one does not work.
    """
    async with opened(dsn) as tenants:
        await tenants.add(Tenant(DEMO_TENANT, "Demo", now()))
        kept_secret = folder.demo_key
        if kept_secret is not None:
            key = await tenants.key(digest_of(kept_secret.encode()))
            if key is not None and key.tenant == DEMO_TENANT and key.revoked_at is None:
                return kept_secret, False
        secret = await new_key(tenants, DEMO_TENANT, tuple(Scope), "made by tidings up")
    folder.keep_demo_key(secret)
    return secret, True
