"""History in PostgreSQL: append-only facts, partitioned by day."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TypeVar
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from tidings.backends.postgres import devices
from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.model.accounting import MINUTE, StateCount
from tidings.model.history import Event, HistoryFilter, NotificationRecord, Tally
from tidings.model.ids import delivery_id, notification_of, slot_of
from tidings.model.notification import Notification
from tidings.model.outcome import Outcome
from tidings.model.vocabulary import State
from tidings.model.wire import decode_notification, encode
from tidings.policy.addresses import identity
from tidings.policy.routing import channel_of
from tidings.policy.transitions import (
    IN_FLIGHT,
    PRECEDENCE,
    RESTING,
    STATES_PER_ATTEMPT,
    TRIED_AGAIN,
    code,
    rank,
    state_of,
)
from tidings.ports.store import Page

DAYS_AHEAD = 7
"""For how many days partitions are made in advance."""

_SQL = load("history")
_DAY = 86_400_000
_SLOTS = 0xFF
_FIRST_ID = UUID(int=0)
_LAST_ID = UUID(int=(1 << 128) - 1)
_STRETCH = 500
"""Notifications that one query of `find` looks at when it filters by state or category."""
_MOST_STRETCHES = 20
_TALLY_WITHIN = 300.0

_RESTING_CODES = [code(state) for state in sorted(RESTING)]
_PLACES = [PRECEDENCE.index(state) for state in sorted(State, key=code)]
_PENDING_PLACE = PRECEDENCE.index(State.PENDING)
_PENDING_RANK = rank(State.PENDING, 1)
_ARRIVED_RANK = rank(State.DELIVERED, 1)
_encode_addresses = msgspec.msgpack.Encoder().encode
_decode_addresses = msgspec.msgpack.Decoder(list[str]).decode

Row = TypeVar("Row", bound=tuple[object, ...])
_Event = tuple[UUID, int, int, int, int, str, str, str, str, str]
"""id, rank, step, attempt, at, reason, provider, reference, detail, address."""
_NotificationRow = tuple[UUID, str, str | None, str, int | None, bytes | None, bytes | None, bytes]
"""id, tenant, user_id, category, pending_at, pending_slots, pending_addresses, body."""


class PostgresHistory:
    """See History."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def maintain(self, now: int) -> int:
        """Make the partitions from yesterday to a week after `now`; how many were missing. To be called daily."""
        with translated():
            made: int = await self._pool.fetchval(_SQL["ensure_partitions"], now // _DAY - 1, DAYS_AHEAD + 2)
        return made

    async def append(self, outcomes: Sequence[Outcome]) -> None:
        """See History."""
        if not outcomes:
            return
        batch = _Batch.of(outcomes)
        try:
            await self._write(batch)
        except (asyncpg.DataError, ValueError):
            # A vendor's text may hold what PostgreSQL's text cannot: NUL or half a surrogate pair.
            await self._write(batch.cleaned())

    async def get(self, tenant: str, notification_id: UUID) -> NotificationRecord | None:
        """See History."""
        last = UUID(int=notification_id.int | _SLOTS)
        with translated():
            rows = await self._pool.fetch(_SQL["get"], tenant, notification_id, last)
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
        return _record(head, [_event(row[4:]) for row in map(tuple, rows) if row[4] is not None])

    async def find(self, tenant: str, filter: HistoryFilter, before: UUID | None, limit: int) -> Page:
        """See History. Bounded: a page that has looked at some thousand notifications ends, with a cursor."""
        narrow = filter.state is not None or filter.category is not None
        stretch = _STRETCH if narrow else limit + 1
        low = _FIRST_ID if filter.since is None else UUID(int=filter.since << 80)
        high = _LAST_ID if filter.until is None else UUID(int=filter.until << 80)
        if before is not None:
            high = min(high, before)
        found: list[Head] = []
        for _ in range(_MOST_STRETCHES):
            rows = await self._stretch(tenant, filter, low, high, stretch)
            found += [Head(*row) for row in rows if row["body"] is not None]
            if len(found) > limit:
                return await self._page(found[:limit], found[limit - 1].id)
            if len(rows) < stretch:
                return await self._page(found, None)
            high = rows[-1]["id"]
        return await self._page(found, high)

    async def records(self, found: Sequence[Head]) -> list[NotificationRecord]:
        """These notifications with their events."""
        if not found:
            return []
        with translated():
            rows = await self._pool.fetch(_SQL["events_of"], [head.id for head in found])
        events: dict[UUID, list[Event]] = {head.id: [] for head in found}
        for row in rows:
            event = _event(tuple(row))
            events[notification_of(event.id)].append(event)
        return [_record(head, events[head.id]) for head in found]

    async def attempted(self, attempts: Sequence[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
        """See History."""
        if not attempts:
            return set()
        ids, numbers = zip(*attempts, strict=True)
        with translated():
            rows = await self._pool.fetch(
                _SQL["attempted"],
                ids,
                numbers,
                STATES_PER_ATTEMPT,
                _RESTING_CODES,
                code(State.DEFERRED),
                sorted(TRIED_AGAIN),
            )
        return {(id, attempt) for id, attempt in rows}

    async def arrived(self, delivery_ids: Collection[UUID]) -> set[UUID]:
        """See History."""
        if not delivery_ids:
            return set()
        with translated():
            rows = await self._pool.fetch(_SQL["arrived"], list(delivery_ids), _ARRIVED_RANK)
        return {row["id"] for row in rows}

    async def tally(self, tenant: str, since: int | None = None, until: int | None = None) -> Sequence[Tally]:
        """See History. Reads all that the tenant has from `since` on: some microseconds a notification."""
        low = _FIRST_ID if since is None else UUID(int=since << 80)
        high = _LAST_ID if until is None else UUID(int=until << 80)
        with translated():
            rows = await self._pool.fetch(
                _SQL["tally"],
                tenant,
                low,
                _PLACES,
                STATES_PER_ATTEMPT,
                _PENDING_PLACE,
                _PENDING_RANK,
                high,
                timeout=_TALLY_WITHIN,
            )
        counts: Counter[tuple[str | None, State, str]] = Counter()
        for slot, number, reason, count in rows:
            if slot:
                counts[channel_of(UUID(int=slot)).value, state_of(number), reason] += count
            else:
                counts[None, PRECEDENCE[number], reason] += count
        ordered = sorted(counts.items(), key=lambda entry: (entry[0][0] or "", entry[0][1], entry[0][2]))
        return [Tally(channel, state, reason, count) for (channel, state, reason), count in ordered]

    async def states(
        self, since: int, until: int, tenant: str | None = None, *, in_flight: bool = False
    ) -> Sequence[StateCount]:
        """See History."""
        with translated():
            rows = await self._pool.fetch(
                _SQL["states"],
                UUID(int=since * MINUTE << 80),
                UUID(int=until * MINUTE << 80),
                tenant,
                _PLACES,
                STATES_PER_ATTEMPT,
                _PENDING_PLACE,
                len(IN_FLIGHT),
                in_flight,
                timeout=_TALLY_WITHIN,
            )
        return [
            StateCount(owner, minute, PRECEDENCE[place], count, tuple(ids)) for owner, minute, place, count, ids in rows
        ]

    async def get_many(self, notification_ids: Collection[UUID]) -> Sequence[NotificationRecord]:
        """See History."""
        if not notification_ids:
            return []
        with translated():
            rows = await self._pool.fetch(_SQL["heads"], list(notification_ids))
        return await self.records([Head(*row) for row in rows])

    async def _write(self, batch: _Batch) -> None:
        notifications = _columns(batch.notifications, 8)
        events = _columns(batch.events, 10)
        with translated():
            if not (batch.waits or batch.suppressions):
                if not batch.returning:
                    # A batch that was repeated after a crash is rare, and written again with care.
                    with contextlib.suppress(asyncpg.UniqueViolationError):
                        await self._pool.execute(_SQL["append_new"], *notifications, *events)
                        return
                await self._pool.execute(_SQL["append"], *notifications, *events)
                return
            waits, suppressions = _columns(batch.waits, 11), _columns(batch.suppressions, 7)
            async with self._pool.acquire() as connection, connection.transaction():
                if batch.notifications:
                    await connection.execute(_SQL["append"], *notifications, *_columns([], 10))
                gone = await connection.fetch(
                    _SQL["append_with_effects"], *events, *waits[:9], *suppressions, *waits[9:]
                )
                if gone:
                    await devices.forget(connection, [(row[0], row[1]) for row in gone], max(batch.instants))

    async def _stretch(
        self, tenant: str, filter: HistoryFilter, low: UUID, high: UUID, stretch: int
    ) -> list[asyncpg.Record]:
        place = None if filter.state is None else PRECEDENCE.index(filter.state)
        arguments = [
            tenant, low, high, stretch, filter.category, place, _PLACES, STATES_PER_ATTEMPT, _PENDING_PLACE,
            _PENDING_RANK,
        ]  # fmt: skip
        with translated():
            if filter.user_id is None:
                return await self._pool.fetch(_SQL["find"], *arguments)
            return await self._pool.fetch(_SQL["find_of_user"], *arguments, filter.user_id)

    async def _page(self, found: Sequence[Head], cursor: UUID | None) -> Page:
        return Page(tuple(await self.records(found)), cursor)


class Head(Struct, frozen=True):
    """A notification's row, as far as reading needs it."""

    id: UUID
    pending_at: int | None
    pending_slots: bytes | None
    pending_addresses: bytes | None
    body: bytes


class _Routed(Struct):
    """A notification's row in the making: `pending_at`, and the deliveries that were merely pending at that moment."""

    notification: Notification
    pending_at: int | None = None
    pending: dict[int, str] = {}

    def row(self) -> _NotificationRow:
        one = self.notification
        slots = bytes(self.pending) if self.pending else None
        addresses = _encode_addresses(list(self.pending.values())) if self.pending else None
        return (one.id, one.tenant, one.to.user_id, one.category, self.pending_at, slots, addresses, encode(one))


class _Batch(Struct, frozen=True):
    """Outcomes as rows, sorted by key."""

    notifications: list[_NotificationRow]
    events: list[_Event]
    waits: list[tuple[UUID, int, int, int, UUID, int, str, bytes, bytes, int, bool]]
    suppressions: list[tuple[UUID, int, int, int, str, str, str]]
    returning: bool
    """Whether some notifications were put off, and have their row already."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> _Batch:
        notifications: dict[UUID, _Routed] = {}
        events: list[_Event] = []
        waits: dict[tuple[UUID, int, int, int], tuple[UUID, int, str, bytes, bytes, int, bool]] = {}
        suppressions: dict[tuple[UUID, int, int, int], tuple[str, str, str]] = {}
        for outcome in outcomes:
            id = outcome.id
            if (one := outcome.notification) is not None:
                routed = notifications.get(one.id)
                if routed is None:
                    routed = notifications[one.id] = _Routed(one)
                if _is_merely_pending(outcome, 0):
                    if routed.pending_at is None:
                        routed.pending_at = outcome.at
                    continue
            address = outcome.address
            if address is not None and _is_merely_pending(outcome, 1):
                routed = notifications.get(notification_of(id))
                if routed is not None and routed.pending_at == outcome.at:
                    routed.pending.setdefault(slot_of(id), address.value)
                    continue
            fact = (id, rank(outcome.state, outcome.attempt), outcome.step, outcome.attempt)
            events.append(
                (
                    *fact, outcome.at, outcome.reason, outcome.provider, outcome.reference, outcome.detail,
                    "" if address is None else address.value,
                )
            )  # fmt: skip
            if (wait := outcome.wait) is not None:
                key = wait.key.encode("utf-8", "surrogatepass")
                waits.setdefault(
                    fact,
                    (notification_of(id), wait.due, wait.topic, key, wait.body, int(wait.repeated), wait.held),
                )
            if outcome.suppress and address is not None:
                known = identity(address)
                suppressions.setdefault(fact, (outcome.tenant, known.channel.value, known.value))
        events.sort(key=_event_order)
        return cls(
            [routed.row() for _, routed in sorted(notifications.items(), key=_notification_order)],
            events,
            [(*fact, *wait) for fact, wait in waits.items()],
            [(*fact, *suppression) for fact, suppression in suppressions.items()],
            any(routed.notification.step for routed in notifications.values()),
        )

    @property
    def instants(self) -> list[int]:
        """When the facts happened, in milliseconds since the epoch."""
        return [event[4] for event in self.events]

    def cleaned(self) -> _Batch:
        """The same with texts that PostgreSQL can hold."""
        return _Batch(
            [_clean(row) for row in self.notifications],
            [_clean(row) for row in self.events],
            [_clean(row) for row in self.waits],
            [_clean(row) for row in self.suppressions],
            self.returning,
        )


def _is_merely_pending(outcome: Outcome, attempt: int) -> bool:
    """Whether the notification's row can say all of it: of the notification (attempt 0) or a delivery (1)."""
    return (
        outcome.state is State.PENDING
        and outcome.attempt == attempt
        and (slot_of(outcome.id) == 0) == (attempt == 0)
        and (outcome.address is None) == (attempt == 0)
        and not (outcome.step or outcome.wait or outcome.suppress)
        and not (outcome.reason or outcome.provider or outcome.reference or outcome.detail)
    )


def _event_order(row: _Event) -> int:
    return (row[0].int << 32 | row[1]) << 32 | row[2]


def _notification_order(entry: tuple[UUID, object]) -> int:
    return entry[0].int


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[Sequence[object]]:
    """Rows as columns. One that says nothing (all empty, all zero) stays empty: the statements fill it in."""
    return [column if any(column) else () for column in zip(*rows, strict=True)] if rows else [()] * width


def _event(row: Sequence[object]) -> Event:
    id, rank, step, attempt, at, reason, provider, reference, detail, address = row
    return Event(id, at, state_of(rank), attempt, step, reason, provider, reference, detail, address)  # type: ignore[arg-type]  # the columns' types are the schema's


def _record(head: Head, events: list[Event]) -> NotificationRecord:
    if head.pending_at is not None:
        events.append(Event(head.id, head.pending_at, State.PENDING))
    if head.pending_at is not None and head.pending_slots and head.pending_addresses:
        told = {(event.id, event.state, event.attempt, event.step) for event in events}
        for slot, address in zip(head.pending_slots, _decode_addresses(head.pending_addresses), strict=True):
            id = delivery_id(head.id, slot)
            if (id, State.PENDING, 1, 0) not in told:
                events.append(Event(id, head.pending_at, State.PENDING, attempt=1, address=address))
    events.sort(key=lambda event: (event.at, event.attempt, event.step, rank(event.state, event.attempt), event.id))
    return NotificationRecord(decode_notification(head.body), tuple(events))


def _clean(row: Row) -> Row:
    return tuple(  # type: ignore[return-value]  # each text stays a text
        value.encode("utf-8", "replace").decode().replace("\0", "\ufffd") if isinstance(value, str) else value
        for value in row
    )
