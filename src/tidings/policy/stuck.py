"""What is in flight and not moving: which deliveries of a notification nothing waits for, and when to look again."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

from msgspec import Struct

from tidings.model.history import Event, NotificationRecord
from tidings.model.ids import slot_of
from tidings.model.vocabulary import Reason, State
from tidings.policy.transitions import IN_FLIGHT, TRIED_AGAIN, rank

STILL_FOR = 60_000
"""Milliseconds without a fact after which what is in flight is looked into."""
MOST_SWEEPS = 3
"""How often a delivery is put back into its queue before a person has to look at it."""
SELDOMEST = 3_600_000
"""Milliseconds between two looks at most."""
_BY_THE_WAY = frozenset({Reason.SWEPT, Reason.MAY_HAVE_BEEN_SENT})


class Still(Struct, frozen=True, gc=False):
    """Something in flight that nothing waits for: a delivery, or (slot 0) a notification that has none yet.

    `last` is its furthest fact, `step` the furthest step of that attempt, `sweeps` how often it was swept. The next
    attempt is `attempt`; `first_attempt` the one from which the allowed attempts count. `tried` and `pinned` are as in
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
    """The furthest fact of each delivery in flight; of the notification itself when it has no delivery."""
    furthest: dict[UUID, Event] = {}
    for event in record.events:
        known = furthest.get(event.id)
        if known is None or _further(event, known):
            furthest[event.id] = event
    if len(furthest) > 1:
        furthest.pop(record.notification.id, None)
    return [event for event in furthest.values() if event.state in IN_FLIGHT]


def still(record: NotificationRecord, waiting: Collection[UUID], now: int) -> list[Still]:
    """What of the notification is in flight, has had no fact for a while, and is not `waiting` in the schedule.

    `waiting` holds ids of deliveries and (slot 0) of notifications that wait to be routed.
    """
    return [
        _still(record, event) for event in in_flight(record) if now - event.at >= STILL_FOR and event.id not in waiting
    ]


def next_look(now: int, accepted_at: int, dues: Iterable[int]) -> int:
    """When to look at a notification in flight again: soon while it is young, ever more seldom as it ages.

    A wait that is due later is given until then and a moment more. Instants are milliseconds since the epoch.
    """
    later = max(dues, default=now)
    patience = min(max(STILL_FOR, (now - accepted_at) // 2), SELDOMEST)
    return max(now + patience, later + STILL_FOR)


def _still(record: NotificationRecord, last: Event) -> Still:
    own = [event for event in record.events if event.id == last.id]
    # Neither a sweep nor the wait of a second copy tells what came before it.
    origin = max((event for event in own if event.reason not in _BY_THE_WAY), key=_order, default=last)
    made = origin.state is State.DEFERRED and origin.reason in TRIED_AGAIN
    return Still(
        id=last.id,
        last=last,
        # Not the last fact's: a copy that waited has gone further, and what is put back must not yield to it.
        step=max(event.step for event in own if event.attempt == last.attempt),
        sweeps=sum(event.reason == Reason.SWEPT and event.attempt == last.attempt for event in own),
        attempt=origin.attempt + 1 if made else max(origin.attempt, int(slot_of(last.id) > 0)),
        first_attempt=max((event.attempt for event in own if event.reason == Reason.REPLAYED), default=1),
        tried=_refusing(own) if made and origin.reason == Reason.FALLBACK else (),
        # It may have taken the attempt: only the same provider can tell a repetition from a second notification.
        pinned=origin.provider if made and origin.reason == Reason.RETRY else "",
    )


def _refusing(own: Iterable[Event]) -> tuple[str, ...]:
    """The providers that passed it on since it was last tried again at the same one."""
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
