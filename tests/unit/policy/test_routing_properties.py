"""What holds for every plan and every verdict of the gate, whoever the person is and whatever was asked for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from support import routing
from support.routing import ADA, DAY, ID, NOW, SMS_ONLY, delivery, notification, verdict
from tidings.model.ids import delivery_id, notification_of
from tidings.model.notification import Recipient
from tidings.model.user import Address, Category, Preferences, Profile, QuietHours
from tidings.model.vocabulary import Channel, QuietPolicy, State, Strategy
from tidings.policy.routing import (
    FIRST_SLOT,
    GO,
    Go,
    Hold,
    Stop,
    wanted,
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
        self.plan = routing.plan(
            self.notification, self.profile, preferences, category, NOW, content=content, suppressed=suppressed
        )

    @property
    def timezone(self) -> str | None:
        return self.profile.timezone if self.profile is not None else self.to.timezone

    def gate(self, slot: int, address: Address) -> Go | Hold | Stop:
        return verdict(
            delivery(self.notification, slot, address, self.timezone),
            self.profile,
            self.preferences,
            self.category,
            NOW,
            suppressed=self.suppressed,
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
        answer = case.gate(entry.slot, entry.address)
        match entry.state:
            case State.PENDING:
                assert answer is GO
            case State.DEFERRED:
                assert answer == Hold(entry.due or 0, entry.reason)
            case _:
                assert answer == Stop(entry.state, entry.reason, entry.detail)
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


@settings(deadline=None)
@given(QUIET, st.sampled_from(QuietPolicy), st.sampled_from(ZONES), st.integers(0, 400 * DAY), st.text(max_size=5))
def test_the_gate_lets_a_held_delivery_pass_when_it_is_due(
    quiet: QuietHours, policy: QuietPolicy, timezone: str, later: int, user: str
) -> None:
    now = NOW + later
    sent = notification(Recipient(user_id=user), SMS_ONLY)
    profile = Profile(phone="+4930123456", timezone=timezone)
    category, preferences = Category("news", quiet_hours=policy), Preferences(quiet_hours=quiet)
    (entry,) = routing.plan(sent, profile, preferences, category, now)
    if entry.state is State.DEFERRED:
        assert entry.address is not None
        assert entry.due is not None
        held = delivery(sent, entry.slot, entry.address, timezone)
        assert verdict(held, profile, preferences, category, entry.due) == GO
