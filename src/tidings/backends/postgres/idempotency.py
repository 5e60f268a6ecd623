"""Idempotency keys in PostgreSQL."""

from __future__ import annotations

from uuid import UUID

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.policy.idempotency import KEPT_MS
from tidings.ports.idempotency import Reservation

_SQL = load("idempotency")


class PostgresIdempotency:
    """See Idempotency."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def reserve(self, tenant: str, key: str, fingerprint: bytes, seed: UUID, lease_s: float) -> Reservation:
        """See Idempotency."""
        while True:
            with translated():
                taken = await self._pool.fetchrow(
                    _SQL["take"], tenant, key, fingerprint, seed, round(lease_s * 1000), KEPT_MS
                )
                if taken is not None:
                    kept, at = taken
                    return Reservation(
                        fresh=True, fingerprint=fingerprint, seed=kept, retaken=kept != seed, reserved_at=at
                    )
                holder = await self._pool.fetchrow(_SQL["holder"], tenant, key)
            if holder is not None:
                fingerprint, kept, answer = holder
                return Reservation(fresh=False, fingerprint=fingerprint, seed=kept, answer=answer)
            # The key was freed between the two statements: try again to take it.

    async def complete(self, tenant: str, key: str, answer: bytes) -> None:
        """See Idempotency."""
        with translated():
            await self._pool.execute(_SQL["complete"], tenant, key, answer)

    async def forget(self, tenant: str, key: str, reserved_at: int) -> None:
        """See Idempotency."""
        with translated():
            await self._pool.execute(_SQL["forget"], tenant, key, reserved_at)

    async def abandon(self, tenant: str, key: str, reserved_at: int) -> None:
        """See Idempotency."""
        with translated():
            await self._pool.execute(_SQL["abandon"], tenant, key, reserved_at)

    async def prune(self, age_ms: int, most: int) -> int:
        """See Idempotency."""
        with translated():
            deleted: int = await self._pool.fetchval(_SQL["prune"], age_ms, most)
        return deleted
