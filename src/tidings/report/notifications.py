"""Notifications as the API shows them: state, deliveries, attempts, timeline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from uuid import UUID

import msgspec
from msgspec import Struct

from tidings.model.days import day_of, day_text
from tidings.model.errors import Archived, NotFound
from tidings.model.history import Event, HistoryFilter, NotificationRecord
from tidings.model.ids import DELIVERY_PREFIX, NOTIFICATION_PREFIX, from_text, instant_of, slot_of, to_text
from tidings.model.topics import DELIVERIES
from tidings.model.vocabulary import Channel, State
from tidings.model.wire import decode_delivery
from tidings.policy.letters import last_address
from tidings.policy.routing import channel_of
from tidings.policy.transitions import (
    ATTEMPTED,
    TRIED_AGAIN,
    came_back,
    notification_state,
    number_in_life,
    rank,
)
from tidings.ports.clock import Clock
from tidings.ports.days import Days
from tidings.ports.history import History
from tidings.ports.schedule import Schedule, Waiting

PATIENCE_MS = 3_000
"""How long a read waits for a young id that is not recorded yet."""
YOUNG_MS = 10_000
"""The age up to which an id is young: the recorder may not have recorded it yet."""
LOOK_EVERY_S = 0.03


class AttemptView(Struct, frozen=True):
    """One try at one provider, with the furthest state that it reached."""

    number: int
    at: str
    state: State
    provider: str
    reason: str
    detail: str


class DeliveryView(Struct, frozen=True):
    """One notification on one channel to one address. `next_at` is when a waiting delivery is due."""

    id: str
    channel: Channel
    address: str
    state: State
    provider: str
    reason: str
    next_at: str | None
    attempts: list[AttemptView]


class TimelineEntry(Struct, frozen=True):
    """One recorded fact; `delivery` and `channel` are None for a fact about the whole notification."""

    at: str
    delivery: str | None
    channel: Channel | None
    state: State
    attempt: int
    provider: str
    reason: str
    detail: str


class NotificationView(Struct, frozen=True):
    """A notification with its deliveries and its timeline. Times are RFC 3339, UTC.

    `send_at_local` is a local time of the user; once the notification is routed, with its date. `next_at` is when the
    notification, or the first of its waiting deliveries, is due.
    """

    id: str
    state: State
    reason: str
    user_id: str | None
    category: str
    priority: str
    template: str | None
    template_version: int | None
    channels: tuple[Channel, ...]
    created_at: str
    send_at: str | None
    send_at_local: str | None
    next_at: str | None
    expires_at: str | None
    metadata: msgspec.Raw
    deliveries: list[DeliveryView]
    timeline: list[TimelineEntry]


class TallyView(Struct, frozen=True):
    """How many deliveries of a channel (None: notifications) rest in a state for a reason."""

    channel: str | None
    state: State
    reason: str
    count: int


class Reports:
    """Reads notifications from the history."""

    def __init__(self, history: History, days: Days, schedule: Schedule, clock: Clock) -> None:
        self._history = history
        self._days = days
        self._schedule = schedule
        self._clock = clock

    async def get(self, tenant: str, id: UUID) -> NotificationView:
        """One notification. If its id is young and not recorded yet, waits for it.

        Raises:
            NotFound: there is none, or it is another tenant's.
            Archived: its day is not in the store any more. The archive may have the notification.
        """
        deadline = self._clock.now() + PATIENCE_MS
        while True:
            record = await self._history.get(tenant, id)
            if record is not None:
                return (await self._views([record]))[0]
            now = self._clock.now()
            if now >= deadline or not -YOUNG_MS < now - instant_of(id) < YOUNG_MS:
                await self._raise_if_archived(id)
                raise NotFound("notification", to_text(NOTIFICATION_PREFIX, id))
            await asyncio.sleep(LOOK_EVERY_S)

    async def _raise_if_archived(self, id: UUID) -> None:
        day = day_of(id)
        if any(state.archived for state in await self._days.states(day, day)):
            text = to_text(NOTIFICATION_PREFIX, id)
            raise Archived(
                f"notifications accepted on {day_text(day)} are in the archive; an operator of Tidings can read this "
                f"one with `tidings archive show {text}`"
            )

    async def list(
        self, tenant: str, filter: HistoryFilter, cursor: str | None, limit: int
    ) -> tuple[Sequence[NotificationView], str | None]:
        """A page, newest first, and the cursor of the next one (None: no more). Raises BadId for a bad cursor."""
        before = None if cursor is None else from_text(NOTIFICATION_PREFIX, cursor)
        page = await self._history.find(tenant, filter, before, limit)
        next_cursor = None if page.cursor is None else to_text(NOTIFICATION_PREFIX, page.cursor)
        return await self._views(page.records), next_cursor

    async def _views(self, records: Sequence[NotificationRecord]) -> Sequence[NotificationView]:
        """The records as views. The schedule is asked for deferred ones only: nothing else waits."""
        deferred = {
            record.notification.id
            for record in records
            if any(event.state is State.DEFERRED for event in record.events)
        }
        due: dict[UUID, int] = {}
        for row in await self._schedule.waiting(deferred) if deferred else ():
            due.setdefault(_waiting_id(row), row.due)
        return [view(record, due) for record in records]


def view(record: NotificationRecord, due: Mapping[UUID, int] = MappingProxyType({})) -> NotificationView:
    """The record as the API shows it. `due` has the due times of waiting deliveries and notifications, by id."""
    notification = record.notification
    by_delivery: dict[UUID, list[Event]] = {}
    own: list[Event] = []
    for event in record.events:
        if slot_of(event.id):
            by_delivery.setdefault(event.id, []).append(event)
        else:
            own.append(event)
    deliveries = [_delivery(id, events, due.get(id)) for id, events in sorted(by_delivery.items())]
    furthest_own = _furthest(own)
    state = notification_state(
        [delivery.state for delivery in deliveries], State.PENDING if furthest_own is None else furthest_own.state
    )
    reason = next((delivery.reason for delivery in deliveries if delivery.state is state), None)
    if reason is None:
        reason = "" if furthest_own is None else furthest_own.reason
    return NotificationView(
        id=to_text(NOTIFICATION_PREFIX, notification.id),
        state=state,
        reason=reason,
        user_id=notification.to.user_id,
        category=notification.category,
        priority=notification.priority.value,
        template=None if notification.template is None else notification.template.name,
        template_version=None if notification.template is None else notification.template.version,
        channels=notification.channels,
        created_at=rfc3339(notification.accepted_at),
        send_at=None if notification.send_at is None else rfc3339(notification.send_at),
        send_at_local=notification.send_at_local,
        next_at=_earliest(due.get(notification.id), deliveries) if state is State.DEFERRED else None,
        expires_at=None if notification.expires_at is None else rfc3339(notification.expires_at),
        metadata=msgspec.Raw(notification.metadata),
        deliveries=deliveries,
        timeline=_timeline(record),
    )


def rfc3339(instant: int) -> str:
    """Milliseconds since the epoch as RFC 3339 text in UTC."""
    moment = datetime.fromtimestamp(instant / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _furthest(events: Sequence[Event]) -> Event | None:
    return max(events, key=lambda event: (rank(event.state, event.attempt), event.step), default=None)


def _waiting_id(row: Waiting) -> UUID:
    """The id of the delivery that waits, or of the notification, if it waits before it has deliveries."""
    if row.item.topic in DELIVERIES:
        return decode_delivery(row.item.body).id
    return row.notification


def _earliest(own: int | None, deliveries: Sequence[DeliveryView]) -> str | None:
    times = [delivery.next_at for delivery in deliveries if delivery.next_at is not None]
    return min([*times, *([] if own is None else [rfc3339(own)])], default=None)


def _delivery(id: UUID, events: Sequence[Event], due: int | None) -> DeliveryView:
    furthest = max(events, key=lambda event: (rank(event.state, event.attempt), event.step))
    return DeliveryView(
        id=to_text(DELIVERY_PREFIX, id),
        channel=channel_of(id),
        address=last_address(events, id),
        state=furthest.state,
        provider=furthest.provider or next((event.provider for event in reversed(events) if event.provider), ""),
        reason=furthest.reason,
        next_at=rfc3339(due) if due is not None and furthest.state is State.DEFERRED else None,
        attempts=_attempts(events),
    )


def _attempts(events: Sequence[Event]) -> list[AttemptView]:
    """The furthest event of each attempt at a provider."""
    made: dict[int, Event] = {}
    for event in events:
        if not _was_tried(event):
            continue
        furthest = made.get(event.attempt)
        if furthest is None or rank(event.state, event.attempt) >= rank(furthest.state, furthest.attempt):
            made[event.attempt] = event
    _merge_bounces(made)
    return [
        AttemptView(number_in_life(number), rfc3339(event.at), event.state, event.provider, event.reason, event.detail)
        for number, event in sorted(made.items())
    ]


def _merge_bounces(made: dict[int, Event]) -> None:
    """Show a bounce that came later as the result of its attempt, not as an attempt of its own."""
    for attempt in [attempt for attempt in made if came_back(attempt) in made]:
        if made[came_back(attempt)].state is State.FAILED:
            made[attempt] = made.pop(came_back(attempt))


def _was_tried(event: Event) -> bool:
    """Whether the event says that a provider was asked."""
    if event.state in ATTEMPTED:
        return bool(event.provider) or event.state is State.UNCERTAIN
    return event.state is State.DEFERRED and event.reason in TRIED_AGAIN


def _timeline(record: NotificationRecord) -> list[TimelineEntry]:
    accepted = TimelineEntry(rfc3339(record.notification.accepted_at), None, None, State.PENDING, 0, "", "accepted", "")
    entries = [
        TimelineEntry(
            at=rfc3339(event.at),
            delivery=to_text(DELIVERY_PREFIX, event.id) if slot_of(event.id) else None,
            channel=channel_of(event.id) if slot_of(event.id) else None,
            state=event.state,
            attempt=number_in_life(event.attempt),
            provider=event.provider,
            reason=event.reason,
            detail=event.detail,
        )
        for event in sorted(record.events, key=lambda event: (event.at, rank(event.state, event.attempt)))
    ]
    return [accepted, *entries]
