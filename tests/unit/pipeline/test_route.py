"""What one routing of a notification decides: wait or go on, to which lane, marked as what."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from support.flow import TENANT, Flow
from tidings.model import topics
from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id, new_id
from tidings.model.notification import Content, EmailContent, Notification, Recipient, SmsContent
from tidings.model.outcome import Outcome
from tidings.model.user import Address, Preferences, QuietHours, Suppression
from tidings.model.vocabulary import Channel, Lane, Priority, State
from tidings.model.wire import decode_delivery, decode_notification, decode_outcomes
from tidings.pipeline.route.stage import Route
from tidings.pipeline.runtime.categories import Categories
from tidings.pipeline.runtime.reader import REPEATED, Claimed
from tidings.policy.shares import ShareRules, Shares
from tidings.ports.queue import Item

NOW = 1_700_000_000_000
ACCEPTED = NOW - 60_000
SECOND, HOUR = 1_000, 3_600_000
BOB = Recipient(phone="+4915123456789", email="bob@example.com")
TEXT = Content(sms=SmsContent("Hello"))
MAIL = Content(email=EmailContent("Hi", "Hello"))
BOTH = Content(email=MAIL.email, sms=TEXT.sms)


def wanted(number: int = 1, **more: Any) -> Notification:
    fields: dict[str, Any] = {"tenant": TENANT, "to": BOB, "accepted_at": ACCEPTED, "content": TEXT} | more
    return Notification(id=new_id(ACCEPTED, 0, number), **fields)


async def routed(flow: Flow, *claims: Claimed[Notification], **options: Any) -> tuple[list[Outcome], list[Item]]:
    """The facts and the deliveries of one batch."""

    async def begin(_: object) -> None:
        raise AssertionError("nothing that route does needs to be begun")

    categories = Categories(flow.store.tenants, flow.clock)
    items = await Route(flow.store.standings, categories, flow.renderer, flow.clock, **options)(claims, begin)
    facts = [fact for item in items if item.topic == topics.OUTCOMES for fact in decode_outcomes(item.body)]
    return facts, [item for item in items if item.topic != topics.OUTCOMES]


def states(facts: Sequence[Outcome]) -> list[tuple[State, str]]:
    return [(fact.state, fact.reason) for fact in facts]


def deliveries(items: Sequence[Item]) -> list[Delivery]:
    return [decode_delivery(item.body) for item in items]


AT_ONCE = [(State.PENDING, ""), (State.PENDING, "")]
WAITS = [(State.DEFERRED, "send_at")]


@pytest.mark.parametrize(
    ("due", "step", "copy", "waits"),
    [
        (NOW + SECOND, 0, {}, True),
        (NOW, 0, {}, False),
        (NOW - SECOND, 0, {}, False),
        (NOW + SECOND, 1, {}, False),
        (NOW + HOUR, 2, {"repeated": True}, False),
        (NOW, 0, {"begun": True}, True),
        (NOW, 0, {"repeated": True}, True),
        (ACCEPTED + SECOND, 0, {"repeated": True}, True),
        (ACCEPTED, 0, {"begun": True, "repeated": True}, False),
        (ACCEPTED - SECOND, 0, {"repeated": True}, False),
    ],
)
@pytest.mark.parametrize("local", [False, True])
async def test_a_notification_waits_once_and_a_copy_waits_as_its_original_may_have(
    flow: Flow, due: int, step: int, copy: dict[str, bool], waits: bool, local: bool
) -> None:
    if local and due > NOW and step:
        waits = True  # a local time is checked again with the user's timezone of now
    when = {"send_at_local": datetime.fromtimestamp(due / 1000, UTC).replace(tzinfo=None).isoformat()}
    claim = Claimed(wanted(step=step, **(when if local else {"send_at": due})), **copy)
    facts, items = await routed(flow, claim)
    assert states(facts) == (WAITS if waits else AT_ONCE)
    assert len(items) == (0 if waits else 1)
    if waits:
        [fact] = facts
        assert fact.wait is not None
        assert (fact.wait.due, fact.wait.topic, fact.wait.key) == (due, "requests.normal", "shop/bob@example.com")
        assert (fact.step, decode_notification(fact.wait.body).step) == (step, step + 1)
        assert fact.wait.repeated == bool(copy)


@pytest.mark.parametrize(("left_ms", "expires"), [(-1, True), (0, True), (1, False)])
async def test_a_notification_expires_at_once_if_its_local_time_comes_too_late(
    flow: Flow, left_ms: int, expires: bool
) -> None:
    local = datetime.fromtimestamp((NOW + HOUR) / 1000, UTC).replace(tzinfo=None).isoformat()
    claim = Claimed(wanted(send_at_local=local, expires_at=NOW + HOUR + left_ms))
    facts, items = await routed(flow, claim)
    assert states(facts) == ([(State.EXPIRED, "expired")] if expires else WAITS)
    assert items == []


async def test_each_notification_of_a_batch_is_decided_alone(flow: Flow) -> None:
    batch = [
        wanted(7, send_at_local="2023-11-14T22:13"),
        wanted(1, send_at_local="2023-11-20T09:00", expires_at=NOW + 1),
        wanted(2, send_at=NOW + HOUR),
        wanted(3),
        wanted(4, send_at_local="2023-11-20T09:00"),
        wanted(5),
        wanted(6),
    ]
    await flow.store.cancellations.cancel(TENANT, batch[5].id, NOW)
    facts, items = await routed(flow, *map(Claimed, batch))
    own = {fact.id: fact.state for fact in facts}
    assert [own[one.id] for one in batch] == [
        State.PENDING,
        State.EXPIRED,
        State.DEFERRED,
        State.PENDING,
        State.DEFERRED,
        State.CANCELLED,
        State.PENDING,
    ]
    assert [one.id for one in deliveries(items)] == [delivery_id(batch[place].id, 2) for place in (0, 3, 6)]


@pytest.mark.parametrize("copy", [{}, {"begun": True}, {"repeated": True}])
async def test_a_possible_copy_gives_deliveries_that_are_marked(flow: Flow, copy: dict[str, bool]) -> None:
    _, [item] = await routed(flow, Claimed(wanted(), **copy))
    assert item.headers == ({REPEATED: "1"} if copy else {})
    assert (item.topic, item.key) == (topics.deliveries(Channel.SMS, Lane.NORMAL), "shop/bob@example.com")


@pytest.mark.parametrize("priority", list(Priority))
@pytest.mark.parametrize("surplus", [False, True])
async def test_a_delivery_stays_in_its_lane(flow: Flow, priority: Priority, surplus: bool) -> None:
    _, items = await routed(flow, Claimed(wanted(priority=priority, content=BOTH)), surplus=surplus)
    lane = Lane.of(priority, surplus=surplus)
    assert [item.topic for item in items] == [topics.deliveries(each, lane) for each in (Channel.EMAIL, Channel.SMS)]


async def test_what_exceeds_a_narrow_channel_becomes_surplus_there_alone(flow: Flow) -> None:
    shares = Shares(ShareRules(per_second=0.001, burst=2))
    batch = [wanted(number, content=BOTH) for number in range(4)]
    claims = [Claimed(batch[0], repeated=True), *map(Claimed, batch[1:])]
    _, items = await routed(flow, *claims, narrow={Channel.SMS: shares})
    lanes = [item.topic.removeprefix("deliveries.") for item in items]
    assert lanes[::2] == ["email.normal"] * 4
    assert lanes[1::2] == ["sms.normal.surplus", "sms.normal", "sms.normal", "sms.normal.surplus"], (
        "a copy goes after its original, wherever that is, and uses up no share"
    )
    other = [Claimed(wanted(number, tenant="bank")) for number in range(3)]
    _, items = await routed(flow, *other, narrow={Channel.SMS: shares})
    assert [item.topic for item in items] == [*["deliveries.sms.normal"] * 2, "deliveries.sms.normal.surplus"]


async def test_surplus_takes_nothing_from_the_share_of_a_narrow_channel(flow: Flow) -> None:
    narrow = {Channel.SMS: Shares(ShareRules(per_second=0.001, burst=1))}
    await routed(flow, Claimed(wanted()), surplus=True, narrow=narrow)
    _, [item] = await routed(flow, Claimed(wanted()), narrow=narrow)
    assert item.topic == "deliveries.sms.normal"


@pytest.mark.parametrize(("step", "asks"), [(0, 0), (1, 0), (2, 1), (3, 1)])
async def test_a_delivery_is_looked_up_before_it_is_sent_if_there_may_be_two_of_it(
    flow: Flow, step: int, asks: int
) -> None:
    _, items = await routed(flow, Claimed(wanted(step=step)))
    assert [one.step for one in deliveries(items)] == [asks]


async def test_a_delivery_in_quiet_hours_waits_and_a_decision_not_to_send_is_below_every_attempt(flow: Flow) -> None:
    await flow.user("ada", Preferences(quiet_hours=QuietHours(0, 1439)), timezone="UTC", phone=None)
    claim = Claimed(wanted(to=Recipient(user_id="ada"), content=BOTH))
    [own, *facts], items = await routed(flow, claim)
    assert items == []
    assert (own.id, own.state, own.notification is not None) == (claim.value.id, State.PENDING, True)
    found = {fact.id: fact for fact in facts}
    mail, text = (found[delivery_id(claim.value.id, slot)] for slot in (1, 2))
    assert (text.state, text.reason, text.attempt, text.wait) == (State.SUPPRESSED, "no_address", 0, None)
    assert (mail.state, mail.reason, mail.attempt) == (State.DEFERRED, "quiet_hours", 1)
    assert mail.wait is not None
    assert (mail.wait.topic, mail.wait.repeated) == ("deliveries.email.normal", False)
    assert decode_delivery(mail.wait.body).step == 1
    assert NOW < mail.wait.due <= NOW + 25 * HOUR


async def test_a_suppressed_address_is_recorded_with_the_reason_of_the_list(flow: Flow) -> None:
    await flow.store.users.suppress([Suppression(TENANT, Address(Channel.EMAIL, "bob@example.com"), "bounced", NOW)])
    facts, items = await routed(flow, Claimed(wanted(content=BOTH)), Claimed(wanted(2, tenant="bank", content=MAIL)))
    assert [one.address.value for one in deliveries(items)] == ["+4915123456789", "bob@example.com"]
    [fact] = [fact for fact in facts if fact.state is State.SUPPRESSED]
    assert (fact.reason, fact.detail, fact.attempt) == ("address_suppressed", "bounced", 0)


async def test_each_priority_has_a_share_of_a_narrow_channel_that_grows_with_time(flow: Flow) -> None:
    narrow = {Channel.SMS: Shares(ShareRules(per_second=1.0, burst=1))}

    async def lanes() -> list[str]:
        claims = [Claimed(wanted(number, priority=each)) for number, each in enumerate([*Priority, *Priority])]
        _, items = await routed(flow, *claims, narrow=narrow)
        return [item.topic.removeprefix("deliveries.sms.") for item in items]

    within = ["critical", "normal", "bulk"]
    beyond = [f"{name}.surplus" for name in within]
    assert await lanes() == [*within, *beyond]
    assert await lanes() == [*beyond, *beyond]
    await flow.clock.advance(1)
    assert await lanes() == [*within, *beyond]


@pytest.mark.parametrize(("moved", "goes"), [(0, True), (1, False), (-1, False)])
async def test_a_notification_for_a_user_goes_to_no_other_user_with_the_same_id(
    flow: Flow, moved: int, goes: bool
) -> None:
    await flow.user()
    people = await flow.store.users.people([(TENANT, "ada")])
    incarnation = people[TENANT, "ada"].incarnation
    assert incarnation is not None
    claim = Claimed(wanted(to=Recipient(user_id="ada"), incarnation=incarnation + moved))
    facts, items = await routed(flow, claim)
    assert [one.incarnation for one in deliveries(items)] == ([incarnation] if goes else [])
    assert [fact.reason for fact in facts] == ["", "" if goes else "user_deleted"]
    _, items = await routed(flow, Claimed(wanted(to=Recipient(user_id="ada"))))
    assert [one.incarnation for one in deliveries(items)] == [incarnation], "from now on it is for this user"
