"""What the plan and the gate make of a person's timezone, of a former user, and of the slots in ids."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import pytest
from msgspec.structs import replace

from support import routing
from support.deliveries import make_delivery
from support.routing import ADA, MIDNIGHT, MORNING, NIGHT, NOTHING_SUPPRESSED, Suppressed
from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id, new_id
from tidings.model.notification import Notification, Recipient
from tidings.model.user import Address, Category, Preferences, Profile, QuietHours
from tidings.model.vocabulary import Channel, QuietPolicy, Reason, State, Strategy
from tidings.policy.routing import (
    GO,
    MAX_DEVICES,
    Go,
    Hold,
    Planned,
    Stop,
    channel_of,
    quiet_zone,
    send_zone,
    wanted,
)

ID, OTHER = new_id(MIDNIGHT, 77, 123456789), new_id(MIDNIGHT, 77, 987654321)
PHONE = Address(Channel.SMS, "+4930123456")
BERLIN = Profile(email="ada@example.com", phone=PHONE.value, timezone="Europe/Berlin")
NOWHERE = replace(BERLIN, timezone=None)
NEWS = Category("news", quiet_hours=QuietPolicy.WAKE_UP)


def notification(to: Recipient = ADA, channels: tuple[Channel, ...] = (Channel.SMS,)) -> Notification:
    return Notification(id=ID, tenant="shop", to=to, accepted_at=MIDNIGHT, channels=channels, incarnation=7)


def plan(
    sent: Notification,
    profile: Profile | None = BERLIN,
    preferences: Preferences = Preferences(),  # noqa: B008 (frozen)
    category: Category = NEWS,
    incarnation: int = 7,
    suppressed: Suppressed = NOTHING_SUPPRESSED,
) -> list[Planned]:
    return routing.plan(sent, profile, preferences, category, MIDNIGHT, suppressed=suppressed, incarnation=incarnation)


def delivery(timezone: str | None = None, expires_at: int | None = None) -> Delivery:
    return make_delivery(
        id=delivery_id(ID, 2),
        user_id="ada",
        key="shop/ada",
        address=PHONE,
        category="news",
        timezone=timezone,
        expires_at=expires_at,
    )


def verdict(
    sms: Delivery,
    profile: Profile = BERLIN,
    preferences: Preferences = NIGHT,
    category: Category = NEWS,
    suppressed: Suppressed = NOTHING_SUPPRESSED,
    cancelled: Collection[UUID] = (),
) -> Go | Hold | Stop:
    return routing.verdict(sms, profile, preferences, category, MIDNIGHT, suppressed=suppressed, cancelled=cancelled)


@pytest.mark.parametrize(
    ("slot", "channel"),
    [
        (1, Channel.EMAIL),
        (2, Channel.SMS),
        (3, Channel.INAPP),
        (16, Channel.PUSH),
        (16 + MAX_DEVICES - 1, Channel.PUSH),
    ],
)
def test_the_slot_in_an_id_says_the_channel(slot: int, channel: Channel) -> None:
    assert channel_of(delivery_id(ID, slot)) is channel


@pytest.mark.parametrize("id", [ID, delivery_id(ID, 4), delivery_id(ID, 15)])
def test_the_id_of_a_notification_and_a_reserved_slot_have_no_channel(id: UUID) -> None:
    with pytest.raises(ValueError, match="no channel"):
        channel_of(id)


def test_a_channel_that_is_named_twice_is_used_once() -> None:
    twice = notification(channels=(Channel.SMS, Channel.SMS))
    assert wanted(twice, ()) == (Channel.SMS,)
    assert [entry.slot for entry in plan(twice)] == [2]


def test_the_senders_timezone_counts_for_the_senders_time_and_the_users_for_quiet_hours() -> None:
    tokyo = Recipient(user_id="ada", timezone="Asia/Tokyo")
    assert [send_zone(tokyo, BERLIN), quiet_zone(BERLIN, "Asia/Tokyo")] == ["Asia/Tokyo", "Europe/Berlin"]
    assert [send_zone(ADA, BERLIN), quiet_zone(BERLIN, None)] == ["Europe/Berlin", "Europe/Berlin"]
    assert [send_zone(tokyo, NOWHERE), quiet_zone(NOWHERE, "Asia/Tokyo")] == ["Asia/Tokyo", "Asia/Tokyo"]
    assert [send_zone(tokyo, None), quiet_zone(None, "Asia/Tokyo")] == ["Asia/Tokyo", "Asia/Tokyo"]
    assert [send_zone(ADA, None), quiet_zone(None, None)] == [None, None]


@pytest.mark.parametrize(
    ("profile", "given", "held"),
    [
        (BERLIN, None, True),
        (BERLIN, "Asia/Tokyo", True),
        (NOWHERE, "Europe/Berlin", True),
        (NOWHERE, "Asia/Tokyo", False),  # seven in the morning is still quiet, so these end at 7
    ],
)
def test_plan_and_gate_read_the_quiet_hours_on_the_same_clock(profile: Profile, given: str | None, held: bool) -> None:
    until_seven = Preferences(quiet_hours=QuietHours(22 * 60, 7 * 60))
    (entry,) = plan(notification(replace(ADA, timezone=given)), profile, until_seven)
    due = MORNING - 3_600_000
    assert (entry.state, entry.due) == ((State.DEFERRED, due) if held else (State.PENDING, None))
    assert verdict(delivery(given), profile, until_seven) == (Hold(due, Reason.QUIET_HOURS) if held else GO)


def test_the_gate_holds_until_the_instant_that_the_plan_chose() -> None:
    spread = replace(NEWS, quiet_hours=QuietPolicy.HOLD)
    (entry,) = plan(notification(), preferences=NIGHT, category=spread)
    assert verdict(delivery(), category=spread) == Hold(entry.due or 0, Reason.QUIET_HOURS)
    assert entry.due != MORNING


def test_the_gate_gives_up_what_would_expire_in_quiet_hours() -> None:
    assert verdict(delivery(expires_at=MORNING)) == Stop(State.EXPIRED, Reason.QUIET_HOURS)
    assert verdict(delivery(expires_at=MORNING + 1)) == Hold(MORNING, Reason.QUIET_HOURS)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_notification_for_a_former_user_goes_nowhere(strategy: Strategy) -> None:
    sent = replace(notification(channels=(Channel.SMS, Channel.INAPP)), strategy=strategy)
    assert [(entry.channel, entry.address, entry.state, entry.reason) for entry in plan(sent, incarnation=8)] == [
        (channel, None, State.SUPPRESSED, Reason.USER_DELETED) for channel in (Channel.SMS, Channel.INAPP)
    ]
    assert {entry.state for entry in plan(sent, incarnation=7)} == {State.PENDING}


def test_an_entry_that_is_not_sent_names_the_address() -> None:
    (entry,) = plan(notification(), suppressed={("shop", PHONE): "opted_out"})
    assert entry == Planned(2, Channel.SMS, PHONE, State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED, None, "opted_out")


def test_an_address_that_was_suppressed_in_between_is_stopped_for_its_tenant_alone() -> None:
    listed = {("shop", PHONE): "opted_out"}
    assert verdict(delivery(), preferences=Preferences(), suppressed=listed) == Stop(
        State.SUPPRESSED, Reason.ADDRESS_SUPPRESSED, "opted_out"
    )
    assert verdict(replace(delivery(), tenant="other"), preferences=Preferences(), suppressed=listed) is GO


def test_the_cancellation_of_another_notification_stops_nothing() -> None:
    assert verdict(delivery(), preferences=Preferences(), cancelled={OTHER}) is GO
    assert verdict(delivery(), preferences=Preferences(), cancelled={OTHER, ID}) == Stop(
        State.CANCELLED, Reason.CANCELLED
    )


@pytest.mark.parametrize(
    ("preferences", "reason"),
    [(Preferences(muted=True), Reason.MUTED), (Preferences(opted_out={"news": (Channel.SMS,)}), Reason.OPTED_OUT)],
)
def test_what_the_user_refuses_is_suppressed_for_that_reason(preferences: Preferences, reason: Reason) -> None:
    (entry,) = plan(notification(), preferences=preferences)
    assert (entry.state, entry.reason) == (State.SUPPRESSED, reason)
    assert verdict(delivery(), preferences=preferences) == Stop(State.SUPPRESSED, reason)


def test_what_has_expired_is_given_up_at_that_instant() -> None:
    (gone,) = plan(replace(notification(), expires_at=MIDNIGHT))
    (just,) = plan(replace(notification(), expires_at=MIDNIGHT + 1))
    assert (gone.state, gone.reason, just.state) == (State.EXPIRED, Reason.EXPIRED, State.PENDING)
    awake = Preferences()
    assert verdict(delivery(expires_at=MIDNIGHT), preferences=awake) == Stop(State.EXPIRED, Reason.EXPIRED)
    assert verdict(delivery(expires_at=MIDNIGHT + 1), preferences=awake) is GO
