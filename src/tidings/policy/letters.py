"""Dead letters: which deliveries are dead letters, which match a filter, and which can be replayed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from uuid import UUID

from tidings.model.history import Event, NotificationRecord
from tidings.model.ids import SLOTS, instant_of, slot_of
from tidings.model.letters import DeadLetter, LetterFilter
from tidings.model.user import Address, Profile
from tidings.model.vocabulary import Channel, Reason, State, Strategy
from tidings.policy.presence import present_address
from tidings.policy.routing import FIRST_SLOT, channel_of
from tidings.policy.transitions import IN_FLIGHT, rank

LETTERS = frozenset({State.DEAD, State.FAILED})
"""The states of a dead letter."""

ON_REQUEST = LETTERS | {State.UNCERTAIN}
"""The states that can be shown and replayed; `uncertain` only when it is asked for."""

_TAKEN_OVER = IN_FLIGHT | ON_REQUEST | {State.SENT, State.DELIVERED}


class Obstacle(StrEnum):
    """Why a dead letter cannot be replayed."""

    EXPIRED = "expired"
    CANCELLED = "cancelled"
    PASSED_ON = "passed_on"
    SENT = "sent"
    UNKNOWN_USER = "unknown_user"
    USER_DELETED = "user_deleted"
    ADDRESS_SUPPRESSED = "address_suppressed"


WHY: dict[Obstacle, str] = {
    Obstacle.EXPIRED: "its expires_at has passed",
    Obstacle.CANCELLED: "its notification was cancelled",
    Obstacle.PASSED_ON: "another address of the person took over when this one failed",
    Obstacle.SENT: "a second copy of it was sent at the same time",
    Obstacle.UNKNOWN_USER: "its user does not exist any more",
    Obstacle.USER_DELETED: "its user was deleted, and the id belongs to another one now",
    Obstacle.ADDRESS_SUPPRESSED: "its address is on the suppression list; take it off the list first",
}
"""Each obstacle as a clause for people."""


def wanted(filter: LetterFilter) -> frozenset[State]:
    """The states that the filter selects."""
    return LETTERS if filter.state is None else frozenset({filter.state})


def slots(channel: Channel | None) -> tuple[int, int]:
    """The first and last slot of a channel's deliveries; without a channel, of all deliveries."""
    if channel is None:
        return 1, SLOTS - 1
    first = FIRST_SLOT[channel]
    return first, SLOTS - 1 if channel is Channel.PUSH else first


def letter_of(record: NotificationRecord, id: UUID, states: Collection[State] = ON_REQUEST) -> DeadLetter | None:
    """The delivery `id` of the record as a dead letter; None unless its furthest fact is one of `states`."""
    last = _furthest(record, id)
    return DeadLetter(id, last, record) if last is not None and last.state in states else None


def letters_of(record: NotificationRecord, filter: LetterFilter) -> list[DeadLetter]:
    """The record's dead letters that match the filter, last slot first."""
    notification = record.notification
    if (
        (filter.category is not None and notification.category != filter.category)
        or (filter.user_id is not None and notification.to.user_id != filter.user_id)
        or (filter.since is not None and instant_of(notification.id) < filter.since)
        or (filter.until is not None and instant_of(notification.id) >= filter.until)
    ):
        return []
    ids = sorted({event.id for event in record.events if slot_of(event.id)}, reverse=True)
    letters = (letter_of(record, id, wanted(filter)) for id in ids if filter.delivery_id in {None, id})
    return [
        letter
        for letter in letters
        if letter is not None
        and (filter.channel is None or channel_of(letter.id) is filter.channel)
        and (filter.provider is None or letter.last.provider == filter.provider)
        and (filter.reason is None or letter.last.reason == filter.reason)
    ]


def address_of(letter: DeadLetter) -> Address:
    """The address of the delivery's last attempt; earlier attempts may have had another one."""
    return Address(channel_of(letter.id), last_address(letter.record.events, letter.id))


def last_address(events: Iterable[Event], id: UUID) -> str:
    """The address in the furthest of the delivery's facts that name one; "" when none does."""
    with_address = [event for event in events if event.id == id and event.address]
    return max(with_address, key=_order).address if with_address else ""


def present_address_of(letter: DeadLetter, profile: Profile | None) -> Address:
    """The address to which a replay of the letter goes. `profile` belongs to the user who has the id now.

    If the user has no such address any more, the replay keeps the former one, and `deliver` then suppresses it.
    """
    address, user_id = address_of(letter), letter.record.notification.to.user_id
    if user_id is None or profile is None:
        return address
    return present_address(address, user_id, profile) or address


def obstacle(
    letter: DeadLetter,
    *,
    known: bool,
    meant: bool,
    address: Address,
    suppressed: Collection[tuple[str, Address]],
    cancelled: Collection[UUID],
    now: int,
) -> Obstacle | None:
    """Why the letter cannot be replayed now; None when it can.

    `known`: its user still exists, or it went to an inline recipient. `meant`: the user's id has not passed to another
    user since. `address` is where it would go (see `present_address_of`). `suppressed` covers at least that address;
    `cancelled` holds notification ids.
    """
    notification = letter.record.notification
    if notification.id in cancelled:
        return Obstacle.CANCELLED
    if notification.expires_at is not None and notification.expires_at <= now:
        return Obstacle.EXPIRED
    if _passed_on(letter):
        return Obstacle.PASSED_ON
    if _was_sent(letter):
        return Obstacle.SENT
    if not known:
        return Obstacle.UNKNOWN_USER
    if not meant:
        return Obstacle.USER_DELETED
    if (notification.tenant, address) in suppressed:
        return Obstacle.ADDRESS_SUPPRESSED
    return None


def _passed_on(letter: DeadLetter) -> bool:
    """Whether another address took over when this one failed (strategy `first_reachable`), even if that failed too.

    An address that could not be used at all took nothing over. So at most one address of a chain can be replayed.
    """
    if letter.record.notification.strategy is not Strategy.FIRST_REACHABLE:
        return False
    successors = (
        event.id
        for event in letter.record.events
        if event.id != letter.id and event.reason == Reason.FALLBACK and _takes_over(event, letter.last)
    )
    return any(letter_of(letter.record, id, _TAKEN_OVER) is not None for id in successors)


def _was_sent(letter: DeadLetter) -> bool:
    """Whether a provider took the last attempt although it also ended as `dead`.

    Where a repetition does no harm, a second copy is sent at once, and each copy records its own ending. A mail that a
    server took and sent back later is `failed`, not `dead`, so it can be replayed.
    """
    last = letter.last
    return last.state is State.DEAD and any(
        event.id == letter.id and event.attempt == last.attempt and event.state in {State.SENT, State.DELIVERED}
        for event in letter.record.events
    )


def _takes_over(event: Event, ending: Event) -> bool:
    return event.state is State.PENDING and event.at >= ending.at


def _furthest(record: NotificationRecord, id: UUID) -> Event | None:
    return max((event for event in record.events if event.id == id), key=_order, default=None)


def _order(event: Event) -> tuple[int, int]:
    return rank(event.state, event.attempt), event.step
