"""Leaves: the tables that hold one day of the history. Every statement names the leaf that it means.

An id tells its day, so a statement never plans over other leaves, or locks them. Notifications that were in flight when
their day was archived are carried: they have tables of their own, which are addressed like a leaf.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar
from uuid import UUID

import asyncpg
import structlog
from msgspec import Struct

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load, of_leaf
from tidings.model.days import DAY_MS, day_of
from tidings.model.vocabulary import State
from tidings.policy.days import AHEAD_DAYS

CARRIED = -1
"""The number that stands for the tables of carried notifications where a day is expected."""
LAST_ID = (1 << 128) - 1
ASK_AFTER_LEAVES = 3
"""The number of leaves that a listing reads before it asks which other leaves cannot hold a match."""
_KNOWN_FOR_S = 10.0
"""Seconds for which the list of the leaves is trusted."""

_SQL = load("history")
_log = structlog.get_logger("tidings.leaves")
T = TypeVar("T")


class Segment(Struct, frozen=True, gc=False):
    """A range of ids, from `low` (inclusive) to `high` (exclusive), that lies in one leaf."""

    day: int
    low: UUID
    high: UUID


@lru_cache(maxsize=64)
def _templates(file: str) -> dict[str, str]:
    return dict(load(f"templates/{file}"))


@lru_cache(maxsize=4096)
def statement(name: str, day: int, file: str = "history") -> str:
    """The statement `name` of `sql/templates/<file>.sql` for the leaf of a day (since the epoch) or for `CARRIED`."""
    return of_leaf(_templates(file)[name], suffix(day), day)


def suffix(day: int) -> str:
    """The end of the names of the day's tables."""
    return "carried" if day == CARRIED else datetime.fromtimestamp(day * DAY_MS / 1000, UTC).strftime("%Y%m%d")


def segments(days: Sequence[int], low: int, high: int) -> list[Segment]:
    """The ids from `low` to `high` (as integers) cut into segments of one leaf each, newest first.

    `days` are the days that have leaves, ascending. The days between them are archived, so their ids may be carried.
    """
    assert all(one < other for one, other in pairwise(days)), "days ascend"  # noqa: S101 - the cuts rely on it
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
    """The list of existing leaves, and statements on them."""

    def __init__(self, pool: ConnectionPool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._days: Sequence[int] = ()
        self._empty_ahead: set[int] = set()
        self._asked_at: float | None = None

    async def days(self) -> Sequence[int]:
        """The days that have leaves, ascending; the list is at most 10 seconds old. Raises Unavailable."""
        if self._asked_at is None or self._clock() - self._asked_at >= _KNOWN_FOR_S:
            asked = self._clock()
            with translated():
                tomorrow = time.time_ns() // 1_000_000 // DAY_MS + 1
                rows = [tuple(row) for row in await self._pool.fetch(_SQL["days"], tomorrow)]
            self._days = [day for day, _ in rows]
            self._empty_ahead = {day for day, unused in rows if unused}
            self._asked_at = asked
        return self._days

    def forget(self) -> None:
        """Drop the list, which was wrong: the next call asks again."""
        self._asked_at = None

    def written(self, days: Iterable[int]) -> None:
        """These days were written to. Drops the list if one of them was an empty day to come."""
        if not self._empty_ahead.isdisjoint(days):
            self.forget()

    async def of(self, id: UUID) -> int:
        """The leaf of the id: its day, or CARRIED if the day has no leaf."""
        day = day_of(id)
        return day if day in await self.days() else CARRIED

    async def split(self, ids: Iterable[UUID]) -> dict[int, list[UUID]]:
        """The ids by leaf: their day, or CARRIED."""
        days = await self.days()
        found: dict[int, list[UUID]] = {}
        for id in ids:
            day = day_of(id)
            found.setdefault(day if day in days else CARRIED, []).append(id)
        return found

    async def segments(self, low: int, high: int) -> list[Segment]:
        """See the function `segments`. Empty days to come are left out."""
        return segments([day for day in await self.days() if day not in self._empty_ahead], low, high)

    async def without(self, tenant: str, states: Iterable[State], *, deliveries: bool) -> set[int]:
        """Closed days whose sums show that the tenant has no deliveries (or notifications) in these states."""
        with translated():
            rows = await self._pool.fetch(_SQL["days_without"], tenant, deliveries, sorted(states))
        return {row[0] for row in rows}

    async def fetch(
        self, name: str, day: int, *args: object, file: str = "history", within_s: float | None = None
    ) -> list[asyncpg.Record]:
        """The rows of a statement on a leaf. If the day was archived a moment ago, asks the carried tables instead."""
        with translated():
            try:
                return await self._pool.fetch(statement(name, day, file), *args, timeout=within_s)
            except asyncpg.UndefinedTableError:
                self.forget()
                if day == CARRIED:
                    raise
                return await self._pool.fetch(statement(name, CARRIED, file), *args, timeout=within_s)

    async def ensure(self, days: Iterable[int], needed: int) -> int:
        """Create the missing leaves of these days, day by day; returns how many tables were missing.

        If a long read holds a lock, a day after `needed` is left to the next call.

        Raises:
            Unavailable: the database does not answer, or the leaves of a day up to `needed` cannot be created.
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
                        _log.warning(
                            "the leaves of a coming day cannot be created yet and are tried again later",
                            day=suffix(day),
                            why=str(error),
                        )
        finally:
            self.forget()
        return made

    async def maintain(self, now: int) -> int:
        """Create the leaves from yesterday to a week after `now` (milliseconds since the epoch)."""
        today = now // DAY_MS
        return await self.ensure(range(today - 1, today + AHEAD_DAYS + 1), today)
