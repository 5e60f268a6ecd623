"""Leaves: the tables that hold one day of the history each, and statements that name the leaf which they mean.

An id tells its day, so a statement never plans over, or locks, the others. What was in flight when its day was archived
is carried: it lives in tables of its own, which are addressed like a leaf.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar
from uuid import UUID

import asyncpg
import structlog
from msgspec import Struct

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.model.days import DAY_MS, day_of
from tidings.model.vocabulary import State
from tidings.policy.days import AHEAD_DAYS

CARRIED = -1
"""Stands for the tables of what is carried, where a day is asked for."""
LAST_ID = (1 << 128) - 1
ASK_AFTER = 3
"""Leaves into which a listing looks before it asks which of the others are worth a look."""
_KNOWN_FOR = 10.0
"""Seconds for which the list of the leaves is believed."""

_SQL = load("history")
_log = structlog.get_logger("tidings.leaves")
T = TypeVar("T")


class Segment(Struct, frozen=True, gc=False):
    """A stretch of ids, from `low` (inclusive) to `high` (exclusive), that lies in one leaf."""

    day: int
    low: UUID
    high: UUID


@lru_cache(maxsize=64)
def _templates(file: str) -> dict[str, str]:
    return dict(load(f"templates/{file}"))


@lru_cache(maxsize=4096)
def statement(name: str, day: int, file: str = "history") -> str:
    """The statement `name` of `sql/templates/<file>.sql` on the leaf of a day (since the epoch), or on `CARRIED`."""
    return _templates(file)[name].replace("{day}", suffix(day)).replace("{number}", str(day))


def suffix(day: int) -> str:
    """What the names of the day's tables end with."""
    return "carried" if day == CARRIED else datetime.fromtimestamp(day * DAY_MS / 1000, UTC).strftime("%Y%m%d")


def segments(days: Sequence[int], low: int, high: int) -> list[Segment]:
    """The stretches of the ids from `low` to `high` (as integers), newest first, each with its leaf.

    `days` are those that have leaves, ascending. What lies between them has been archived, and may be carried.
    """
    found: list[Segment] = []
    reached = 0
    for day in days:
        first, end = day * DAY_MS << 80, (day + 1) * DAY_MS << 80
        found += _cut(CARRIED, reached, first, low, high)
        found += _cut(day, first, end, low, high)
        reached = end
    found += _cut(CARRIED, reached, LAST_ID, low, high)
    return found[::-1]


def _cut(day: int, first: int, end: int, low: int, high: int) -> list[Segment]:
    start, stop = max(first, low), min(end, high)
    return [Segment(day, UUID(int=start), UUID(int=stop))] if start < stop else []


class Leaves:
    """Which leaves there are."""

    def __init__(self, pool: ConnectionPool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._days: Sequence[int] = ()
        self._unused: set[int] = set()
        self._asked: float | None = None

    async def days(self) -> Sequence[int]:
        """The days that have leaves, ascending; a few seconds old at most. Raises Unavailable."""
        if self._asked is None or self._clock() - self._asked >= _KNOWN_FOR:
            asked = self._clock()
            with translated():
                tomorrow = time.time_ns() // 1_000_000 // DAY_MS + 1
                rows = [tuple(row) for row in await self._pool.fetch(_SQL["days"], tomorrow)]
            self._days = [day for day, _ in rows]
            self._unused = {day for day, unused in rows if unused}
            self._asked = asked
        return self._days

    def forget(self) -> None:
        """Ask again: the list was wrong."""
        self._asked = None

    def written(self, days: Iterable[int]) -> None:
        """Something was written to these days."""
        if not self._unused.isdisjoint(days):
            self.forget()

    async def of(self, id: UUID) -> int:
        """Where the id's rows are: its day, or CARRIED."""
        day = day_of(id)
        return day if day in await self.days() else CARRIED

    async def split(self, ids: Iterable[UUID]) -> dict[int, list[UUID]]:
        """The ids by where their rows are, by day."""
        days = await self.days()
        found: dict[int, list[UUID]] = {}
        for id in ids:
            day = day_of(id)
            found.setdefault(day if day in days else CARRIED, []).append(id)
        return found

    async def segments(self, low: int, high: int) -> list[Segment]:
        """See the function. Days to come that are empty are left out."""
        return segments([day for day in await self.days() if day not in self._unused], low, high)

    async def without(self, tenant: str, states: Iterable[State], *, deliveries: bool) -> set[int]:
        """Closed days in which the tenant has no deliveries (or notifications) in these states, as their sums say."""
        with translated():
            rows = await self._pool.fetch(_SQL["days_without"], tenant, deliveries, sorted(states))
        return {row[0] for row in rows}

    async def fetch(
        self, name: str, day: int, *args: object, file: str = "history", within_s: float | None = None
    ) -> list[asyncpg.Record]:
        """The rows of a statement on a leaf. One that was archived a moment ago is found where its rest is carried."""
        with translated():
            try:
                return await self._pool.fetch(statement(name, day, file), *args, timeout=within_s)
            except asyncpg.UndefinedTableError:
                self.forget()
                if day == CARRIED:
                    raise
                return await self._pool.fetch(statement(name, CARRIED, file), *args, timeout=within_s)

    async def ensure(self, days: Iterable[int], needed: int) -> int:
        """Make the leaves of these days that are missing, a day at a time; how many tables were.

        A day after `needed` that cannot be made now (a long read holds a lock) is left to the next call.

        Raises:
            Unavailable: the database does not answer, or a day up to `needed` cannot be made.
        """
        self.forget()
        known = set(await self.days())
        made = 0
        try:
            for day in days:
                if day in known:
                    continue
                with translated():
                    try:
                        made += await self._pool.fetchval(_SQL["ensure_partitions"], day)
                    except asyncpg.LockNotAvailableError as error:
                        if day <= needed:
                            raise
                        _log.warning("a day's leaves are made later", day=suffix(day), why=str(error))
        finally:
            self.forget()
        return made

    async def maintain(self, now: int) -> int:
        """Make the leaves from yesterday to a week after `now` (milliseconds since the epoch)."""
        today = now // DAY_MS
        return await self.ensure(range(today - 1, today + AHEAD_DAYS + 1), today)
