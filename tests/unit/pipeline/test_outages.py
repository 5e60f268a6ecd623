"""Providers that are down: which deliveries wait, how long, at what cost, and what the log says."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog.testing

from support.flow import MAIL, TENANT, Flow, takes_it, wait
from support.outages import HOUR, facts, mails, send, two
from tidings.config import Settings
from tidings.model.ids import delivery_id
from tidings.model.sending import (
    About,
    Receipt,
    Rejected,
    Retry,
    SendResult,
    Sent,
    Uncertain,
)
from tidings.model.user import Category, Retries
from tidings.model.vocabulary import Channel, State

DOWN = Retry("unreachable", detail="no session with mail.example:587: connection refused", about=About.UNOFFERED)


async def test_an_outage_of_eight_hours_costs_a_handful_of_facts_and_no_delivery(flow: Flow) -> None:
    mails(flow).answers = lambda _: DOWN
    ids = []
    for number in range(200):
        ids.append(await send(flow, number))
        if number % 20 == 0:
            await flow.advance(random.Random(number).random() * 30)
    await wait(flow, 8 * HOUR, 30.0)
    held = [await flow.view(id) for id in ids]
    assert Counter(view.state for view in held) == {State.DEFERRED: 200}
    assert max(len(facts(view)) for view in held) <= 30
    assert {reason for view in held for state, reason in facts(view) if state is State.DEFERRED} == {
        "provider_failing",
        "provider_open",
    }
    assert all(view.deliveries[0].next_at is not None for view in held)
    assert all(not view.deliveries[0].attempts for view in held), "nothing was ever offered"
    mails(flow).answers = takes_it
    await wait(flow, 1_800, 10.0)
    seen = [await flow.view(id) for id in ids]
    assert Counter(view.state for view in seen) == {State.SENT: 200}
    assert max(len(facts(view)) for view in seen) <= 31
    assert all([attempt.number for attempt in view.deliveries[0].attempts] == [1] for view in seen)


@pytest.mark.parametrize("others", [0, 2])
async def test_the_end_of_an_outage_is_noticed_in_an_idle_system(flow: Flow, others: int) -> None:
    """One delivery waits and nothing new is sent: the provider is checked, at no delivery's cost."""
    server = mails(flow)
    server.answers, server.is_well = lambda _: DOWN, lambda: server.answers is takes_it
    ids = [await send(flow, number) for number in range(1 + others)]
    await wait(flow, 3 * HOUR, 30.0)
    server.answers = takes_it
    await wait(flow, 75, 1.0)
    seen = [await flow.view(id) for id in ids]
    assert {view.state for view in seen} == {State.SENT}
    assert max(len(facts(view)) for view in seen) <= 20
    assert server.checks < 3 * HOUR / 50


async def test_a_provider_that_says_it_is_well_and_fails_is_asked_less_and_less_often(flow: Flow) -> None:
    mails(flow).answers = lambda _: DOWN
    id = await send(flow)
    await wait(flow, 8 * HOUR, 30.0)
    assert len(facts(await flow.view(id))) <= 45
    assert mails(flow).checks <= 30
    mails(flow).answers = takes_it
    await wait(flow, HOUR / 2, 10.0)
    assert (await flow.view(id)).state is State.SENT


async def test_single_mails_outlive_the_restart_of_the_only_server(flow: Flow) -> None:
    mails(flow).answers = lambda _: DOWN
    ids = [await send(flow, number) for number in range(3)]
    await wait(flow, 60, 1.0)
    assert {(await flow.view(id)).state for id in ids} == {State.DEFERRED}
    mails(flow).answers = takes_it
    await wait(flow, 90, 1.0)
    assert {(await flow.view(id)).state for id in ids} == {State.SENT}


@pytest.mark.parametrize(
    "answer",
    [
        Retry("unauthorized", 60.0, "535 login refused", About.UNOFFERED),
        Retry("service_unavailable", None, "421 closing", About.UNOFFERED),
        Retry("unreachable", None, "greeting: 554 no SMTP service here", About.UNOFFERED),
    ],
)
async def test_a_delivery_that_was_never_offered_waits_a_day_and_then_ends_with_its_cause(
    flow: Flow, answer: Retry
) -> None:
    mails(flow).answers, mails(flow).is_well = lambda _: answer, lambda: False
    id = await send(flow)
    await wait(flow, 23 * HOUR, 300.0)
    assert (await flow.view(id)).state is State.DEFERRED
    await wait(flow, 2 * HOUR, 300.0)
    seen = await flow.view(id)
    assert (seen.state, seen.reason) in {(State.DEAD, "provider_failing"), (State.DEAD, "provider_open")}
    assert answer.detail in seen.timeline[-1].detail
    assert len(facts(seen)) <= 70


async def test_how_long_a_delivery_is_held_is_a_setting(flow: Flow) -> None:
    flow.settings = Settings.model_validate({"deliver": {"outage_hold_s": 60}})
    mails(flow).answers = lambda _: DOWN
    id = await send(flow)
    await wait(flow, 50, 1.0)
    assert (await flow.view(id)).state is State.DEFERRED
    await wait(flow, 20, 1.0)
    assert (await flow.view(id)).state is State.DEAD


async def test_a_held_delivery_is_offered_until_just_before_it_expires(flow: Flow) -> None:
    mails(flow).answers = lambda _: DOWN
    ids = [
        await send(flow, number, expires_at=_instant(flow, seconds)) for number, seconds in ((1, 2 * HOUR), (2, 900))
    ]
    await wait(flow, 895, 1.0)
    mails(flow).answers = takes_it
    await wait(flow, 10, 0.5)
    assert (await flow.view(ids[1])).state is State.SENT, "the last look is just before the end"
    mails(flow).answers = lambda _: DOWN
    await wait(flow, 2 * HOUR, 30.0)
    seen = await flow.view(ids[0])
    assert seen.state in {State.EXPIRED, State.SENT}


async def test_an_expired_delivery_says_what_it_waited_for(flow: Flow) -> None:
    mails(flow).answers = lambda _: DOWN
    id = await send(flow, expires_at=_instant(flow, 60))
    await wait(flow, 61, 0.5)
    seen = await flow.view(id)
    assert seen.state is State.EXPIRED
    assert seen.reason in {"provider_failing", "provider_open"}


async def test_a_probe_uses_up_no_attempt_whatever_it_is_answered(flow: Flow) -> None:
    """A 503 counts as a try, but not while the breaker is open."""
    mails(flow).answers = lambda _: Retry("unavailable", detail="HTTP status 503")
    ids = [await send(flow, number) for number in range(20)]
    await wait(flow, 2 * HOUR, 10.0)
    mails(flow).answers = takes_it
    await wait(flow, HOUR, 10.0)
    assert Counter([(await flow.view(id)).state for id in ids]) == {State.SENT: 20}


@pytest.mark.parametrize("reason", ["unavailable", "provider_error", "connection_lost"])
async def test_single_deliveries_survive_an_outage_that_says_503(flow: Flow, reason: str) -> None:
    """One mail every ten minutes is too little traffic for the breaker to open."""
    mails(flow).answers = lambda _: Retry(reason, detail="HTTP status 503")
    ids = []
    for number in range(48):
        ids.append(await send(flow, number))
        await wait(flow, 600, 10.0)
    mails(flow).answers = takes_it
    await wait(flow, HOUR, 10.0)
    assert Counter([(await flow.view(id)).state for id in ids]) == {State.SENT: 48}


async def test_a_delivery_that_a_provider_never_takes_ends_while_others_go_through(flow: Flow) -> None:
    mails(flow).answers = lambda outbound: (
        Retry("provider_error") if outbound.to.startswith("poison") else takes_it(outbound)
    )
    poison = await flow.accept(to={"email": "poison@example.com"}, content=MAIL)
    for number in range(60):
        await send(flow, number)
        await wait(flow, 1.0, 0.25)
    seen = await flow.view(poison)
    assert (seen.state, seen.reason) == (State.DEAD, "attempts_exhausted")


@pytest.mark.parametrize("waiting", [1, 2, 20])
async def test_the_log_says_once_that_a_provider_fails_and_once_that_it_is_back(flow: Flow, waiting: int) -> None:
    with structlog.testing.capture_logs() as logged:
        mails(flow).answers = lambda _: Retry("unreachable")
        for number in range(waiting):
            await send(flow, number)
        await wait(flow, 600, 0.5)
        mails(flow).answers = takes_it
        await wait(flow, HOUR, 1.0)
    said = [line["event"] for line in logged if line["log_level"] != "debug" and "provider" in line["event"]]
    assert len(said) == 2, said
    assert said[0] in {"a provider is failing", "a provider is left alone"}
    assert said[1] == "a provider is back"


async def test_nothing_waits_for_an_open_breaker_while_another_provider_is_healthy(flow: Flow) -> None:
    _, second = two(flow)
    first = mails(flow)
    first.answers = lambda _: DOWN
    ids = [await send(flow, number) for number in range(200)]
    await flow.settle()
    ids += [await send(flow, number) for number in range(200, 250)]
    await flow.settle()
    assert {(await flow.view(id)).state for id in ids} == {State.SENT}
    assert {outbound.id for outbound in second.sent} == {delivery_id(id, 1) for id in ids}


async def test_a_provider_that_asked_to_wait_is_better_than_one_that_is_down(flow: Flow) -> None:
    """Deliveries that the working provider asked to wait must not wait for the one that is down."""
    first, second = two(flow)
    second.answers = lambda _: DOWN
    first.answers = lambda _: Retry("throttled", 1.0, "slow down", About.ACCOUNT)
    warm = [await send(flow, number) for number in range(20)]
    await wait(flow, 5, 0.5)
    first.answers = takes_it
    codes = [await send(flow, number, expires_at=_instant(flow, 30)) for number in range(20, 40)]
    await wait(flow, 29, 0.5)
    assert {(await flow.view(id)).state for id in codes} == {State.SENT}
    assert {(await flow.view(id)).state for id in warm} == {State.SENT}
    answers: Iterator[SendResult] = iter([Retry("mailbox_busy"), Sent()])
    first.answers = lambda _: next(answers)
    id = await send(flow, 99)
    await wait(flow, 10, 0.5)
    assert (await flow.view(id)).state is State.SENT, "tried is a preference, not a ban"


async def test_a_delivery_that_one_provider_refuses_waits_for_the_other(flow: Flow) -> None:
    first, second = two(flow)
    second.answers = lambda _: DOWN
    first.answers = lambda _: DOWN
    for number in range(20):
        await send(flow, number)
    await wait(flow, 5, 0.5)
    first.answers = lambda _: Rejected("account_suspended", fallback=True)
    id = await send(flow, 99)
    await wait(flow, 120, 1.0)
    seen = await flow.view(id)
    assert seen.state is State.DEFERRED
    assert Counter(entry.reason for entry in seen.timeline)["fallback"] == 1, "it is not asked again"
    second.answers = takes_it
    await wait(flow, 400, 1.0)
    seen = await flow.view(id)
    assert (seen.state, seen.deliveries[0].provider) == (State.SENT, "email-two")


async def test_a_greylist_is_outlived(flow: Flow) -> None:
    greylisted = Retry("deferred_by_policy", 300.0, "451 4.7.1 greylisted", patient=True)
    answers: Iterator[SendResult] = iter([*[greylisted] * 5, Sent()])
    mails(flow).answers = lambda _: next(answers)
    id = await send(flow)
    await wait(flow, 3 * HOUR, 30.0)
    assert (await flow.view(id)).state is State.SENT


@pytest.mark.parametrize("are_others", [True, False])
async def test_a_mailbox_that_stays_full_ends_after_eight_tries(flow: Flow, are_others: bool) -> None:
    full = Retry("mailbox_full", 900.0, "452 4.2.2 full", None if are_others else About.DELIVERY, patient=True)
    mails(flow).answers = lambda outbound: full if outbound.to == "person-0@example.com" else takes_it(outbound)
    never = await send(flow)
    for number in range(6 * 60):
        if are_others:
            await send(flow, number + 1)
        await wait(flow, 60, 30.0)
    seen = await flow.view(never)
    assert (seen.state, len(seen.deliveries[0].attempts)) == (State.DEAD, 8)
    assert "full" in seen.timeline[-1].detail


@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize("detail", ["452 4.3.1 no room", "451 try again later"])
async def test_a_server_that_puts_off_every_mail_for_hours_is_an_outage(flow: Flow, count: int, detail: str) -> None:
    mails(flow).answers = lambda _: Retry("insufficient_storage", 60.0, detail, patient=True)
    with structlog.testing.capture_logs() as logged:
        ids = [await send(flow, number) for number in range(count)]
        await wait(flow, 8 * HOUR, 30.0)
        seen = [await flow.view(id) for id in ids]
        assert Counter(view.state for view in seen) == {State.DEFERRED: count}
        assert max(len(facts(view)) for view in seen) <= 30
        mails(flow).answers = takes_it
        await wait(flow, HOUR, 10.0)
    assert Counter([(await flow.view(id)).state for id in ids]) == {State.SENT: count}
    said = [line["event"] for line in logged if line["log_level"] != "debug" and "provider" in line["event"]]
    assert said == ["a provider is failing", "a provider is back"]


async def test_a_category_that_wants_two_tries_gets_two_from_a_mail_server_as_well(flow: Flow) -> None:
    await flow.store.tenants.put_category(TENANT, Category("code", retries=Retries(attempts=2)))
    mails(flow).answers = lambda _: Retry("mailbox_full", 300.0, about=About.DELIVERY, patient=True)
    id = await send(flow, category="code")
    await wait(flow, HOUR, 30.0)
    assert len((await flow.view(id)).deliveries[0].attempts) == 2


async def test_an_address_that_can_be_reached_otherwise_does_not_wait_for_a_day(flow: Flow) -> None:
    await flow.user()
    flow.provider(Channel.PUSH).answers = lambda _: DOWN
    id = await flow.accept(
        to={"user_id": "ada"},
        content={"push": {"title": "Hi", "body": "Hello"}, "sms": {"text": "Hello"}},
        channels=["push", "sms"],
        strategy="first_reachable",
    )
    await wait(flow, 30, 1.0)
    seen = await flow.view(id)
    assert {d.channel: d.state for d in seen.deliveries} == {Channel.SMS: State.SENT, Channel.PUSH: State.DEAD}


async def test_a_delivered_receipt_stops_the_attempt_that_waits(flow: Flow) -> None:
    await flow.store.tenants.put_category(TENANT, Category("code", allow_doubles=True))
    mails(flow).answers = lambda outbound: Uncertain("no_answer") if outbound.attempt == 1 else takes_it(outbound)
    id = await send(flow, category="code")
    await flow.settle()
    receipt = Receipt(delivery_id(id, 1), TENANT, State.DELIVERED, "delivered", attempt=1)
    assert await flow.receive(Channel.EMAIL, receipt) == 1
    await flow.settle()
    await wait(flow, 60, 1.0)
    assert (await flow.view(id)).state is State.DELIVERED
    assert len(mails(flow).sent) == 1


async def test_the_log_has_one_line_for_the_outage_of_a_provider_and_one_for_its_end(
    flow: Flow, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    mails(flow).answers = lambda _: Retry(
        "unreachable", None, "450 <ada@example.com> no session with mail.example", About.UNOFFERED
    )
    for number in range(20):
        await send(flow, number)
    await wait(flow, 2 * HOUR, 10.0)
    mails(flow).answers = takes_it
    await wait(flow, 2 * HOUR, 10.0)
    said = [line for line in capsys.readouterr().out.splitlines() if "a provider" in line]
    assert len(said) == 2, said
    assert "email-one" in said[0]
    assert "unreachable 450 <<address>> no session with mail.example" in said[0]
    assert "ada@" not in said[0]
    assert "is back" in said[1]


def _instant(flow: Flow, seconds: float) -> str:
    return datetime.fromtimestamp(flow.clock.now() / 1000 + seconds, UTC).isoformat()
