"""All stages over the memory adapters: what follows when a provider refuses, fails, or leaves it open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from support.flow import EVERYWHERE, MAIL, PUSH, TENANT, Flow, Recorder, instant, takes_it
from tidings.config import Settings
from tidings.model.ids import delivery_id, notification_of
from tidings.model.sending import About, Rejected, Retry, SendResult, Sent, Uncertain
from tidings.model.user import Category, Retries
from tidings.model.vocabulary import Channel, State
from tidings.pipeline.deliver import attempts
from tidings.pipeline.deliver import stage as deliver


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
        await flow.accept(to={"user_id": "ada"}, content=PUSH)
    await flow.settle()
    moved = await flow.accept(
        to={"user_id": "ada"}, content=EVERYWHERE, channels=["push", "sms"], strategy="first_reachable"
    )
    expiring = await flow.accept(to={"user_id": "ada"}, content=PUSH, expires_at=instant(flow.clock.now() + 100))
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
    certain = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    urgent = await flow.accept(to={"user_id": "ada"}, content=MAIL, category="code")
    await flow.settle()
    assert (await flow.view(certain)).state is State.UNCERTAIN
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
