"""Dead letters in PostgreSQL: found through an index that holds nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.history import Head, PostgresHistory
from tidings.backends.postgres.statements import load
from tidings.model.ids import notification_of
from tidings.model.letters import DeadLetter, LetterFilter
from tidings.policy.letters import letter_of, slots, wanted
from tidings.policy.transitions import code
from tidings.ports.replays import LetterPage

_SQL = load("letters")
_FIRST_ID = UUID(int=0)
_LAST_ID = UUID(int=(1 << 128) - 1)
_STRETCH = 1_000
"""Facts that one query looks at."""
_MOST_STRETCHES = 20


class PostgresLetters:
    """See Letters. A page, or a count, looks at 20,000 facts at most."""

    def __init__(self, pool: ConnectionPool, history: PostgresHistory) -> None:
        self._pool = pool
        self._history = history

    async def find(self, tenant: str, filter: LetterFilter, before: UUID | None, limit: int) -> LetterPage:
        """See Letters."""
        ids: list[UUID] = []
        cursor: UUID | None = None
        async for found, reached in self._stretches(tenant, filter, before):
            ids += found
            cursor = reached
            if len(ids) > limit:
                ids = ids[:limit]
                cursor = ids[-1]
                break
        return LetterPage(tuple(await self._letters(ids, filter)), cursor)

    async def count(self, tenant: str, filter: LetterFilter) -> int | None:
        """See Letters."""
        count = 0
        async for found, reached in self._stretches(tenant, filter, None):
            count += len(found)
            if reached is None:
                return count
        return None

    async def _stretches(
        self, tenant: str, filter: LetterFilter, before: UUID | None
    ) -> AsyncIterator[tuple[list[UUID], UUID | None]]:
        """What matches in each stretch, and the id to go on below; None after the last one."""
        low, high = _bounds(filter, before)
        first, last = slots(filter.channel)
        codes = [code(state) for state in wanted(filter)]
        for _ in range(_MOST_STRETCHES):
            with translated():
                rows = await self._pool.fetch(
                    _SQL["find"], tenant, low, high, _STRETCH, codes, first, last, filter.category, filter.provider,
                    filter.reason, filter.user_id,
                )  # fmt: skip
            found = [row["id"] for row in rows if row["matches"]]
            if len(rows) < _STRETCH:
                yield found, None
                return
            high = rows[-1]["id"]
            yield found, high

    async def _letters(self, ids: Sequence[UUID], filter: LetterFilter) -> list[DeadLetter]:
        """The deliveries with all that is known of them, less those that have moved on since they were found."""
        if not ids:
            return []
        with translated():
            rows = await self._pool.fetch(_SQL["heads"], list({notification_of(id) for id in ids}))
        records = {
            record.notification.id: record for record in await self._history.records([Head(*row) for row in rows])
        }
        found = (letter_of(records[notification_of(id)], id, wanted(filter)) for id in ids)
        return [letter for letter in found if letter is not None]


def _bounds(filter: LetterFilter, before: UUID | None) -> tuple[UUID, UUID]:
    """The delivery ids from (inclusive) and to (exclusive) which to look."""
    low = _FIRST_ID if filter.since is None else UUID(int=filter.since << 80)
    high = _LAST_ID if filter.until is None else UUID(int=filter.until << 80)
    if filter.delivery_id is not None:
        low, high = max(low, filter.delivery_id), min(high, UUID(int=filter.delivery_id.int + 1))
    return low, high if before is None else min(high, before)
