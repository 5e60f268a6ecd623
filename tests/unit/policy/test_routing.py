from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id, new_id, notification_of
from tidings.model.notification import Notification, Recipient
from tidings.model.user import Address, Category, Preferences, Profile, QuietHours
from tidings.model.vocabulary import Channel, Priority, QuietPolicy, Reason, State, Strategy
from tidings.policy.quiet_hours import SPREAD_MS
from tidings.policy.routing import (
    FIRST_SLOT,
    GO,
    MAX_DEVICES,
    Go,
    Hold,
    Planned,
    Stop,
    addresses,
    choose,
    gate,
    wanted,
)

NOW = 1_790_000_000_000
DAY = 86_400_000
ALL = tuple(Channel)
ID = new_id(NOW, 77, 123456789)
PROFILE = Profile(email="ada@example.com", phone="+4930123456", devices=("one", "two"), timezone="Europe/Berlin")
ADA = Recipient(user_id="ada")


def plan(
    notification: Notification,
    profile: Profile | None = PROFILE,
    preferences: Preferences = Preferences(),  # noqa: B008 (frozen)
    category: Category = Category("orders"),  # noqa: B008 (frozen)
    content: tuple[Channel, ...] = ALL,
    suppressed: dict[tuple[str, Address], str] | None = None,
    now: int = NOW,
) -> list[Planned]:
    found = addresses(notification.to, profile, wanted(notification, content))
    return choose(
        notification,
        found=found,
        profile=profile,
        preferences=preferences,
        category=category,
        content=content,
        suppressed=suppressed or {},
        now=now,
    )


def notification(
    to: Recipient = ADA,
    channels: tuple[Channel, ...] = (),
    strategy: Strategy = Strategy.ALL,
    expires_at: int | None = None,
) -> Notification:
    return Notification(
        id=ID, tenant="shop", to=to, accepted_at=NOW, channels=channels, strategy=strategy, expires_at=expires_at
    )


def delivery(of: Notification, slot: int, address: Address, timezone: str | None) -> Delivery:
    return Delivery(
        id=delivery_id(of.id, slot),
        tenant=of.tenant,
        user_id=of.to.user_id,
        key=f"{of.tenant}/{of.to.key}",
        address=address,
        category=of.category,
        priority=Priority.NORMAL,
        timezone=timezone,
        expires_at=of.expires_at,
    )


CHANNEL_LISTS = st.lists(st.sampled_from(Channel), max_size=6).map(tuple)
CONTENT = st.lists(st.sampled_from(Channel), min_size=1, unique=True).map(tuple)
DEVICES = st.lists(st.sampled_from(["one", "two", "three", "four"]), max_size=5).map(tuple)
TIMEZONES = st.sampled_from([None, "Europe/Berlin", "Asia/Tokyo", "America/New_York", "Nowhere/Land"])
PROFILES = st.builds(
    Profile,
    email=st.none() | st.just("ada@example.com"),
    phone=st.none() | st.just("+4930123456"),
    devices=DEVICES,
    timezone=TIMEZONES,
)
RECIPIENTS = st.just(ADA) | st.builds(
    Recipient,
    email=st.none() | st.just("ada@example.com"),
    phone=st.none() | st.just("+4930123456"),
    devices=DEVICES,
    timezone=TIMEZONES,
)
MINUTES = st.integers(0, 1439)
QUIET = st.builds(QuietHours, start=MINUTES, end=MINUTES)
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Beirut", "UTC"]
PREFERENCES = st.builds(
    Preferences,
    opted_out=st.dictionaries(
        st.sampled_from(["orders", "other", "*"]), st.lists(st.sampled_from(Channel), unique=True).map(tuple)
    ),
    quiet_hours=st.none() | st.builds(QuietHours, start=MINUTES, end=MINUTES),
    muted=st.booleans(),
)
SUPPRESSED = st.dictionaries(
    st.tuples(
        st.sampled_from(["shop", "other"]),
        st.sampled_from(
            [
                Address(Channel.EMAIL, "ada@example.com"),
                Address(Channel.SMS, "+4930123456"),
                Address(Channel.PUSH, "one"),
                Address(Channel.PUSH, "two"),
            ]
        ),
    ),
    st.sampled_from(["bounced", "unregistered"]),
)


class Routed:
    """A generated case with its plan."""

    def __init__(
        self,
        to: Recipient,
        profile: Profile | None,
        channels: tuple[Channel, ...],
        content: tuple[Channel, ...],
        strategy: Strategy,
        expires_at: int | None,
        preferences: Preferences,
        category: Category,
        suppressed: dict[tuple[str, Address], str],
    ) -> None:
        self.to = to
        self.profile = profile if to.user_id is not None else None
        self.content = content
        self.preferences = preferences
        self.category = category
        self.suppressed = suppressed
        self.notification = notification(to, channels, strategy, expires_at)
        self.channels = wanted(self.notification, content)
        self.found = addresses(to, self.profile, self.channels)
        self.plan = plan(self.notification, self.profile, preferences, category, content, suppressed)

    @property
    def timezone(self) -> str | None:
        return self.profile.timezone if self.profile is not None else self.to.timezone

    def gate(self, slot: int, address: Address) -> Go | Hold | Stop:
        return gate(
            delivery(self.notification, slot, address, self.timezone),
            profile=self.profile,
            preferences=self.preferences,
            category=self.category,
            suppressed=self.suppressed,
            cancelled=(),
            now=NOW,
        )


ROUTED = st.builds(
    Routed,
    to=RECIPIENTS,
    profile=st.none() | PROFILES,
    channels=CHANNEL_LISTS,
    content=CONTENT,
    strategy=st.sampled_from(Strategy),
    expires_at=st.none() | st.integers(NOW - DAY, NOW + DAY),
    preferences=PREFERENCES,
    category=st.builds(Category, name=st.just("orders"), critical=st.booleans()),
    suppressed=SUPPRESSED,
)


@settings(deadline=None)
@given(ROUTED)
def test_every_wanted_channel_is_accounted_for(case: Routed) -> None:
    planned = {entry.channel for entry in case.plan}
    waiting = {address.channel for entry in case.plan for _, address in entry.alternatives}
    given_up = any(entry.state is State.EXPIRED for entry in case.plan)
    assert planned <= set(case.channels)
    if not (case.notification.strategy is Strategy.FIRST_REACHABLE and given_up):
        assert planned | waiting == set(case.channels)
    assert case.plan


@settings(deadline=None)
@given(ROUTED)
def test_slots_are_used_once_and_belong_to_their_channel(case: Routed) -> None:
    slots = [entry.slot for entry in case.plan]
    slots += [slot for entry in case.plan for slot, _ in entry.alternatives]
    assert len(slots) == len(set(slots))
    for entry in case.plan:
        if entry.channel is Channel.PUSH:
            assert entry.slot >= FIRST_SLOT[Channel.PUSH]
        else:
            assert entry.slot == FIRST_SLOT[entry.channel]
        assert notification_of(delivery_id(ID, entry.slot)) == ID


@settings(deadline=None)
@given(ROUTED)
def test_the_gate_says_the_same_as_the_plan(case: Routed) -> None:
    for entry in case.plan:
        if entry.address is None:
            continue
        verdict = case.gate(entry.slot, entry.address)
        match entry.state:
            case State.PENDING:
                assert verdict is GO
            case State.DEFERRED:
                assert verdict == Hold(entry.due or 0, entry.reason)
            case _:
                assert verdict == Stop(entry.state, entry.reason, entry.detail)
        for slot, address in entry.alternatives:
            assert isinstance(case.gate(slot, address), Hold if entry.state is State.DEFERRED else Go)


@settings(deadline=None)
@given(ROUTED)
def test_nothing_refused_suppressed_or_late_is_sent(case: Routed) -> None:
    sent = [entry for entry in case.plan if entry.state in {State.PENDING, State.DEFERRED}]
    for entry in sent:
        assert entry.address is not None
        assert ("shop", entry.address) not in case.suppressed
        assert entry.channel in case.content
        assert case.notification.expires_at is None or case.notification.expires_at > (entry.due or NOW)
        if not case.category.critical:
            assert not case.preferences.muted
            for name in ("orders", "*"):
                channels = case.preferences.opted_out.get(name)
                assert channels is None or (channels and entry.channel not in channels)
        else:
            assert entry.state is State.PENDING
    if case.notification.strategy is Strategy.FIRST_REACHABLE:
        assert len(sent) <= 1


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


NIGHT = Preferences(quiet_hours=QuietHours(22 * 60, 8 * 60))
MIDNIGHT, MORNING = 1_789_941_600_000, 1_789_970_400_000  # 2026-09-21 00:00 and 08:00 in Berlin
SMS_ONLY = (Channel.SMS,)


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


@settings(deadline=None)
@given(QUIET, st.sampled_from(QuietPolicy), st.sampled_from(ZONES), st.integers(0, 400 * DAY), st.text(max_size=5))
def test_the_gate_lets_a_held_delivery_pass_when_it_is_due(
    quiet: QuietHours, policy: QuietPolicy, timezone: str, later: int, user: str
) -> None:
    now = NOW + later
    sent = notification(Recipient(user_id=user), SMS_ONLY)
    profile = Profile(phone="+4930123456", timezone=timezone)
    category, preferences = Category("news", quiet_hours=policy), Preferences(quiet_hours=quiet)
    (entry,) = plan(sent, profile, preferences, category, now=now)
    if entry.state is State.DEFERRED:
        assert entry.address is not None
        assert entry.due is not None
        verdict = gate(
            delivery(sent, entry.slot, entry.address, timezone),
            profile=profile,
            preferences=preferences,
            category=category,
            suppressed={},
            cancelled=(),
            now=entry.due,
        )
        assert verdict == GO


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
    found = addresses(ADA, many, (Channel.PUSH,))
    assert len(found) == MAX_DEVICES
    assert max(slot for slot, _ in found) == 255


@pytest.mark.parametrize("cancelled", [set[UUID](), {ID}])
def test_a_cancelled_notification_stops_at_the_gate(cancelled: set[UUID]) -> None:
    verdict = gate(
        delivery(notification(), 1, Address(Channel.EMAIL, "ada@example.com"), None),
        profile=PROFILE,
        preferences=Preferences(),
        category=Category("orders"),
        suppressed={},
        cancelled=cancelled,
        now=NOW,
    )
    assert verdict == (Stop(State.CANCELLED, Reason.CANCELLED) if cancelled else GO)


def test_a_user_who_was_deleted_in_between_is_not_reached() -> None:
    verdict = gate(
        delivery(notification(), 1, Address(Channel.EMAIL, "ada@example.com"), None),
        profile=None,
        preferences=Preferences(),
        category=Category("security", critical=True),
        suppressed={},
        cancelled=(),
        now=NOW,
    )
    assert verdict == Stop(State.SUPPRESSED, Reason.UNKNOWN_USER)
