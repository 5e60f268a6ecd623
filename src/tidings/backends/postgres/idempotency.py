"""Idempotency keys in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.ports.store import Reservation

_SQL = load("idempotency")


class PostgresIdempotency:
    """See Idempotency."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def reserve(
        self, tenant: str, key: str, fingerprint: bytes, ids: Sequence[UUID], now: int, lease: float
    ) -> Reservation:
        """See Idempotency; only a request with the same fingerprint retakes an abandoned key."""
        while True:
            with translated():
                taken = await self._pool.fetchrow(_SQL["take"], tenant, key, fingerprint, ids, now, round(lease * 1000))
                if taken is not None:
                    kept, retaken = taken
                    return Reservation(fresh=True, fingerprint=fingerprint, ids=tuple(kept), retaken=retaken)
                holder = await self._pool.fetchrow(_SQL["holder"], tenant, key)
            if holder is not None:
                return Reservation(
                    fresh=False, fingerprint=holder["fingerprint"], ids=tuple(holder["ids"]), answer=holder["answer"]
                )
            # It was freed between the two statements: it can be taken now.

    async def complete(self, tenant: str, key: str, answer: bytes) -> None:
        """See Idempotency."""
        with translated():
            await self._pool.execute(_SQL["complete"], tenant, key, answer)

    async def forget(self, tenant: str, key: str) -> None:
        """See Idempotency."""
        with translated():
            await self._pool.execute(_SQL["forget"], tenant, key)

    async def sweep(self, before: int) -> int:
        """See Idempotency."""
        total = 0
        while True:
            with translated():
                deleted: int = await self._pool.fetchval(_SQL["sweep"], before)
            total += deleted
            if not deleted:
                return total
