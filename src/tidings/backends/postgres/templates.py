"""Templates in PostgreSQL: a row for each template and a row for each immutable version."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.model.template import TemplateSummary, TemplateVersion, VersionSummary

_SQL = load("templates")
_NEWEST = 2**31 - 1
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(TemplateVersion).decode


class PostgresTemplates:
    """See TemplateStore."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def add_version(self, tenant: str, version: TemplateVersion) -> TemplateVersion:
        """See TemplateStore."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                number = await connection.fetchval(_SQL["next_version"], tenant, version.name)
                stored = msgspec.structs.replace(version, version=number)
                await connection.execute(
                    _SQL["add_version"],
                    tenant,
                    stored.name,
                    number,
                    stored.description,
                    _encode(stored),
                    stored.created_at,
                )
        return stored

    async def version(self, tenant: str, name: str, version: int) -> TemplateVersion | None:
        """See TemplateStore."""
        with translated():
            body = await self._pool.fetchval(_SQL["version"], tenant, name, version)
        return None if body is None else _decode(body)

    async def published(self, tenant: str, name: str) -> TemplateVersion | None:
        """See TemplateStore."""
        with translated():
            body = await self._pool.fetchval(_SQL["published"], tenant, name)
        return None if body is None else _decode(body)

    async def publish(self, tenant: str, name: str, version: int) -> bool:
        """See TemplateStore."""
        with translated():
            changed = await self._pool.fetchval(_SQL["publish"], tenant, name, version)
        return changed is not None

    async def summary(self, tenant: str, name: str) -> TemplateSummary | None:
        """See TemplateStore."""
        with translated():
            row = await self._pool.fetchrow(_SQL["summary"], tenant, name)
        return None if row is None else TemplateSummary(*row)

    async def list(self, tenant: str, after: str | None, limit: int) -> Sequence[TemplateSummary]:
        """See TemplateStore."""
        with translated():
            rows = await self._pool.fetch(_SQL["list"], tenant, after or "", limit)
        return [TemplateSummary(*row) for row in rows]

    async def versions(self, tenant: str, name: str, before: int | None, limit: int) -> Sequence[VersionSummary]:
        """See TemplateStore."""
        with translated():
            rows = await self._pool.fetch(_SQL["versions"], tenant, name, _NEWEST if before is None else before, limit)
        return [VersionSummary(name, *row) for row in rows]
