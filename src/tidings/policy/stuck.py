"""Finds deliveries that are stuck: in flight, without a wait in the schedule, and without a new fact for a while."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

from msgspec import Struct

from tidings.model.history import Event, NotificationRecord
from tidings.model.ids import slot_of
from tidings.model.vocabulary import Reason, State
from tidings.policy.transitions import IN_FLIGHT, TRIED_AGAIN, rank

STUCK_AFTER_MS = 60_000
"""After so long without a fact a delivery in flight may be stuck."""
MOST_SWEEPS = 3
"""How often a delivery is put back into its queue before a person has to look at it."""
LONGEST_PAUSE_MS = 3_600_000
"""The longest time between two looks at a notification in flight."""
_NO_ORIGIN = frozenset({Reason.SWEPT, Reason.MAY_HAVE_BEEN_SENT})
"""Reasons of facts that do not tell what happened to the delivery: a sweep, and the wait of a second copy."""


class Stuck(Struct, frozen=True, gc=False):
    """A stuck delivery, or (slot 0) a stuck notification that has no delivery yet.

    `last` is its furthest fact, `step` the furthest step of that attempt, `sweeps` how often it was swept. `attempt` is
    its next attempt, `first_attempt` the one from which the allowed attempts count. `tried` and `pinned` are as in
    Delivery, as far as the facts tell.
    """

    id: UUID
    last: Event
    step: int
    sweeps: int
    attempt: int
    first_attempt: int
    tried: tuple[str, ...]
    pinned: str


def in_flight(record: NotificationRecord) -> list[Event]:
    """The furthest fact of each delivery in flight; the notification's own if it has no delivery."""
    furthest: dict[UUID, Event] = {}
    for event in record.events:
        known = furthest.get(event.id)
        if known is None or _further(event, known):
            furthest[event.id] = event
    if len(furthest) > 1:
        furthest.pop(record.notification.id, None)
    return [event for event in furthest.values() if event.state in IN_FLIGHT]


def stuck(record: NotificationRecord, waiting: Collection[UUID], now: int) -> list[Stuck]:
    """The parts of the notification that are stuck: in flight, without a fact for `STUCK_AFTER_MS`, and not `waiting`.

    `waiting` holds the ids of deliveries in the schedule and (slot 0) of notifications that wait to be routed.
    """
    return [
        _stuck(record, event)
        for event in in_flight(record)
        if now - event.at >= STUCK_AFTER_MS and event.id not in waiting
    ]


def next_look(now: int, accepted_at: int, dues: Iterable[int]) -> int:
    """When to look at a notification in flight again: soon while it is young, less often as it ages.

    `dues` are the due times of its waits: the next look is at least `STUCK_AFTER_MS` after the last of them. Instants
    are milliseconds since the epoch.
    """
    last_due = max(dues, default=now)
    pause_ms = min(max(STUCK_AFTER_MS, (now - accepted_at) // 2), LONGEST_PAUSE_MS)
    return max(now + pause_ms, last_due + STUCK_AFTER_MS)


def _stuck(record: NotificationRecord, last: Event) -> Stuck:
    own = [event for event in record.events if event.id == last.id]
    origin = max((event for event in own if event.reason not in _NO_ORIGIN), key=_order, default=last)
    made = _leads_on(origin)
    attempt = origin.attempt + 1 if made else max(origin.attempt, int(slot_of(last.id) > 0))
    # Waits of the next attempt, for a provider or an hour, do not change who may have taken the one before.
    before = max((event for event in own if _leads_on(event)), key=_order, default=origin)
    return Stuck(
        id=last.id,
        last=last,
        # Not the step of `last`: a copy that waited may be further, and the swept item must not yield to it.
        step=max(event.step for event in own if event.attempt == last.attempt),
        sweeps=sum(event.reason == Reason.SWEPT and event.attempt == last.attempt for event in own),
        attempt=attempt,
        first_attempt=max((event.attempt for event in own if event.reason == Reason.REPLAYED), default=1),
        tried=_refusing(own) if made and origin.reason == Reason.FALLBACK else (),
        # The provider may have taken the attempt; only the same provider can recognise the next one as a repetition.
        pinned=before.provider if before.reason == Reason.RETRY and before.attempt == attempt - 1 else "",
    )


def _leads_on(event: Event) -> bool:
    """Whether the attempt was made, and another one follows."""
    return event.state is State.DEFERRED and event.reason in TRIED_AGAIN


def _refusing(own: Iterable[Event]) -> tuple[str, ...]:
    """The providers that passed the delivery on since it was last retried at the same provider."""
    names: list[str] = []
    for event in sorted(own, key=_order):
        if event.state is State.DEFERRED and event.reason == Reason.RETRY:
            names.clear()
        elif event.state is State.DEFERRED and event.reason == Reason.FALLBACK:
            names.append(event.provider)
    return tuple(names)


def _order(event: Event) -> tuple[int, int]:
    return rank(event.state, event.attempt), event.step


def _further(one: Event, other: Event) -> bool:
    return _order(one) > _order(other)
