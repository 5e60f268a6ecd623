"""Replays in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg
import msgspec

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.model.letters import LetterFilter, Replay, ReplayState

_SQL = load("replays")
_LAST_ID = UUID(int=(1 << 128) - 1)
_encode = msgspec.json.Encoder().encode
_decode_filter = msgspec.json.Decoder(LetterFilter).decode
_decode_skipped = msgspec.json.Decoder(dict[str, int]).decode


class PostgresReplays:
    """See Replays."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def add(self, replay: Replay) -> None:
        """See Replays."""
        with translated():
            await self._pool.execute(
                _SQL["add"], replay.id, replay.tenant, _encode(replay.filter), replay.per_second, replay.key_id,
                replay.key_prefix, replay.created_at, replay.expected, replay.state.value, replay.found,
                replay.replayed, _encode(replay.skipped), replay.started_at, replay.finished_at, replay.position,
                replay.next_due, replay.token,
            )  # fmt: skip

    async def get(self, tenant: str, id: UUID) -> Replay | None:
        """See Replays."""
        with translated():
            row = await self._pool.fetchrow(_SQL["get"], tenant, id)
        return None if row is None else _replay(row)

    async def list(self, tenant: str, before: UUID | None, limit: int) -> Sequence[Replay]:
        """See Replays."""
        with translated():
            return [_replay(row) for row in await self._pool.fetch(_SQL["list"], tenant, before or _LAST_ID, limit)]

    async def cancel(self, tenant: str, id: UUID, now: int) -> bool:
        """See Replays."""
        with translated():
            cancelled = await self._pool.fetchval(_SQL["cancel"], tenant, id, now)
        return cancelled is not None

    async def prune(self, before: int, most: int) -> int:
        """See Replays."""
        with translated():
            deleted: int = await self._pool.fetchval(_SQL["prune"], before, most)
        return deleted

    async def claim(self, now: int, lease_s: float) -> Replay | None:
        """See Replays."""
        with translated():
            row = await self._pool.fetchrow(_SQL["claim"], now, round(lease_s * 1000), uuid4())
        return None if row is None else _replay(row)

    async def progress(self, replay: Replay, ready: int) -> bool:
        """See Replays."""
        with translated():
            written = await self._pool.fetchval(
                _SQL["progress"], replay.tenant, replay.id, replay.token, replay.found, replay.replayed,
                _encode(replay.skipped), replay.position, replay.next_due, ready, replay.state.value,
                replay.finished_at,
            )  # fmt: skip
        return written is not None


def _replay(row: asyncpg.Record) -> Replay:
    id, tenant, filter, per_second, key_id, key_prefix, created_at, expected, state, found, replayed, skipped, *rest = (
        row
    )
    return Replay(
        id, tenant, _decode_filter(filter), per_second, key_id, key_prefix, created_at, expected,
        ReplayState(state), found, replayed, _decode_skipped(skipped), *rest,
    )  # fmt: skip
