"""Recurrences in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from uuid import UUID

import msgspec
import structlog
from msgspec.structs import replace

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.model.recurrence import Progress, Recurrence
from tidings.ports.recurrences import DueRecurrence, Moved

_SQL = load("recurrences")
_log = structlog.get_logger("tidings.recur")
_LAST_ID = UUID(int=(1 << 128) - 1)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Recurrence).decode
_by_due = itemgetter(0, 1)


class PostgresRecurrences:
    """See Recurrences."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def add(self, recurrence: Recurrence) -> None:
        """See Recurrences."""
        with translated():
            await self._pool.execute(
                _SQL["add"], recurrence.id, recurrence.tenant, recurrence.revision, _body(recurrence),
                *_columns(recurrence.progress),
            )  # fmt: skip

    async def get(self, tenant: str, id: UUID) -> Recurrence | None:
        """See Recurrences."""
        with translated():
            row = await self._pool.fetchrow(_SQL["get"], tenant, id)
        return None if row is None else _recurrence(*row)

    async def list(self, tenant: str, before: UUID | None, limit: int) -> Sequence[Recurrence]:
        """See Recurrences."""
        with translated():
            rows = await self._pool.fetch(_SQL["list"], tenant, before or _LAST_ID, limit)
        return [_recurrence(*row) for row in rows]

    async def replace(self, recurrence: Recurrence, *, moved_from: Progress | None = None) -> bool:
        """See Recurrences."""
        statement = "replace"
        arguments: list[object] = [recurrence.id, recurrence.revision, _body(recurrence)]
        if moved_from is not None:
            moved_to = recurrence.progress
            statement = "replace_moving"
            arguments += [moved_from.local, moved_from.due, moved_to.local, moved_to.due, moved_to.problem]
        with translated():
            done = await self._pool.fetchval(_SQL[statement], *arguments)
        return done is not None

    async def delete(self, tenant: str, id: UUID) -> bool:
        """See Recurrences."""
        with translated():
            deleted = await self._pool.fetchval(_SQL["delete"], tenant, id)
        return deleted is not None

    async def due(self, now: int, limit: int, lease_s: float) -> Sequence[DueRecurrence]:
        """See Recurrences."""
        with translated():
            rows = await self._pool.fetch(_SQL["due"], now, limit, round(lease_s * 1000))
        rows.sort(key=_by_due)
        found: list[DueRecurrence] = []
        for _, id, repeated, *columns in rows:
            try:
                found.append(DueRecurrence(_recurrence(*columns), repeated))
            except msgspec.MsgspecError as error:
                # Parked, because it would fail every further call and so stop all other recurrences.
                _log.error("a recurrence cannot be read and is parked", recurrence=str(id), why=str(error))
                with translated():
                    await self._pool.execute(_SQL["park"], id, f"unreadable: {error}")
        return found

    async def settle(self, moved: Sequence[Moved]) -> None:
        """See Recurrences."""
        if not moved:
            return
        rows = [(move.id, move.before.local, move.before.due, *_columns(move.then)) for move in moved]
        with translated():
            await self._pool.execute(_SQL["settle"], *zip(*rows, strict=True))

    async def next_due(self) -> int | None:
        """See Recurrences."""
        with translated():
            earliest: int | None = await self._pool.fetchval(_SQL["next_due"])
        return earliest


def _body(recurrence: Recurrence) -> bytes:
    return _encode(replace(recurrence, progress=Progress()))


def _columns(progress: Progress) -> tuple[str | None, int | None, int | None, int, str]:
    return progress.local, progress.due, progress.fired_at, progress.skipped, progress.problem


def _recurrence(
    body: bytes, local: str | None, due: int | None, fired_at: int | None, skipped: int, problem: str
) -> Recurrence:
    return replace(_decode(body), progress=Progress(local, due, fired_at, skipped, problem))
