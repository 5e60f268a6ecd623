"""The accounts and the rounds in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.model.accounting import AcceptedCount, Gap
from tidings.model.days import DAY_MINUTES

_SQL = load("accounts")


class PostgresAccounts:
    """See Accounts."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def count(self, counter: UUID, counts: Sequence[AcceptedCount]) -> None:
        """See Accounts."""
        if not counts:
            return
        rows = sorted((one.minute, one.tenant, one.count) for one in counts)
        with translated():
            days = sorted({one.minute // DAY_MINUTES for one in counts})
            await self._pool.execute(_SQL["count"], counter, *zip(*rows, strict=True), days)

    async def accepted(self, since: int, until: int, tenant: str | None = None) -> Sequence[AcceptedCount]:
        """See Accounts."""
        with translated():
            if tenant is None:
                rows = await self._pool.fetch(_SQL["accepted"], since, until)
            else:
                rows = await self._pool.fetch(_SQL["accepted_of_tenant"], since, until, tenant)
        return [AcceptedCount(*row) for row in rows]

    async def prune_counts(self, before: int, most: int) -> int:
        """See Accounts."""
        with translated():
            deleted: int = await self._pool.fetchval(_SQL["prune_counts"], before, most)
        return deleted

    async def mark_gaps(self, gaps: Sequence[Gap]) -> None:
        """See Accounts."""
        if not gaps:
            return
        rows = [(gap.minute, gap.tenant, gap.missing, gap.confirmed) for gap in gaps]
        with translated():
            await self._pool.execute(_SQL["mark_gaps"], *zip(*rows, strict=True))

    async def prune_gaps(self, before: int, most: int) -> int:
        """See Accounts."""
        with translated():
            deleted: int = await self._pool.fetchval(_SQL["prune_gaps"], before, most)
        return deleted

    async def gaps(self, tenant: str | None = None) -> Sequence[Gap]:
        """See Accounts."""
        with translated():
            rows = await self._pool.fetch(_SQL["gaps"], tenant)
        return [Gap(*row) for row in rows]


class PostgresWatched:
    """See Watched."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def watch(self, looks: Sequence[tuple[UUID, int]]) -> None:
        """See Watched."""
        if not looks:
            return
        with translated():
            await self._pool.execute(_SQL["watch"], *zip(*sorted(dict(looks).items()), strict=True))

    async def due(self, now: int, limit: int) -> Sequence[UUID]:
        """See Watched."""
        with translated():
            rows = await self._pool.fetch(_SQL["watched_due"], now, limit)
        return [row[0] for row in rows]

    async def unwatch(self, ids: Collection[UUID]) -> None:
        """See Watched."""
        if not ids:
            return
        with translated():
            await self._pool.execute(_SQL["unwatch"], list(ids))


class PostgresRounds:
    """See Rounds."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def begin(self, name: str, holder: UUID, lease_s: float) -> int | None:
        """See Rounds."""
        with translated():
            position: int | None = await self._pool.fetchval(_SQL["begin"], name, holder, round(lease_s * 1000))
        return position

    async def advance(self, name: str, holder: UUID, position: int) -> bool:
        """See Rounds."""
        with translated():
            return await self._pool.fetchval(_SQL["advance"], name, holder, position) is not None

    async def release(self, name: str, holder: UUID) -> None:
        """See Rounds."""
        with translated():
            await self._pool.execute(_SQL["release"], name, holder)
