"""Where a notification goes: `route` makes a plan with `choose`, and `deliver` checks it with `gate` before each send.

Both ask the same questions in the same order: is it too late, does the user want it, may the address be used, are it
quiet hours. `deliver` asks again because an opt-out, a bounce or a cancellation may have come in between.

Slots. A delivery's id is the notification's id with a slot (model/ids.py). The slot follows from the channel and, for
push, from the place of the device in the profile, so routing again after a crash gives the same ids: email 1, sms 2,
in-app 3, push 16 to 255. Slots 4 to 15 are reserved for channels to come.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

from tidings.model.delivery import Delivery
from tidings.model.ids import SLOTS, notification_of, slot_of
from tidings.model.notification import Notification, Recipient
from tidings.model.user import Address, Category, Preferences, Profile
from tidings.model.vocabulary import Channel, QuietPolicy, Reason, State, Strategy
from tidings.policy.preferences import refusal
from tidings.policy.presence import is_meant, is_present
from tidings.policy.quiet_hours import spread_after, wake_up

Slotted: TypeAlias = tuple[int, Address]
"""An address and the slot of its delivery."""

SuppressionList: TypeAlias = Mapping[tuple[str, Address], str]
"""For each `(tenant, address)` that must not be used: the reason."""

_EMAIL_SLOT, _SMS_SLOT, _INAPP_SLOT, _PUSH_SLOT = 1, 2, 3, 16
FIRST_SLOT = {
    Channel.EMAIL: _EMAIL_SLOT,
    Channel.SMS: _SMS_SLOT,
    Channel.INAPP: _INAPP_SLOT,
    Channel.PUSH: _PUSH_SLOT,
}
MAX_DEVICES = SLOTS - _PUSH_SLOT
"""How many devices of a user have slots; the API refuses profiles with more."""


class Planned(Struct, frozen=True, gc=False):
    """The plan for one address, or for a wanted channel without one (`address` is None).

    `state` is `pending` (send now), `deferred` (until `due`, in milliseconds since the epoch), `suppressed` or
    `expired`, with the reason; `detail` is the suppression list's own reason. `alternatives` are tried in order if the
    delivery fails.
    """

    slot: int
    channel: Channel
    address: Address | None
    state: State
    reason: str = ""
    due: int | None = None
    detail: str = ""
    alternatives: tuple[Slotted, ...] = ()


class Go(Struct, frozen=True, gc=False):
    """Send it now."""


class Hold(Struct, frozen=True, gc=False):
    """Send it at `due` (milliseconds since the epoch) or later, for `reason`."""

    due: int
    reason: str


class Stop(Struct, frozen=True, gc=False):
    """Never send it: the delivery ends in `state` for `reason`; `detail` is the suppression list's own reason."""

    state: State
    reason: str
    detail: str = ""


Verdict: TypeAlias = Go | Hold | Stop

GO = Go()


def channel_of(id: UUID) -> Channel:
    """The channel of a delivery, which follows from the slot in its id.

    Raises:
        ValueError: the id is a notification's, or its slot belongs to no channel.
    """
    slot = slot_of(id)
    if slot >= FIRST_SLOT[Channel.PUSH]:
        return Channel.PUSH
    for channel, first in FIRST_SLOT.items():
        if slot == first:
            return channel
    raise ValueError(f"slot {slot} belongs to no channel")


def wanted(notification: Notification, content: Sequence[Channel]) -> Sequence[Channel]:
    """The channels that the notification is for, in the sender's order: those it names, else all that have content."""
    channels = notification.channels
    if not channels:
        return content
    return channels if len(channels) == 1 else tuple(dict.fromkeys(channels))


def addresses(to: Recipient, profile: Profile | None, channels: Sequence[Channel]) -> list[Slotted]:
    """The recipient's addresses on `channels`, in that order, each with its slot and each once.

    A known user (`to.user_id`) is reached at the addresses of the `profile` and in their inbox; without a profile,
    nowhere. An inline recipient is reached at the addresses in the request.
    """
    source: Profile | Recipient = to
    if to.user_id is not None:
        if profile is None:
            return []
        source = profile
    found: list[Slotted] = []
    for channel in channels:
        if channel is Channel.EMAIL:
            slot, value = _EMAIL_SLOT, source.email
        elif channel is Channel.SMS:
            slot, value = _SMS_SLOT, source.phone
        elif channel is Channel.INAPP:
            slot, value = _INAPP_SLOT, to.user_id
        else:
            for place, device in enumerate(dict.fromkeys(source.devices[:MAX_DEVICES])):
                found.append((_PUSH_SLOT + place, Address(Channel.PUSH, device)))
            continue
        if value:
            found.append((slot, Address(channel, value)))
    return found


def send_zone(to: Recipient, profile: Profile | None) -> str | None:
    """The timezone of the sender's `send_at_local`: the request's own, else the user's."""
    return to.timezone or (profile.timezone if profile is not None else None)


def quiet_zone(profile: Profile | None, given: str | None) -> str | None:
    """The timezone of a user's quiet hours: the user's own, else the one `given` in the request.

    Quiet hours are the user's wish, so the user's own timezone counts before the sender's belief.
    """
    return (profile.timezone if profile is not None else None) or given


def choose(
    notification: Notification,
    *,
    found: Sequence[Slotted],
    profile: Profile | None,
    preferences: Preferences,
    category: Category,
    content: Sequence[Channel],
    suppressed: SuppressionList,
    now: int,
    incarnation: int | None = None,
) -> list[Planned]:
    """The plan for one notification: an entry for every address, and for every wanted channel that has none.

    `found` is the result of `addresses` for `wanted(notification, content)`; `content` are the channels that have
    content; `suppressed` covers at least the addresses in `found`. `incarnation` belongs to the user who has the id
    now; a notification for a former user with the same id goes nowhere.

    Strategy `all` sends to every address that may be used. `first_reachable` sends to the first one; the others that
    may be used become its alternatives, in order, and get entries of their own only when their turn comes.

    The plan is empty only when neither the notification nor its content names a channel.
    """
    channels = wanted(notification, content)
    former = not is_meant(notification.incarnation, incarnation)
    if former:
        found = ()
    plan = [
        Planned(FIRST_SLOT[channel], channel, None, State.SUPPRESSED, reason)
        for channel, reason in _unreachable(notification, profile, found, channels, content, former)
    ]
    sendable: list[Slotted] = []
    for slotted in found:
        slot, address = slotted
        if address.channel not in content:
            continue
        stop = _stop(notification.tenant, address, category, preferences, suppressed, notification.expires_at, now)
        if stop is None:
            sendable.append(slotted)
        else:
            plan.append(Planned(slot, address.channel, address, stop.state, stop.reason, None, stop.detail))
    if sendable:
        verdict: Verdict = GO
        if preferences.quiet_hours is not None:
            timezone = quiet_zone(profile, notification.to.timezone)
            key = f"{notification.tenant}/{notification.to.key}"
            verdict = _hour(category, preferences, timezone, key, notification.expires_at, now)
        _take(plan, sendable, notification.strategy, verdict)
    return plan


def gate(
    delivery: Delivery,
    *,
    profile: Profile | None,
    preferences: Preferences,
    category: Category,
    suppressed: SuppressionList,
    cancelled: Collection[UUID],
    now: int,
    incarnation: int | None = None,
) -> Verdict:
    """Whether the delivery may be sent at this moment.

    `profile`, `preferences` and `incarnation` are the user's present ones (`profile` None: no such user, or an inline
    recipient); `cancelled` holds notification ids; `suppressed` covers at least the delivery's address.
    """
    if cancelled and notification_of(delivery.id) in cancelled:
        return Stop(State.CANCELLED, Reason.CANCELLED)
    if delivery.user_id is not None:
        if profile is None:
            return Stop(State.SUPPRESSED, Reason.UNKNOWN_USER)
        if not is_meant(delivery.incarnation, incarnation):
            return Stop(State.SUPPRESSED, Reason.USER_DELETED)
        if not is_present(delivery, profile):
            return _gone(delivery, suppressed)
    stop = _stop(delivery.tenant, delivery.address, category, preferences, suppressed, delivery.expires_at, now)
    if stop is not None:
        return stop
    timezone = quiet_zone(profile, delivery.timezone)
    return _hour(category, preferences, timezone, delivery.key, delivery.expires_at, now)


def _gone(delivery: Delivery, suppressed: SuppressionList) -> Stop:
    """The reason not to use an address that is no longer the user's.

    A device that its vendor no longer knows leaves the profile when it goes onto the suppression list. Then the
    suppression is the reason, because the user has changed nothing.
    """
    listed = suppressed.get((delivery.tenant, delivery.address))
    if listed is not None:
        return Stop(State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED, listed)
    return Stop(State.SUPPRESSED, Reason.ADDRESS_CHANGED)


def _stop(
    tenant: str,
    address: Address,
    category: Category,
    preferences: Preferences,
    suppressed: SuppressionList,
    expires_at: int | None,
    now: int,
) -> Stop | None:
    """Why nothing must be sent to this address; None when it may be used."""
    if expires_at is not None and expires_at <= now:
        return Stop(State.EXPIRED, Reason.EXPIRED)
    refused = refusal(preferences, category, address.channel)
    if refused is not None:
        return Stop(State.SUPPRESSED, refused)
    if suppressed:
        why = suppressed.get((tenant, address))
        if why is not None:
            return Stop(State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED, why)
    return None


def _hour(
    category: Category, preferences: Preferences, timezone: str | None, key: str, expires_at: int | None, now: int
) -> Verdict:
    """Whether the user's quiet hours let it go now. If it would expire before they end, it is given up at once.

    A held delivery leaves within the quarter of an hour after the quiet hours, at an instant that follows from the
    user's `key`; at their very end if by that instant it would have expired or quiet hours would have begun again.
    """
    if preferences.quiet_hours is None or category.critical:
        return GO
    end = wake_up(preferences.quiet_hours, timezone, now)
    if end is None:
        return GO
    if category.quiet_hours is QuietPolicy.DROP:
        return Stop(State.SUPPRESSED, Reason.QUIET_HOURS)
    if expires_at is not None and expires_at <= end:
        return Stop(State.EXPIRED, Reason.QUIET_HOURS)
    if category.quiet_hours is QuietPolicy.HOLD:
        due = spread_after(end, key)
        too_late = expires_at is not None and expires_at <= due
        if not too_late and wake_up(preferences.quiet_hours, timezone, due) is None:
            return Hold(due, Reason.QUIET_HOURS)
    return Hold(end, Reason.QUIET_HOURS)


def _unreachable(
    notification: Notification,
    profile: Profile | None,
    found: Sequence[Slotted],
    channels: Sequence[Channel],
    content: Sequence[Channel],
    former: bool,
) -> list[tuple[Channel, Reason]]:
    """The wanted channels on which nothing can be sent, with the reason."""
    if notification.to.user_id is not None and profile is None:
        return [(channel, Reason.UNKNOWN_USER) for channel in channels]
    if former:
        return [(channel, Reason.USER_DELETED) for channel in channels]
    # A list, not a set: hashing an enumeration's member costs more than comparing it with four others.
    reached = [address.channel for _, address in found]
    return [
        (channel, Reason.NO_CONTENT if channel not in content else Reason.NO_ADDRESS)
        for channel in channels
        if channel not in content or channel not in reached
    ]


def _take(plan: list[Planned], sendable: Sequence[Slotted], strategy: Strategy, verdict: Verdict) -> None:
    """Add an entry to `plan` for each address in `sendable` that the strategy uses now."""
    state, reason, due = State.PENDING, "", None
    if isinstance(verdict, Hold):
        state, reason, due = State.DEFERRED, verdict.reason, verdict.due
    elif isinstance(verdict, Stop):
        state, reason = verdict.state, verdict.reason
    alternatives: tuple[Slotted, ...] = ()
    if strategy is Strategy.FIRST_REACHABLE:
        if not isinstance(verdict, Stop):
            alternatives = tuple(sendable[1:])
        sendable = sendable[:1]
    for slot, address in sendable:
        plan.append(Planned(slot, address.channel, address, state, reason, due, "", alternatives))
