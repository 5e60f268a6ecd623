"""Dead letters in PostgreSQL. `append` notes each delivery that may be one in the table letter, by tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from tidings.backends.postgres.history import PostgresHistory
from tidings.backends.postgres.leaves import ASK_AFTER_LEAVES, LAST_ID, Leaves
from tidings.model.ids import notification_of
from tidings.model.letters import DeadLetter, LetterFilter
from tidings.policy.letters import letter_of, slots, wanted
from tidings.policy.transitions import code
from tidings.ports.replays import LetterPage

_STRETCH = 1_000
"""Deliveries that one query reads."""
_MOST_STRETCHES = 20
_MOST_LOOKS = 100
"""The most queries for one page, most of which read a leaf without dead letters."""


class PostgresLetters:
    """See Letters. A page, or a count, reads at most 20,000 deliveries of the tenant."""

    def __init__(self, leaves: Leaves, history: PostgresHistory) -> None:
        self._leaves = leaves
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
        """For each query the matching delivery ids, and the id below which to continue, None after the last query."""
        codes = [code(state) for state in wanted(filter)]
        conditions = [codes, *slots(filter.channel), filter.provider, filter.reason, filter.user_id]
        name = "find"
        if filter.category is not None:
            name = "find_of_category"
            conditions.append(filter.category)
        looks = full = 0
        empty: set[int] | None = None
        for segment in await self._leaves.segments(*_bounds(filter, before)):
            if looks >= ASK_AFTER_LEAVES and empty is None:
                empty = await self._leaves.without(tenant, wanted(filter), deliveries=True)
            if empty is not None and segment.day in empty:
                continue
            high = segment.high
            while True:
                if looks == _MOST_LOOKS or full == _MOST_STRETCHES:
                    yield [], high
                    return
                rows = await self._leaves.fetch(
                    name, segment.day, tenant, segment.low, high, _STRETCH, *conditions, file="letters"
                )
                looks += 1
                found = [row["id"] for row in rows if row["matches"]]
                if len(rows) < _STRETCH:
                    yield found, segment.low
                    break
                full += 1
                high = rows[-1]["id"]
                yield found, high
        yield [], None

    async def _letters(self, ids: Sequence[UUID], filter: LetterFilter) -> list[DeadLetter]:
        """The dead letters with these ids, without those that have left that state since they were found."""
        if not ids:
            return []
        records = {
            record.notification.id: record
            for record in await self._history.get_many({notification_of(id) for id in ids})
        }
        found = (
            letter_of(records[notification_of(id)], id, wanted(filter)) for id in ids if notification_of(id) in records
        )
        return [letter for letter in found if letter is not None]


def _bounds(filter: LetterFilter, before: UUID | None) -> tuple[int, int]:
    """The range of delivery ids to search, as integers: from (inclusive), to (exclusive)."""
    low = 0 if filter.since is None else max(0, filter.since << 80)
    high = LAST_ID if filter.until is None else min(LAST_ID, max(0, filter.until << 80))
    if filter.delivery_id is not None:
        low, high = max(low, filter.delivery_id.int), min(high, filter.delivery_id.int + 1)
    return low, high if before is None else min(high, before.int)
