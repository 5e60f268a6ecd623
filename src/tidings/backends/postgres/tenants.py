"""Tenants, API keys and categories in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import asyncpg
import msgspec
from msgspec import Struct

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.model.errors import NotFound
from tidings.model.tenant import ApiKey, Rates, Scope, Tenant
from tidings.model.user import Cap, Category, Retries
from tidings.model.vocabulary import Excess, QuietPolicy

_SQL = load("tenants")


class PostgresTenants:
    """See Tenants."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def add(self, tenant: Tenant) -> bool:
        """See Tenants."""
        with translated():
            added = await self._pool.fetchval(
                _SQL["add"], tenant.id, tenant.name, tenant.created_at, _encode_limits(tenant.limits)
            )
        return added is not None

    async def list(self) -> Sequence[Tenant]:
        """See Tenants."""
        with translated():
            rows = await self._pool.fetch(_SQL["list"])
        return [Tenant(id, name, created_at, _limits(limits)) for id, name, created_at, limits in rows]

    async def limit(self, tenant: str, limits: Rates) -> bool:
        """See Tenants."""
        with translated():
            found = await self._pool.fetchval(_SQL["limit"], tenant, _encode_limits(limits))
        return found is not None

    async def add_key(self, key: ApiKey) -> None:
        """See Tenants."""
        scopes = [scope.value for scope in key.scopes]
        try:
            with translated():
                await self._pool.execute(
                    _SQL["add_key"], key.id, key.tenant, key.prefix, key.digest, scopes, key.name,
                    key.created_at, key.revoked_at, _encode_limits(key.limits),
                )  # fmt: skip
        except asyncpg.ForeignKeyViolationError:
            raise NotFound("tenant", key.tenant) from None

    async def key(self, digest: bytes) -> ApiKey | None:
        """See Tenants."""
        return (await self.known([digest])).get(digest)

    async def known(self, digests: Collection[bytes]) -> Mapping[bytes, ApiKey]:
        """See Tenants."""
        with translated():
            rows = await self._pool.fetch(_SQL["known"], list(digests))
        return {key.digest: key for key in (_key(*row) for row in rows)}

    async def keys(self, tenant: str) -> Sequence[ApiKey]:
        """See Tenants."""
        with translated():
            return [_key(*row) for row in await self._pool.fetch(_SQL["keys"], tenant)]

    async def revoke(self, tenant: str, key_id: str, now: int) -> bool:
        """See Tenants."""
        with translated():
            revoked = await self._pool.fetchval(_SQL["revoke"], tenant, key_id, now)
        return revoked is not None

    async def put_category(self, tenant: str, category: Category) -> None:
        """See Tenants."""
        with translated():
            await self._pool.execute(
                _SQL["put_category"], tenant, category.name, category.critical, category.allow_doubles,
                category.description, _encode_rules(_rules(category)),
            )  # fmt: skip

    async def delete_category(self, tenant: str, name: str) -> bool:
        """See Tenants."""
        with translated():
            deleted = await self._pool.fetchval(_SQL["delete_category"], tenant, name)
        return deleted is not None

    async def categories(self, tenant: str) -> Sequence[Category]:
        """See Tenants."""
        with translated():
            rows = await self._pool.fetch(_SQL["categories"], tenant)
        return [_category(*row) for row in rows]


class _Rules(Struct, frozen=True, omit_defaults=True):
    """The JSON column `rules` of a category. Fields of a newer version are ignored."""

    quiet_hours: QuietPolicy = QuietPolicy.HOLD
    retries: Retries = Retries()
    caps: tuple[Cap, ...] = ()
    excess: Excess = Excess.DROP
    dedupe: int = 0


_encode_rules = msgspec.json.Encoder().encode
_decode_rules = msgspec.json.Decoder(_Rules).decode


def _rules(category: Category) -> _Rules:
    return _Rules(**{name: getattr(category, name) for name in _Rules.__struct_fields__})


def _category(name: str, critical: bool, allow_doubles: bool, description: str, rules: bytes) -> Category:
    more = msgspec.structs.asdict(_decode_rules(rules))
    return Category(name, critical, allow_doubles, description, **more)


_encode_limits = msgspec.json.Encoder().encode
_decode_limits = msgspec.json.Decoder(Rates).decode


def _limits(stored: bytes | None) -> Rates:
    return Rates() if stored is None else _decode_limits(stored)


def _key(
    id: str,
    tenant: str,
    prefix: str,
    digest: bytes,
    scopes: Sequence[str],
    name: str,
    created_at: int,
    revoked_at: int | None,
    limits: bytes | None,
    tenant_limits: bytes | None = None,
) -> ApiKey:
    return ApiKey(
        id, tenant, prefix, digest, tuple(map(Scope, scopes)), name, created_at, revoked_at,
        _limits(limits), _limits(tenant_limits),
    )  # fmt: skip
