"""All stages over the memory adapters: what a person gets, and what is recorded about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from support.flow import TENANT, Flow, Recorder, takes_it
from tidings.config import Settings
from tidings.model import topics
from tidings.model.errors import Conflict
from tidings.model.ids import delivery_id, notification_of
from tidings.model.notification import Content, EmailContent, InappContent, PushContent, SmsContent
from tidings.model.sending import NAMELESS, About, InboundRequest, Receipt, Rejected, Retry, SendResult, Sent, Uncertain
from tidings.model.template import Variable
from tidings.model.user import Category, Preferences, QuietHours, Retries
from tidings.model.vocabulary import Channel, Priority, State
from tidings.pipeline.deliver import attempts
from tidings.pipeline.deliver import stage as deliver
from tidings.ports.queue import Item

EVERYWHERE = {
    "email": {"subject": "Hi", "text": "Hello"},
    "sms": {"text": "Hello"},
    "push": {"title": "Hi", "body": "Hello"},
    "inapp": {"title": "Hi", "body": "Hello"},
}
MAIL = {"email": EVERYWHERE["email"]}


def instant(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


async def test_one_request_reaches_every_channel(flow: Flow) -> None:
    await flow.user("ada", devices=("phone", "tablet"))
    id = await flow.accept(to={"user_id": "ada"}, content=EVERYWHERE)
    await flow.settle()
    seen = await flow.view(id)
    assert seen.state is State.SENT
    assert [(d.channel, d.state) for d in seen.deliveries] == [
        (Channel.EMAIL, State.SENT),
        (Channel.SMS, State.SENT),
        (Channel.INAPP, State.SENT),
        (Channel.PUSH, State.SENT),
        (Channel.PUSH, State.SENT),
    ]
    assert {sent.to for sent in flow.provider(Channel.PUSH).sent} == {"phone", "tablet"}
    assert next(entry.state for entry in seen.timeline) is State.PENDING
    assert all(len(delivery.attempts) == 1 for delivery in seen.deliveries)


async def test_a_template_is_rendered_in_the_users_language(flow: Flow) -> None:
    await flow.user("ada", locale="pt-BR")
    await flow.template(
        "welcome",
        {
            "en": Content(email=EmailContent("Hello {{ name }}", text="Hello {{ name }}")),
            "pt": Content(email=EmailContent("Olá {{ name }}", text="Olá {{ name }}")),
        },
        name=Variable(),
    )
    await flow.accept(to={"user_id": "ada"}, template="welcome", data={"name": "Ada"})
    await flow.settle()
    [sent] = flow.provider(Channel.EMAIL).sent
    assert isinstance(sent.content, EmailContent)
    assert sent.content.subject == "Olá Ada"


async def test_an_unknown_user_is_accounted_for(flow: Flow) -> None:
    id = await flow.accept(to={"user_id": "nobody"}, content=MAIL)
    await flow.settle()
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.SUPPRESSED, "unknown_user")


async def test_inline_addresses_need_no_user(flow: Flow) -> None:
    id = await flow.accept(to={"email": "Bob@Example.com", "phone": "+44 7400 123456"}, content=EVERYWHERE)
    await flow.settle()
    states = {delivery.channel: (delivery.state, delivery.reason) for delivery in (await flow.view(id)).deliveries}
    assert states[Channel.EMAIL] == (State.SENT, "")
    assert states[Channel.SMS] == (State.SENT, "")
    assert states[Channel.PUSH] == (State.SUPPRESSED, "no_address")
    assert flow.provider(Channel.SMS).sent[0].to == "+447400123456"


async def test_send_at_waits_and_sends_once(flow: Flow) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL, send_at=instant(flow.clock.now() + 60_000))
    await flow.settle()
    assert (await flow.view(id)).state is State.DEFERRED
    await flow.advance(59)
    assert not flow.provider(Channel.EMAIL).sent
    await flow.advance(1)
    assert len(flow.provider(Channel.EMAIL).sent) == 1
    assert (await flow.view(id)).state is State.SENT
    await flow.advance(3600)
    assert len(flow.provider(Channel.EMAIL).sent) == 1


async def test_quiet_hours_hold_until_they_end_and_critical_passes(flow: Flow) -> None:
    # 22:13 UTC on 2023-11-14
    quiet = Preferences(quiet_hours=QuietHours(22 * 60, 7 * 60))
    await flow.user("ada", quiet, timezone="UTC")
    await flow.store.tenants.put_category(TENANT, Category("code", critical=True))
    held = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    urgent = await flow.accept(to={"user_id": "ada"}, content=MAIL, category="code")
    await flow.settle()
    assert (await flow.view(held)).deliveries[0].reason == "quiet_hours"
    assert (await flow.view(urgent)).state is State.SENT
    await flow.advance(9 * 3600)
    assert (await flow.view(held)).state is State.SENT
    assert len(flow.provider(Channel.EMAIL).sent) == 2


async def test_an_opt_out_between_accept_and_send_wins(flow: Flow) -> None:
    await flow.user(preferences=Preferences(quiet_hours=QuietHours(22 * 60, 7 * 60)), timezone="UTC")
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL, category="marketing")
    await flow.settle()
    await flow.store.users.set_preferences(TENANT, "ada", Preferences(opted_out={"marketing": ()}), flow.clock.now())
    await flow.advance(10 * 3600)
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.SUPPRESSED, "opted_out")
    assert not flow.provider(Channel.EMAIL).sent


async def test_a_cancelled_notification_ends_at_once(flow: Flow) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL, send_at=instant(flow.clock.now() + 3_600_000))
    await flow.settle()
    await flow.store.cancellations.cancel(TENANT, id, flow.clock.now())
    await flow.settle()
    assert (await flow.view(id)).state is State.CANCELLED
    await flow.advance(7200)
    assert not flow.provider(Channel.EMAIL).sent


async def test_a_failed_try_is_repeated_and_the_timeline_shows_it(flow: Flow) -> None:
    await flow.user()
    answers: Iterator[SendResult] = iter([Retry("unavailable"), Sent("second")])
    flow.provider(Channel.EMAIL).answers = lambda _: next(answers)
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    assert (await flow.view(id)).state is State.DEFERRED
    await flow.advance(5)
    seen = await flow.view(id)
    assert seen.state is State.SENT
    assert [(attempt.number, attempt.state) for attempt in seen.deliveries[0].attempts] == [
        (1, State.DEFERRED),
        (2, State.SENT),
    ]


async def test_a_delivery_is_a_dead_letter_after_its_last_try(flow: Flow) -> None:
    await flow.user()
    flow.provider(Channel.EMAIL).answers = lambda _: Retry("mailbox_busy")
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    for _ in range(5):
        await flow.advance(1000)
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.DEAD, "attempts_exhausted")
    assert len(flow.provider(Channel.EMAIL).sent) == 3


async def test_an_account_that_is_asked_to_wait_uses_up_no_try(flow: Flow) -> None:
    await flow.user()
    answers: Iterator[SendResult] = iter([*[Retry("throttled", after_s=1, about=About.ACCOUNT)] * 6, Sent()])
    flow.provider(Channel.EMAIL).answers = lambda _: next(answers)
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    seen = await flow.view(id)
    assert (seen.state, seen.reason, seen.deliveries[0].attempts) == (State.DEFERRED, "throttled", [])
    assert seen.deliveries[0].next_at is not None
    for _ in range(15):
        await flow.advance(30)
    seen = await flow.view(id)
    assert seen.state is State.SENT
    assert [attempt.number for attempt in seen.deliveries[0].attempts] == [1]


async def test_a_category_sets_the_number_of_tries(flow: Flow) -> None:
    await flow.user()
    await flow.store.tenants.put_category(TENANT, Category("patient", retries=Retries(attempts=5, base_s=0.1)))
    flow.provider(Channel.EMAIL).answers = lambda _: Retry("mailbox_busy")
    flow.settings = Settings.model_validate({"deliver": {"channels": {"email": {"attempts": 2}}}})
    for category, tries in (("orders", 2), ("patient", 5)):
        flow.provider(Channel.EMAIL).sent.clear()
        id = await flow.accept(to={"user_id": "ada"}, content=MAIL, category=category)
        for _ in range(8):
            await flow.advance(100)
        assert (await flow.view(id)).state is State.DEAD
        assert len(flow.provider(Channel.EMAIL).sent) == tries


async def test_an_outage_uses_up_no_tries_once_it_is_known(flow: Flow) -> None:
    await flow.user()
    provider = flow.provider(Channel.EMAIL)
    provider.answers = lambda _: Retry("unreachable")
    for _ in range(10):
        await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    called = len(provider.sent)
    late = [await flow.accept(to={"user_id": "ada"}, content=MAIL) for _ in range(50)]
    await flow.settle()
    assert len(provider.sent) == called
    seen = await flow.view(late[0])
    assert (seen.state, seen.reason, seen.deliveries[0].attempts) == (State.DEFERRED, "provider_open", [])
    for _ in range(60):
        await flow.advance(10)
    provider.answers = takes_it
    for _ in range(120):
        await flow.advance(10)
    assert Counter([(await flow.view(id)).state for id in late]) == {State.SENT: len(late)}


async def test_an_outage_moves_first_reachable_to_the_next_channel_and_ends_at_expiry(flow: Flow) -> None:
    await flow.user()
    flow.provider(Channel.PUSH).answers = lambda _: Retry("unreachable")
    for _ in range(10):
        await flow.accept(to={"user_id": "ada"}, content={"push": EVERYWHERE["push"]})
    await flow.settle()
    moved = await flow.accept(
        to={"user_id": "ada"}, content=EVERYWHERE, channels=["push", "sms"], strategy="first_reachable"
    )
    expiring = await flow.accept(
        to={"user_id": "ada"}, content={"push": EVERYWHERE["push"]}, expires_at=instant(flow.clock.now() + 100)
    )
    await flow.settle()
    seen = await flow.view(moved)
    assert [(d.channel, d.state) for d in seen.deliveries] == [(Channel.SMS, State.SENT), (Channel.PUSH, State.DEAD)]
    assert seen.deliveries[1].reason == "provider_open"
    assert (await flow.view(expiring)).state is State.EXPIRED


async def test_another_provider_is_asked_at_once_and_the_first_again_after_a_pause(flow: Flow) -> None:
    await flow.user()
    first, second = flow.provider(Channel.EMAIL), Recorder("email-two", Channel.EMAIL)
    flow.providers[Channel.EMAIL].append(second)
    first.answers = second.answers = lambda _: Retry("provider_error")
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    assert (len(first.sent), len(second.sent)) == (1, 1)
    first.answers = takes_it
    await flow.advance(5)
    seen = await flow.view(id)
    assert [(a.provider, a.state, a.reason) for a in seen.deliveries[0].attempts] == [
        ("email-one", State.DEFERRED, "fallback"),
        ("email-two", State.DEFERRED, "retry"),
        ("email-one", State.SENT, ""),
    ]


async def test_an_uncertain_answer_goes_elsewhere_only_where_doubles_are_allowed(flow: Flow) -> None:
    await flow.user()
    await flow.store.tenants.put_category(TENANT, Category("code", allow_doubles=True))
    first, second = flow.provider(Channel.EMAIL), Recorder("email-two", Channel.EMAIL)
    flow.providers[Channel.EMAIL].append(second)
    first.answers = lambda _: Uncertain("no_answer")
    careful = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    urgent = await flow.accept(to={"user_id": "ada"}, content=MAIL, category="code")
    await flow.settle()
    assert (await flow.view(careful)).state is State.UNCERTAIN
    seen = await flow.view(urgent)
    assert (seen.state, seen.deliveries[0].provider) == (State.SENT, "email-two")
    assert [sent.id for sent in second.sent] == [delivery_id(urgent, 1)]


async def test_after_an_uncertain_answer_the_same_provider_gets_the_same_key(flow: Flow) -> None:
    await flow.user()
    answers: Iterator[SendResult] = iter([Uncertain("timeout"), Sent()])
    first = Recorder("email-one", Channel.EMAIL, idempotent=True)
    second = Recorder("email-two", Channel.EMAIL, idempotent=True)
    first.answers = lambda _: next(answers)
    flow.providers[Channel.EMAIL] = [first, second]
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    await flow.advance(10)
    assert (await flow.view(id)).state is State.SENT
    assert len({sent.idempotency_key for sent in first.sent}) == 1
    assert (len(first.sent), len(second.sent)) == (2, 0)


@pytest.mark.parametrize("said", [State.SENT, State.DELIVERED, State.FAILED])
async def test_a_late_receipt_resolves_an_uncertain_delivery(flow: Flow, said: State) -> None:
    await flow.user()
    flow.provider(Channel.EMAIL).answers = lambda _: Uncertain("no_answer")
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    receipt = Receipt(delivery_id(id, 1), TENANT, said, said.value)
    flow.accept_stage = flow.with_receipts("email-one", Channel.EMAIL, [receipt])
    await flow.accept_stage.receipts("email-one", InboundRequest("", {}, {}, b""))
    await flow.settle()
    seen = await flow.view(id)
    assert seen.state is said
    assert [entry.state for entry in seen.timeline].count(State.UNCERTAIN) == 1


@pytest.mark.parametrize("kind", ["bounced", "blocked"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_mail_that_comes_back_after_it_was_delivered_has_failed(
    flow: Flow, order: tuple[int, int], kind: str
) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    receipts = [
        Receipt(delivery_id(id, 1), TENANT, State.DELIVERED, "delivered"),
        Receipt(delivery_id(id, 1), TENANT, State.FAILED, kind, reason="mailbox_full", detail="552 full"),
    ]
    for place in order:
        taken = flow.with_receipts("email-one", Channel.EMAIL, [receipts[place]])
        await taken.receipts("email-one", InboundRequest("", {}, {}, b""))
        await flow.settle()
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.FAILED, "mailbox_full")
    assert {entry.state for entry in seen.timeline} >= {State.SENT, State.DELIVERED, State.FAILED}
    assert {entry.attempt for entry in seen.timeline} == {0, 1}
    [attempt] = seen.deliveries[0].attempts
    assert (attempt.number, attempt.state, attempt.reason) == (1, State.FAILED, "mailbox_full")


@pytest.mark.parametrize(
    ("reference", "address", "is_found"),
    [
        ("ref", "ada@example.com", True),
        ("ref", None, True),
        ("", "ADA@example.com", True),
        ("", "bob@example.com", False),
        ("foreign", "ada@example.com", False),
    ],
)
async def test_a_receipt_that_names_no_delivery_is_matched(
    flow: Flow, reference: str, address: str | None, is_found: bool
) -> None:
    await flow.user()
    flow.provider(Channel.EMAIL).answers = lambda _: Sent("ref")
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    nameless = Receipt(NAMELESS, "", State.FAILED, "bounced", reference=reference, address=address, suppress=True)
    taken = flow.with_receipts("email-one", Channel.EMAIL, [nameless])
    assert await taken.receipts("email-one", InboundRequest("", {}, {}, b"")) == int(is_found)
    await flow.settle()
    assert (await flow.view(id)).state is (State.FAILED if is_found else State.SENT)


async def test_a_receipt_whose_address_matches_two_deliveries_is_left_out(flow: Flow) -> None:
    await flow.user()
    ids = [await flow.accept(to={"user_id": "ada"}, content=MAIL) for _ in range(2)]
    await flow.settle()
    nameless = Receipt(NAMELESS, "", State.FAILED, "bounced", address="ada@example.com", suppress=True)
    taken = flow.with_receipts("email-one", Channel.EMAIL, [nameless])
    assert await taken.receipts("email-one", InboundRequest("", {}, {}, b"")) == 0
    await flow.settle()
    assert [(await flow.view(id)).state for id in ids] == [State.SENT, State.SENT]


@pytest.mark.parametrize("kind", ["complained", "unsubscribed"])
async def test_an_address_that_complains_after_the_delivery_is_suppressed(flow: Flow, kind: str) -> None:
    await flow.user()
    first = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    address = "ada@example.com"
    for receipt in (
        Receipt(delivery_id(first, 1), TENANT, State.DELIVERED, "delivered"),
        Receipt(delivery_id(first, 1), TENANT, State.DELIVERED, kind, address=address, suppress=True),
    ):
        await flow.with_receipts("email-one", Channel.EMAIL, [receipt]).receipts(
            "email-one", InboundRequest("", {}, {}, b"")
        )
    await flow.settle()
    second = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    assert (await flow.view(first)).state is State.DELIVERED
    assert (await flow.view(second)).reason == "address_suppressed"


async def test_no_try_is_made_after_expiry(flow: Flow) -> None:
    await flow.user()
    flow.provider(Channel.EMAIL).answers = lambda _: Retry("mailbox_busy", after_s=120)
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL, expires_at=instant(flow.clock.now() + 60_000))
    await flow.settle()
    await flow.advance(600)
    assert (await flow.view(id)).state is State.EXPIRED
    assert len(flow.provider(Channel.EMAIL).sent) == 1


async def test_a_hard_bounce_suppresses_the_address(flow: Flow) -> None:
    await flow.user()
    flow.provider(Channel.EMAIL).answers = lambda _: Rejected("no_such_mailbox", suppress=True)
    first = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    second = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    assert (await flow.view(first)).state is State.FAILED
    seen = await flow.view(second)
    assert (seen.state, seen.reason) == (State.SUPPRESSED, "address_suppressed")
    assert len(flow.provider(Channel.EMAIL).sent) == 1


async def test_the_next_provider_takes_a_delivery_that_the_first_may_not_take(flow: Flow) -> None:
    await flow.user()
    second = Recorder("email-two", Channel.EMAIL)
    flow.providers[Channel.EMAIL].append(second)
    flow.provider(Channel.EMAIL).answers = lambda _: Rejected("account_suspended", fallback=True)
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    seen = await flow.view(id)
    assert (seen.state, seen.deliveries[0].provider) == (State.SENT, "email-two")
    assert len(second.sent) == 1


async def test_first_reachable_goes_on_to_the_next_channel_when_one_fails(flow: Flow) -> None:
    await flow.user()
    flow.provider(Channel.PUSH).answers = lambda _: Rejected("unregistered", suppress=True)
    id = await flow.accept(
        to={"user_id": "ada"}, content=EVERYWHERE, channels=["push", "sms", "email"], strategy="first_reachable"
    )
    await flow.settle()
    seen = await flow.view(id)
    assert seen.state is State.SENT
    assert [(d.channel, d.state) for d in seen.deliveries] == [(Channel.SMS, State.SENT), (Channel.PUSH, State.FAILED)]
    assert not flow.provider(Channel.EMAIL).sent


@pytest.mark.parametrize(("idempotent", "state", "calls"), [(False, State.UNCERTAIN, 1), (True, State.SENT, 2)])
async def test_an_uncertain_answer(flow: Flow, idempotent: bool, state: State, calls: int) -> None:
    await flow.user()
    answers: Iterator[SendResult] = iter([Uncertain("timeout"), Sent()])
    provider = Recorder("email-one", Channel.EMAIL, idempotent=idempotent)
    provider.answers = lambda _: next(answers)
    flow.providers[Channel.EMAIL] = [provider]
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    await flow.advance(10)
    assert (await flow.view(id)).state is state
    assert len(provider.sent) == calls
    assert len({sent.idempotency_key for sent in provider.sent}) == 1


async def test_a_delivery_that_a_killed_worker_had_claimed_but_not_begun_is_sent(flow: Flow) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    topic = topics.deliveries(Channel.EMAIL, (await _settle_up_to_deliver(flow)))
    assert await flow.queue.claim(topic, topics.DELIVER, 10, 0, lease_s=60) is not None
    await flow.advance(61)
    assert (await flow.view(id)).state is State.SENT
    assert len(flow.provider(Channel.EMAIL).sent) == 1


async def test_a_delivery_that_a_killed_worker_had_begun_is_uncertain_and_never_doubled(flow: Flow) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    parts = flow.parts()
    topic = topics.deliveries(Channel.EMAIL, (await _settle_up_to_deliver(flow)))
    claim = await parts.queue.claim(topic, topics.DELIVER, 10, 0, lease_s=60)
    assert claim is not None
    await claim.begin([0])
    await flow.advance(61)
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.UNCERTAIN, "may_have_been_sent")
    assert not flow.provider(Channel.EMAIL).sent


async def test_an_answer_that_cannot_be_judged_is_uncertain_and_does_not_affect_others(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    await flow.user()
    good, bad, also_good = [await flow.accept(to={"user_id": "ada"}, content=MAIL) for _ in range(3)]
    judge = attempts.judge

    def broken(tried: Any, *rest: Any) -> Any:
        if notification_of(tried.delivery.id) == bad:
            raise ZeroDivisionError
        return judge(tried, *rest)

    monkeypatch.setattr(deliver, "judge", broken)
    await flow.settle()
    await flow.advance(61)
    assert [(await flow.view(id)).state for id in (good, bad, also_good)] == [State.SENT, State.UNCERTAIN, State.SENT]
    assert len(flow.provider(Channel.EMAIL).sent) == 3


async def test_a_second_copy_of_an_attempt_is_dropped(flow: Flow) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    priority = await _settle_up_to_deliver(flow)
    topic = topics.deliveries(Channel.EMAIL, priority)
    claim = await flow.queue.claim(topic, topics.DELIVER, 10, 0)
    assert claim is not None
    body = claim.items[0].body
    await claim.release()
    await flow.queue.put([Item(topic, "shop/ada", body, {"repeated": "1"})])
    await flow.settle()
    assert len(flow.provider(Channel.EMAIL).sent) == 1
    assert (await flow.view(id)).state is State.SENT


async def test_an_unreadable_item_goes_aside_and_the_rest_goes_on(flow: Flow) -> None:
    await flow.user()
    await flow.queue.put([Item("requests.normal", "x", b"\x00garbage")])
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    assert (await flow.view(id)).state is State.SENT
    names = [name async for name in flow.objects.list("aside/")]
    assert len(names) == 2
    assert await flow.objects.get(next(name for name in names if name.endswith(".bin"))) == b"\x00garbage"


async def test_an_idempotency_key_answers_the_same(flow: Flow) -> None:
    await flow.user()
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": MAIL}
    first = await flow.accept("key-1", **body)
    again = await flow.accept("key-1", **body)
    await flow.settle()
    assert first == again
    assert len(flow.provider(Channel.EMAIL).sent) == 1
    with pytest.raises(Conflict, match="another body"):
        await flow.accept("key-1", to={"user_id": "eve"}, content=MAIL)


async def test_an_abandoned_idempotency_key_is_taken_over_with_the_same_id(flow: Flow) -> None:
    await flow.user()
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": MAIL}
    healthy = flow.queue.put
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow.store.idempotency, "complete", _dies)
        with pytest.raises(ConnectionError):
            await flow.accept("key-1", **body)
    assert flow.queue.put == healthy
    await flow.settle()
    with pytest.raises(Conflict, match="under way"):
        await flow.accept("key-1", **body)
    await flow.advance(31)
    id = await flow.accept("key-1", **body)
    await flow.settle()
    assert (await flow.view(id)).state is State.SENT
    assert len(flow.provider(Channel.EMAIL).sent) == 1


async def test_a_template_that_fails_at_send_time_is_a_failure_with_its_reason(flow: Flow) -> None:
    await flow.user()
    await flow.template("odd", {"en": Content(sms=SmsContent("{{ 1 // n }}"))}, n=Variable())
    id = await flow.accept(to={"user_id": "ada"}, template="odd", data={"n": 0})
    await flow.settle()
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.FAILED, "template_error")
    assert seen.deliveries[0].attempts == []


@pytest.mark.parametrize(
    ("data", "text"), [({}, "Hi there!"), ({"name": None}, "Hi there!"), ({"name": "Ada"}, "Hi Ada!")]
)
async def test_optional_variables_may_be_left_out(flow: Flow, data: dict[str, Any], text: str) -> None:
    await flow.user()
    source = "Hi {% if name %}{{ name }}{% else %}there{% endif %}!"
    await flow.template("hi", {"en": Content(sms=SmsContent(source))}, name=Variable(required=False))
    await flow.accept(to={"user_id": "ada"}, template="hi", data=data)
    await flow.settle()
    assert [delivery.content for delivery in flow.provider(Channel.SMS).sent] == [SmsContent(text)]


@pytest.mark.parametrize(("value", "reason"), [(" ", "empty_content"), ("x" * 1_601, "too_long")])
async def test_content_that_no_vendor_takes_fails_before_any_call(flow: Flow, value: str, reason: str) -> None:
    await flow.user()
    await flow.template("echo", {"en": Content(sms=SmsContent("{{ v }}"))}, v=Variable())
    id = await flow.accept(to={"user_id": "ada"}, template="echo", data={"v": value})
    await flow.settle()
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.FAILED, reason)
    assert flow.provider(Channel.SMS).sent == []
    assert seen.deliveries[0].attempts == []


async def test_the_counts_add_up(flow: Flow) -> None:
    await flow.user("ada")
    await flow.user("eve", Preferences(muted=True))
    for user in ("ada", "eve", "nobody"):
        await flow.accept(to={"user_id": user}, content={"inapp": EVERYWHERE["inapp"]})
    await flow.settle()
    tally = await flow.store.history.tally(TENANT)
    whole = {(line.state, line.reason): line.count for line in tally if line.channel is None}
    assert sum(whole.values()) == 3
    assert {state for state, _ in whole} == {State.SENT, State.SUPPRESSED}


def test_contents_name_their_channels() -> None:
    content = Content(push=PushContent("a", "b"), inapp=InappContent("a", "b"))
    assert content.channels() == (Channel.PUSH, Channel.INAPP)


async def _dies(*_: object) -> None:
    raise ConnectionError("killed here")


async def _settle_up_to_deliver(flow: Flow) -> Priority:
    """Run only `route`; the lane of the queue in which the delivery is then."""
    await flow.settle(only=topics.ROUTE)
    return Priority.NORMAL
