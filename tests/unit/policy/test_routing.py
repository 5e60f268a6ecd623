"""The plan of a notification: which addresses, when, and why not; and the gate, right before sending."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from support import routing
from support.routing import ADA, DAY, ID, MIDNIGHT, MORNING, NIGHT, NOW, SMS_ONLY, delivery, notification, verdict
from tidings.model.notification import Notification, Recipient
from tidings.model.user import Address, Category, Preferences, Profile, QuietHours
from tidings.model.vocabulary import Channel, QuietPolicy, Reason, State, Strategy
from tidings.policy.quiet_hours import SPREAD_MS
from tidings.policy.routing import (
    GO,
    MAX_DEVICES,
    Planned,
    Stop,
    addresses,
)

PROFILE = Profile(email="ada@example.com", phone="+4930123456", devices=("one", "two"), timezone="Europe/Berlin")
ORDERS = Category("orders")


def plan(
    sent: Notification,
    profile: Profile | None = PROFILE,
    preferences: Preferences = Preferences(),  # noqa: B008 (frozen)
    category: Category = ORDERS,
    now: int = NOW,
    **more: Any,
) -> list[Planned]:
    return routing.plan(sent, profile, preferences, category, now, **more)


def test_all_reaches_every_address_and_each_device_by_its_own_delivery() -> None:
    entries = plan(notification())
    assert [(entry.slot, entry.address) for entry in entries] == [
        (1, Address(Channel.EMAIL, "ada@example.com")),
        (2, Address(Channel.SMS, "+4930123456")),
        (16, Address(Channel.PUSH, "one")),
        (17, Address(Channel.PUSH, "two")),
        (3, Address(Channel.INAPP, "ada")),
    ]
    assert {entry.state for entry in entries} == {State.PENDING}


def test_first_reachable_takes_the_senders_order_and_keeps_the_rest() -> None:
    bounced = {("shop", Address(Channel.PUSH, "one")): "unregistered"}
    entries = plan(
        notification(channels=(Channel.PUSH, Channel.SMS, Channel.EMAIL), strategy=Strategy.FIRST_REACHABLE),
        suppressed=bounced,
    )
    assert [(entry.slot, entry.state, entry.reason, entry.detail) for entry in entries] == [
        (16, State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED, "unregistered"),
        (17, State.PENDING, "", ""),
    ]
    assert entries[1].alternatives == (
        (2, Address(Channel.SMS, "+4930123456")),
        (1, Address(Channel.EMAIL, "ada@example.com")),
    )


def test_a_channel_without_an_address_or_content_is_accounted_for() -> None:
    entries = plan(
        notification(Recipient(email="x@example.com"), channels=(Channel.EMAIL, Channel.SMS, Channel.INAPP)),
        profile=None,
        content=(Channel.EMAIL, Channel.INAPP),
    )
    assert {(entry.channel, entry.state, entry.reason) for entry in entries} == {
        (Channel.EMAIL, State.PENDING, ""),
        (Channel.SMS, State.SUPPRESSED, Reason.NO_CONTENT),
        (Channel.INAPP, State.SUPPRESSED, Reason.NO_ADDRESS),
    }


def test_an_unknown_user_is_reached_nowhere_and_accounted_for() -> None:
    entries = plan(notification(), profile=None)
    assert [(entry.channel, entry.reason) for entry in entries] == [
        (channel, Reason.UNKNOWN_USER) for channel in Channel
    ]


def test_quiet_hours_defer_and_what_expires_before_their_end_is_given_up() -> None:
    always = Preferences(quiet_hours=QuietHours(0, 1439))
    (entry,) = plan(notification(channels=(Channel.SMS,)), preferences=always)
    assert entry.state is State.DEFERRED
    assert entry.due is not None
    assert NOW < entry.due <= NOW + DAY
    (gone,) = plan(notification(channels=(Channel.SMS,), expires_at=entry.due), preferences=always)
    assert (gone.state, gone.reason) == (State.EXPIRED, Reason.QUIET_HOURS)
    (urgent,) = plan(
        notification(channels=(Channel.SMS,)), preferences=always, category=Category("security", critical=True)
    )
    assert urgent.state is State.PENDING


def tonight(
    policy: QuietPolicy, user: str = "ada", expires_at: int | None = None, *, critical: bool = False
) -> Planned:
    sent = notification(Recipient(user_id=user), SMS_ONLY, expires_at=expires_at)
    (entry,) = plan(sent, preferences=NIGHT, category=Category("news", critical, quiet_hours=policy), now=MIDNIGHT)
    return entry


def test_a_category_that_drops_is_not_sent_in_quiet_hours() -> None:
    entry = tonight(QuietPolicy.DROP)
    assert (entry.state, entry.reason, entry.due) == (State.SUPPRESSED, Reason.QUIET_HOURS, None)
    assert tonight(QuietPolicy.DROP, critical=True).state is State.PENDING


def test_a_category_that_wakes_up_is_sent_when_they_end() -> None:
    assert tonight(QuietPolicy.WAKE_UP).due == MORNING


def test_held_deliveries_leave_spread_over_a_quarter_of_an_hour() -> None:
    dues = [tonight(QuietPolicy.HOLD, f"user-{number}").due for number in range(3000)]
    assert dues == [tonight(QuietPolicy.HOLD, f"user-{number}").due for number in range(3000)]
    minutes = [(due or 0) - MORNING for due in dues]
    assert min(minutes) >= 0
    assert max(minutes) < SPREAD_MS
    per_minute = Counter(minute // 60_000 for minute in minutes)
    assert len(per_minute) == 15
    assert max(per_minute.values()) < 300  # 200 of 3,000 on average


def test_a_held_delivery_never_waits_past_its_expiry() -> None:
    due = tonight(QuietPolicy.HOLD).due
    assert due is not None
    assert due > MORNING
    assert tonight(QuietPolicy.HOLD, expires_at=due + 1).due == due
    assert tonight(QuietPolicy.HOLD, expires_at=due).due == MORNING
    assert tonight(QuietPolicy.HOLD, expires_at=MORNING).state is State.EXPIRED


def test_a_critical_category_passes_mute_but_not_the_suppression_list() -> None:
    entries = plan(
        notification(channels=(Channel.SMS, Channel.EMAIL)),
        preferences=Preferences(muted=True),
        category=Category("security", critical=True),
        suppressed={("shop", Address(Channel.SMS, "+4930123456")): "opted_out"},
    )
    assert {(entry.channel, entry.state) for entry in entries} == {
        (Channel.SMS, State.SUPPRESSED),
        (Channel.EMAIL, State.PENDING),
    }


def test_more_devices_than_slots_are_not_numbered_twice() -> None:
    many = Profile(devices=tuple(f"device-{number}" for number in range(1000)))
    slotted = addresses(ADA, many, (Channel.PUSH,))
    assert len(slotted) == MAX_DEVICES
    assert max(slot for slot, _ in slotted) == 255


@pytest.mark.parametrize("cancelled", [set[UUID](), {ID}])
def test_a_cancelled_notification_stops_at_the_gate(cancelled: set[UUID]) -> None:
    mail = delivery(notification(), 1, Address(Channel.EMAIL, "ada@example.com"), None)
    expected = Stop(State.CANCELLED, Reason.CANCELLED) if cancelled else GO
    assert verdict(mail, PROFILE, Preferences(), ORDERS, NOW, cancelled=cancelled) == expected


def test_a_user_who_was_deleted_in_between_is_not_reached() -> None:
    mail = delivery(notification(), 1, Address(Channel.EMAIL, "ada@example.com"), None)
    security = Category("security", critical=True)
    assert verdict(mail, None, Preferences(), security, NOW) == Stop(State.SUPPRESSED, Reason.UNKNOWN_USER)
