"""The history in PostgreSQL: append-only, one leaf for each day (leaves.py)."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

import asyncpg

from tidings.backends.postgres import devices
from tidings.backends.postgres.batch import Batch, columns
from tidings.backends.postgres.connection import ConnectionPool, PooledConnection, translated
from tidings.backends.postgres.leaves import ASK_AFTER_LEAVES, CARRIED, LAST_ID, Leaves, Segment, statement
from tidings.backends.postgres.statements import load
from tidings.model.accounting import MINUTE_MS, StateCount
from tidings.model.days import DAY_MS, day_of
from tidings.model.errors import Unavailable
from tidings.model.history import Event, HistoryFilter, NotificationRecord, Tally
from tidings.model.ids import notification_of
from tidings.model.outcome import Outcome
from tidings.model.sending import Handed
from tidings.model.vocabulary import Reason, State
from tidings.policy.days import Place, place
from tidings.policy.routing import channel_of
from tidings.policy.rows import Head, event_of, record_of
from tidings.policy.transitions import (
    HANDED,
    IN_FLIGHT,
    PRECEDENCE,
    RESTING,
    STATES_PER_ATTEMPT,
    TRIED_AGAIN,
    code,
    state_of,
)
from tidings.ports.history import Page

PLACES = [PRECEDENCE.index(state) for state in sorted(State, key=code)]
"""The place in the precedence, for each state's code."""
PENDING_PLACE = PRECEDENCE.index(State.PENDING)
_HANDED_WITHIN_S = 2.0
READ_WITHIN_S = 300.0
"""Seconds that a statement may take that reads a range of the history."""

_SQL = load("history")
_SLOTS = 0xFF
_STRETCH = 500
"""Notifications that one query of `find` reads when it filters by state or category."""
_MOST_STRETCHES = 20
_MOST_LOOKS = 100
"""The most queries for one page, most of which read a leaf without a match."""
_TRIES = 3
_RESTING_CODES = [code(state) for state in sorted(RESTING)]


class PostgresHistory:
    """See History."""

    def __init__(self, pool: ConnectionPool, leaves: Leaves) -> None:
        self._pool = pool
        self._leaves = leaves

    async def maintain(self, now: int) -> int:
        """Create the leaves from yesterday to a week after `now`; returns how many tables were missing."""
        return await self._leaves.maintain(now)

    async def append(self, outcomes: Sequence[Outcome]) -> Mapping[str, int]:
        """See History."""
        if not outcomes:
            return {}
        for _ in range(_TRIES):
            groups, refused = await self._placed(outcomes)
            batches = {day: Batch.of(group) for day, group in sorted(groups.items())}
            try:
                try:
                    await self._write(batches)
                except (asyncpg.DataError, ValueError):
                    # A vendor's text may hold characters that PostgreSQL's text cannot: NUL, an unpaired surrogate.
                    await self._write({day: batch.cleaned() for day, batch in batches.items()})
            except asyncpg.UndefinedTableError:  # a leaf was archived after the list of leaves was read
                self._leaves.forget()
            else:
                self._leaves.written(batches)
                return refused
        raise Unavailable("days of the history were archived while a batch for them was written")

    async def get(self, tenant: str, notification_id: UUID) -> NotificationRecord | None:
        """See History."""
        last = UUID(int=notification_id.int | _SLOTS)
        day = await self._leaves.of(notification_id)
        rows = await self._leaves.fetch("get", day, tenant, notification_id, last)
        if not rows:
            return None
        first = rows[0]
        head = Head(
            notification_id,
            first["pending_at"],
            first["pending_slots"],
            first["pending_addresses"],
            first["body"],
        )
        return record_of(head, [event_of(row[4:]) for row in map(tuple, rows) if row[4] is not None])

    async def find(self, tenant: str, filter: HistoryFilter, before: UUID | None, limit: int) -> Page:
        """See History. The work is bounded: after some thousand notifications a page ends, with a cursor."""
        narrow = filter.state is not None or filter.category is not None
        stretch = _STRETCH if narrow else limit + 1
        low = 0 if filter.since is None else max(0, filter.since << 80)
        high = LAST_ID if filter.until is None else min(LAST_ID, max(0, filter.until << 80))
        if before is not None:
            high = min(high, before.int)
        found: list[Head] = []
        looks = full = 0
        empty: set[int] | None = None
        for segment in await self._leaves.segments(low, high):
            if looks >= ASK_AFTER_LEAVES and empty is None:
                wanted = State if filter.state is None else [filter.state]
                empty = await self._leaves.without(tenant, wanted, deliveries=False)
            if empty is not None and segment.day in empty:
                continue
            end = segment.high
            while True:
                if looks == _MOST_LOOKS or full == _MOST_STRETCHES:
                    return await self._page(found, end)
                rows = await self._stretch(tenant, filter, segment.day, segment.low, end, stretch)
                looks += 1
                found += [Head(*row) for row in rows if row["body"] is not None]
                if len(found) > limit:
                    return await self._page(found[:limit], found[limit - 1].id)
                if len(rows) < stretch:
                    break
                full += 1
                end = rows[-1]["id"]
        return await self._page(found, None)

    async def records(self, found: Sequence[Head]) -> list[NotificationRecord]:
        """The records of these notifications: with their events."""
        events: dict[UUID, list[Event]] = {head.id: [] for head in found}
        for day, ids in (await self._leaves.split(events)).items():
            for row in await self._leaves.fetch("events_of", day, ids):
                event = event_of(tuple(row))
                events[notification_of(event.id)].append(event)
        return [record_of(head, events[head.id]) for head in found]

    async def attempted(self, attempts: Sequence[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
        """See History."""
        over: set[tuple[UUID, int]] = set()
        for day, asked in await self._split(attempts):
            rows = await self._leaves.fetch(
                "attempted",
                day,
                *asked,
                STATES_PER_ATTEMPT,
                _RESTING_CODES,
                code(State.DEFERRED),
                sorted(TRIED_AGAIN),
            )
            over |= {(id, attempt) for id, attempt in rows}
        return over

    async def waited(self, attempts: Sequence[tuple[UUID, int]]) -> Mapping[tuple[UUID, int], int]:
        """See History."""
        steps: dict[tuple[UUID, int], int] = {}
        for day, asked in await self._split(attempts):
            rows = await self._leaves.fetch(
                "waited",
                day,
                *asked,
                STATES_PER_ATTEMPT,
                code(State.DEFERRED),
                sorted(TRIED_AGAIN),
                code(State.PENDING),
                Reason.MAY_HAVE_BEEN_SENT.value,
            )
            steps |= {(id, attempt): step for id, attempt, step in rows}
        return steps

    async def _split(self, attempts: Sequence[tuple[UUID, int]]) -> list[tuple[int, tuple[Sequence[object], ...]]]:
        """The days of these attempts, each with the columns of its delivery ids and attempt numbers."""
        numbers: dict[UUID, set[int]] = {}
        for id, number in attempts:
            numbers.setdefault(id, set()).add(number)
        return [
            (day, tuple(zip(*((id, number) for id in ids for number in sorted(numbers[id])), strict=True)))
            for day, ids in (await self._leaves.split(numbers)).items()
        ]

    async def arrived(self, delivery_ids: Collection[UUID]) -> set[UUID]:
        """See History."""
        found: set[UUID] = set()
        for day, ids in (await self._leaves.split(delivery_ids)).items():
            rows = await self._leaves.fetch("arrived", day, ids, STATES_PER_ATTEMPT, code(State.DELIVERED))
            found |= {row["id"] for row in rows}
        return found

    async def handed(
        self, provider: str, references: Collection[str], addresses: Collection[str], since: int, until: int
    ) -> Sequence[Handed]:
        """See History."""
        found: list[Handed] = []
        codes = sorted(code(state) for state in HANDED)
        for segment in await self._leaves.segments(max(0, since) << 80, max(0, until) << 80):
            rows = await self._leaves.fetch(
                "handed",
                segment.day,
                provider,
                [reference for reference in references if reference],
                list(addresses),
                segment.low,
                segment.high,
                STATES_PER_ATTEMPT,
                codes,
                within_s=_HANDED_WITHIN_S,
            )
            found += [Handed(*row) for row in rows]
        return found

    async def tally(self, tenant: str, since: int | None = None, until: int | None = None) -> Sequence[Tally]:
        """See History. Reads all of the tenant's notifications of that time: some microseconds each."""
        counts: Counter[tuple[str | None, State, str]] = Counter()
        for part in await self._leaves.segments(_first(since, 0), _first(until, LAST_ID)):
            rows = await self._leaves.fetch(
                "tally", part.day, tenant, part.low, PLACES, STATES_PER_ATTEMPT, PENDING_PLACE, part.high,
                within_s=READ_WITHIN_S,
            )  # fmt: skip
            for slot, number, reason, count in rows:
                counts[tallied(slot, number, reason)] += count
        return tallies(counts)

    async def states(
        self, since: int, until: int, tenant: str | None = None, *, in_flight: bool = False
    ) -> Sequence[StateCount]:
        """See History."""
        found: list[StateCount] = []
        parts = await self._leaves.segments(_first(since * MINUTE_MS, 0), _first(until * MINUTE_MS, LAST_ID))
        for part in reversed(parts):
            found += await self.states_in(part, tenant, in_flight=in_flight)
        return found

    async def states_in(self, part: Segment, tenant: str | None, *, in_flight: bool) -> list[StateCount]:
        """As `states`, for a segment of one leaf."""
        arguments = [
            part.low, part.high, PLACES, STATES_PER_ATTEMPT, PENDING_PLACE, len(IN_FLIGHT), in_flight,
        ]  # fmt: skip
        if tenant is None:
            rows = await self._leaves.fetch("states", part.day, *arguments, within_s=READ_WITHIN_S)
        else:
            rows = await self._leaves.fetch("states_of_tenant", part.day, *arguments, tenant, within_s=READ_WITHIN_S)
        return [
            StateCount(owner, minute, PRECEDENCE[place], count, tuple(ids)) for owner, minute, place, count, ids in rows
        ]

    async def get_many(self, notification_ids: Collection[UUID]) -> Sequence[NotificationRecord]:
        """See History."""
        return await self.records(await self.heads(notification_ids))

    async def heads(self, notification_ids: Collection[UUID]) -> list[Head]:
        """The rows of these notifications."""
        found: list[Head] = []
        for day, ids in (await self._leaves.split(notification_ids)).items():
            found += [Head(*row) for row in await self._leaves.fetch("heads", day, ids)]
        return found

    async def _placed(self, outcomes: Sequence[Outcome]) -> tuple[dict[int, list[Outcome]], Counter[str]]:
        """The outcomes by leaf, and how many have no leaf, by reason. Creates missing leaves."""
        groups: dict[int, list[Outcome]] = {}
        for outcome in outcomes:
            groups.setdefault(day_of(outcome.id), []).append(outcome)
        refused: Counter[str] = Counter()
        unknown = groups.keys() - set(await self._leaves.days())
        if not unknown:
            return groups, refused
        today = time.time_ns() // 1_000_000 // DAY_MS
        with translated():
            rows = await self._pool.fetch(_SQL["placed"], sorted(unknown))
        archived = {number for number, state in rows if state != "open"}
        places = {day: place(day, today, archived=day in archived) for day in unknown}
        missing = sorted(day for day in unknown if places[day] is Place.MAKE)
        if missing:
            await self._leaves.ensure(missing, missing[-1])
        for day in unknown:
            if places[day] is Place.ARCHIVED:
                kept = await self._of_carried(groups[day])
                refused[Place.ARCHIVED.value] += len(groups.pop(day)) - len(kept)
                if kept:
                    groups.setdefault(CARRIED, []).extend(kept)
            elif places[day] is not Place.MAKE:
                refused[places[day].value] += len(groups.pop(day))
        return groups, +refused

    async def _of_carried(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Those of these outcomes whose notification is carried."""
        with translated():
            rows = await self._pool.fetch(_SQL["carried"], list({notification_of(one.id) for one in outcomes}))
        carried = {row[0] for row in rows}
        return [one for one in outcomes if notification_of(one.id) in carried]

    async def _write(self, batches: Mapping[int, Batch]) -> None:
        """Write all batches in one transaction. A single statement needs no explicit one."""
        with translated():
            if len(batches) == 1:
                [(day, batch)] = batches.items()
                if not (batch.waits or batch.suppressions or batch.letters):
                    rows = *columns(batch.notifications, 8), *columns(batch.events, 10)
                    if not batch.postponed:
                        # It fails for a batch that is repeated after a crash, which is rare; `append` then writes it.
                        with contextlib.suppress(asyncpg.UniqueViolationError):
                            await self._pool.execute(statement("append_new", day), *rows)
                            return
                    await self._pool.execute(statement("append", day), *rows)
                    return
            if not batches:
                return
            async with self._pool.acquire() as connection, connection.transaction():
                for day, batch in batches.items():
                    await _write_with_effects(connection, day, batch)

    async def _stretch(
        self, tenant: str, filter: HistoryFilter, day: int, low: UUID, high: UUID, stretch: int
    ) -> list[asyncpg.Record]:
        wanted = None if filter.state is None else PRECEDENCE.index(filter.state)
        arguments = [
            tenant, low, high, stretch, filter.category, wanted, PLACES, STATES_PER_ATTEMPT, PENDING_PLACE,
        ]  # fmt: skip
        if filter.user_id is None:
            return await self._leaves.fetch("find", day, *arguments)
        return await self._leaves.fetch("find_of_user", day, *arguments, filter.user_id)

    async def _page(self, found: Sequence[Head], cursor: UUID | None) -> Page:
        return Page(tuple(await self.records(found)), cursor)


async def _write_with_effects(connection: PooledConnection, day: int, batch: Batch) -> None:
    events = columns(batch.events, 10)
    if not (batch.waits or batch.suppressions):
        await connection.execute(statement("append", day), *columns(batch.notifications, 8), *events)
    else:
        if batch.notifications:
            await connection.execute(statement("append", day), *columns(batch.notifications, 8), *columns([], 10))
        waits, suppressions = columns(batch.waits, 12), columns(batch.suppressions, 7)
        gone = await connection.fetch(statement("append_with_effects", day), *events, *waits, *suppressions)
        if gone:
            await devices.forget(connection, [(row[0], row[1]) for row in gone], max(batch.instants))
    if batch.letters:
        await connection.execute(statement("note_letters", day), *zip(*batch.letters, strict=True))


def tallied(slot: int, number: int, reason: str) -> tuple[str | None, State, str]:
    """Channel, state and reason of a row of a tally.

    `number` is the state's code for deliveries, and the state's place in the precedence for notifications (slot 0).
    """
    if slot:
        return channel_of(UUID(int=slot)).value, state_of(number), reason
    return None, PRECEDENCE[number], reason


def tallies(counts: Mapping[tuple[str | None, State, str], int]) -> list[Tally]:
    """Counts as a sorted tally."""
    ordered = sorted(counts.items(), key=lambda entry: (entry[0][0] or "", entry[0][1], entry[0][2]))
    return [Tally(channel, state, reason, count) for (channel, state, reason), count in ordered]


def _first(at: int | None, otherwise: int) -> int:
    """The smallest id of an instant (milliseconds since the epoch), as an integer; `otherwise` if `at` is None."""
    return otherwise if at is None else min(LAST_ID, max(0, at) << 80)
