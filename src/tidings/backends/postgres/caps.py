"""Caps counted in PostgreSQL: one row for each scope, locked while the policy decides."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from uuid import UUID

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.policy.caps import Count, Over, Passed, kept_for_ms, take

_SQL = load("caps")
_ENTRY = struct.Struct(">16sq")
"""An id and its instant."""


class PostgresCaps:
    """See Caps. A batch of any size is one transaction of two statements: one locks, one writes."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def take(self, requests: Sequence[Sequence[Count]], now: int) -> Sequence[Over | None]:
        """See Caps."""
        until: dict[bytes, int] = {}
        for counts in requests:
            for count in counts:
                until[count.scope] = max(until.get(count.scope, 0), now + kept_for_ms(count.caps))
        if not until:
            return [None] * len(requests)
        while True:
            verdicts = await self._take(requests, until, now)
            if verdicts is not None:
                return verdicts

    async def _take(
        self, requests: Sequence[Sequence[Count]], until: Mapping[bytes, int], now: int
    ) -> Sequence[Over | None] | None:
        """The verdicts; None if not all rows could be locked in order, so that the caller must begin again."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(_SQL["lock"], sorted(until))
                if len(rows) < len(until):
                    return None
                passed = {scope: _unpack(stored) for scope, stored in rows}
                verdicts, changed = take(requests, passed, now)
                if changed:
                    columns = zip(*((scope, _pack(ids), until[scope]) for scope, ids in changed.items()), strict=True)
                    await connection.execute(_SQL["write"], *map(list, columns))
        return verdicts

    async def prune(self, now: int) -> int:
        """See Caps."""
        total = 0
        while True:
            with translated():
                deleted: int = await self._pool.fetchval(_SQL["prune"], now)
            total += deleted
            if not deleted:
                return total


def _pack(passed: Passed) -> bytes:
    return b"".join(_ENTRY.pack(id.bytes, at) for id, at in passed.items())


def _unpack(stored: bytes) -> dict[UUID, int]:
    return {UUID(bytes=id): at for id, at in _ENTRY.iter_unpack(stored)}
