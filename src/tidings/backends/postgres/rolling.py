"""The sums of closed days. Each day is read once to make them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from msgspec import Struct, field

from tidings.backends.postgres.connection import ConnectionPool, PooledConnection, translated
from tidings.backends.postgres.history import (
    PENDING_PLACE,
    PLACES,
    READ_WITHIN_S,
    PostgresHistory,
    tallied,
)
from tidings.backends.postgres.leaves import CARRIED, Leaves, Segment, statement
from tidings.backends.postgres.statements import load
from tidings.model.accounting import MINUTE_MS
from tidings.model.days import DAY_MINUTES, DAY_MS
from tidings.model.ids import instant_of
from tidings.model.vocabulary import State
from tidings.policy.days import SETTLED_DAYS, worth_rolling
from tidings.policy.transitions import STATES_PER_ATTEMPT

SQL = load("days")
LOCK_TIMEOUT = "5s"
_HOUR = DAY_MS // 24

Line: TypeAlias = tuple[str, str | None, State, str]
"""Tenant, channel (None: notifications), state, reason."""


class Rolled(Struct):
    """The sums of a day or of a part of it.

    By tenant: `counted` is the sum of the counters, `accepted` the larger of counted and recorded, taken minute by
    minute, so that a surplus in one minute does not hide a lack in another.
    """

    lines: Counter[Line] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)

    def add(self, rows: Iterable[Iterable[Any]], counted: Iterable[Iterable[Any]] = ()) -> None:
        """Add some whole minutes: rows of the statement `roll`, and the counts by tenant and minute."""
        by_minute: Counter[tuple[str, int]] = Counter({(tenant, minute): count for tenant, minute, count in counted})
        recorded: Counter[tuple[str, int]] = Counter()
        for tenant, minute, slot, number, reason, count in rows:
            self.lines[(tenant, *tallied(slot, number, reason))] += count
            if not slot:
                recorded[tenant, minute] += count
        for (tenant, _), count in by_minute.items():
            self.counted[tenant] += count
        for (tenant, _), count in (by_minute | recorded).items():
            self.accepted[tenant] += count

    def recorded(self) -> Counter[str]:
        """The number of recorded notifications by tenant."""
        found: Counter[str] = Counter()
        for (tenant, channel, _, _), count in self.lines.items():
            if channel is None:
                found[tenant] += count
        return found

    def without(self, other: Rolled) -> Rolled:
        """The lines minus the other's lines."""
        return Rolled(self.lines - other.lines)

    def totals(self) -> dict[str, tuple[int, int, int, int]]:
        """Counted, accepted, recorded and missing by tenant."""
        recorded = self.recorded()
        return {
            tenant: (self.counted[tenant], max(self.accepted[tenant], recorded[tenant]), recorded[tenant], 0)
            for tenant in self.accepted.keys() | recorded.keys()
        }


class Rolling:
    """Reads days and stores their sums."""

    def __init__(self, pool: ConnectionPool, leaves: Leaves, history: PostgresHistory) -> None:
        self._pool = pool
        self._leaves = leaves
        self._history = history
        self._reader = uuid4()

    async def roll(self, now: int) -> int:
        """See Days."""
        with translated():
            changed = [tuple(row) for row in await self._pool.fetch(SQL["changed"], now // DAY_MS)]
        done = 0
        for day, rolled_at in changed:
            if worth_rolling(day, now, rolled_at):
                done += await self._roll(day, now)
        with translated():
            for row in await self._pool.fetch(SQL["to_fold"], now // DAY_MS - SETTLED_DAYS):
                await self._fold(row[0])
        return done

    async def _roll(self, day: int, now: int) -> bool:
        """Sum up one day. False if it was written to meanwhile."""
        await self._clean(day)
        folded = await self._is_folded(day)
        rolled = Rolled()
        for low, high in hours(day):
            rows = await self._leaves.fetch(
                "roll", day, low, high, PLACES, STATES_PER_ATTEMPT, PENDING_PLACE, file="days",
                within_s=READ_WITHIN_S,
            )  # fmt: skip
            with translated():
                span = instant_of(low) // MINUTE_MS, instant_of(high) // MINUTE_MS
                rolled.add(rows, [] if folded else await self._pool.fetch(SQL["counted"], *span))
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                if await self._unchanged(connection, day) != (True, folded):
                    return False
                if folded:
                    await _add_what_was_known(connection, day, rolled)
                await connection.execute(SQL["replace_sums"], day)
                await write_sums(connection, day, rolled, rolled.totals(), archived=False)
                await connection.execute(SQL["rolled"], day, now)
        return True

    async def _is_folded(self, day: int) -> bool:
        with translated():
            [row] = await self._pool.fetch(SQL["states"], day, day)
        return bool(row["folded"])

    async def _clean(self, day: int) -> None:
        """Wait for the day's writers and clear its mark. Any later writer marks it again."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await hold(connection, day, "hold")
                self._reader = uuid4()
                await connection.execute(SQL["clean"], day, self._reader)

    async def _unchanged(self, connection: PooledConnection, day: int) -> tuple[bool, bool]:
        """Whether nobody has written to the day since `_clean`, and whether it is folded.

        Both stay so until the transaction ends.
        """
        [(clean, folded)] = await connection.fetch(SQL["still_clean"], day, self._reader)
        return clean, folded

    async def _fold(self, day: int) -> None:
        await self._pool.execute(SQL["fold"], day)


async def hold(connection: PooledConnection, day: int, name: str) -> None:
    """Lock the day's tables until the transaction ends. Raises LockNotAvailableError after some seconds."""
    await connection.execute("SELECT set_config('lock_timeout', $1, true)", LOCK_TIMEOUT)
    await connection.execute(statement(name, day, "days"))


async def read_carried(connection: PooledConnection, day: int) -> Rolled:
    """The sums of the day's carried notifications, read in the connection's transaction."""
    rolled = Rolled()
    rolled.add(
        await connection.fetch(
            statement("roll", CARRIED, "days"), *bounds(day), PLACES, STATES_PER_ATTEMPT, PENDING_PLACE,
            timeout=READ_WITHIN_S,
        )
    )  # fmt: skip
    return rolled


async def write_sums(
    connection: PooledConnection, day: int, rolled: Rolled, totals: Mapping[str, Sequence[int]], *, archived: bool
) -> None:
    """Add to the day's stored sums. `totals` holds counted, accepted, recorded and missing by tenant."""
    if totals:
        rows = [(tenant, *numbers) for tenant, numbers in sorted(totals.items())]
        await connection.execute(SQL["write_totals"], day, archived, *zip(*rows, strict=True))
    if rolled.lines:
        lines = [
            (tenant, channel or "", state.value, reason, count)
            for (tenant, channel, state, reason), count in rolled.lines.items()
        ]
        await connection.execute(SQL["write_accounts"], day, archived, *zip(*sorted(lines), strict=True))


def hours(day: int) -> Iterator[tuple[UUID, UUID]]:
    """The ranges of ids of the hours of a day: from (inclusive), to (exclusive)."""
    for at in range(day * DAY_MS, (day + 1) * DAY_MS, _HOUR):
        yield UUID(int=at << 80), UUID(int=(at + _HOUR) << 80)


def bounds(day: int) -> tuple[UUID, UUID]:
    """The first id of a day, and the first after it."""
    return UUID(int=day * DAY_MS << 80), UUID(int=(day + 1) * DAY_MS << 80)


def segments_of(day: int, leaf: int) -> list[Segment]:
    """The hours of a day as segments of a leaf."""
    return [Segment(leaf, low, high) for low, high in hours(day)]


def _minutes(day: int) -> tuple[int, int]:
    return day * DAY_MINUTES, (day + 1) * DAY_MINUTES


async def _add_what_was_known(connection: PooledConnection, day: int, rolled: Rolled) -> None:
    """Add the counts of a folded day: those in its stored totals, and those that came in after it was folded."""
    for tenant, count in await connection.fetch(SQL["take_counted"], *_minutes(day)):
        rolled.counted[tenant] += count
    for tenant, counted, accepted in await connection.fetch(SQL["totals_before"], day):
        rolled.counted[tenant] += counted
        rolled.accepted[tenant] = max(rolled.accepted[tenant], accepted)
    for tenant, count in rolled.counted.items():
        rolled.accepted[tenant] = max(rolled.accepted[tenant], count)
