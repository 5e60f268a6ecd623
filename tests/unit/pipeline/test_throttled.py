"""Providers that ask for less: whom they mean, and that what waits for them is not lost."""

from __future__ import annotations

from collections import Counter

import pytest

from support.flow import MAIL, Flow, takes_it, wait
from support.outages import HOUR, SAYS_ACCOUNT, facts, mails, send
from tidings.model.sending import AnyDelivery, Retry, SendResult
from tidings.model.vocabulary import State


@pytest.mark.parametrize("asked", [None, 1.0, 30.0, 1e9])
async def test_a_recipient_that_the_provider_never_takes_does_not_affect_others(
    flow: Flow, asked: float | None
) -> None:
    def answer(outbound: AnyDelivery) -> SendResult:
        return Retry("throttled", asked, "too many") if outbound.to.startswith("magic") else takes_it(outbound)

    mails(flow).answers = answer
    magic = await flow.accept(to={"email": "magic@example.com"}, content=MAIL)
    await flow.settle()
    for number in range(100):
        id = await send(flow, number)
        await flow.settle()
        assert (await flow.view(id)).state is State.SENT, "nobody else waits"
        await flow.advance(0.1)
    await wait(flow, 2 * HOUR, 10.0)
    seen = await flow.view(magic)
    assert (seen.state, seen.reason) == (State.DEAD, "attempts_exhausted")
    assert seen.timeline[-1].detail == "throttled too many"
    assert [attempt.number for attempt in seen.deliveries[0].attempts] == [1, 2, 3]


async def test_many_such_recipients_end_when_they_are_left_alone(flow: Flow) -> None:
    mails(flow).answers = lambda outbound: (
        Retry("throttled", 1.0) if outbound.to.startswith("magic") else takes_it(outbound)
    )
    ids = []
    for number in range(10):
        ids.append(await flow.accept(to={"email": f"magic-{number}@example.com"}, content=MAIL))
        await send(flow, number)
        await flow.settle()
    await wait(flow, HOUR, 2.0)
    assert Counter([(await flow.view(id)).state for id in ids]) == {State.DEAD: 10}
    # While others were refused as often as taken, the provider seemed to be at its limit, which uses up no try.
    assert 3 <= Counter(outbound.to for outbound in mails(flow).sent)["magic-3@example.com"] <= 12


@pytest.mark.parametrize("in_a_second", [3, 10])
async def test_what_exceeds_an_unnamed_limit_waits_and_is_not_lost(flow: Flow, in_a_second: int) -> None:
    taken: Counter[int] = Counter()

    def answer(outbound: AnyDelivery) -> SendResult:
        second = flow.clock.elapsed() // 1_000
        taken[second] += 1
        return takes_it(outbound) if taken[second] <= in_a_second else Retry("throttled")

    mails(flow).answers = answer
    ids = [await send(flow, number) for number in range(300)]
    await wait(flow, HOUR, 0.5)
    assert Counter([(await flow.view(id)).state for id in ids]) == {State.SENT: 300}


async def test_what_waited_at_a_limit_goes_on_soon_after_the_limit_is_over(flow: Flow) -> None:
    """Those that have waited often, and would look again only after minutes, are brought forward too."""
    limited, spans = True, set[int]()

    def answer(outbound: AnyDelivery) -> SendResult:
        span = flow.clock.elapsed() // 5_000
        if limited and span in spans:
            return Retry("throttled")
        spans.add(span)
        return takes_it(outbound)

    mails(flow).answers = answer
    ids = [await send(flow, number) for number in range(100)]
    await wait(flow, 300, 0.5)
    assert [id for id in ids if (await flow.view(id)).state is State.DEFERRED], (
        "one in five seconds is too slow for all"
    )
    limited = False
    await wait(flow, 120, 0.5)
    assert Counter([(await flow.view(id)).state for id in ids]) == {State.SENT: 100}


async def test_a_throttled_account_waits_and_loses_nothing(flow: Flow) -> None:
    """A provider takes ten a second, but its settings have no rate."""
    taken_at: list[float] = []

    def answer(outbound: AnyDelivery) -> SendResult:
        now = flow.clock.elapsed() / 1000
        if len([at for at in taken_at if now - at < 1.0]) >= 10:
            return SAYS_ACCOUNT
        taken_at.append(now)
        return takes_it(outbound)

    mails(flow).answers = answer
    ids = [await send(flow, number) for number in range(300)]
    await wait(flow, HOUR, 0.5)
    seen = [await flow.view(id) for id in ids]
    assert Counter(view.state for view in seen) == {State.SENT: 300}
    assert max(len(facts(view)) for view in seen) <= 30


async def test_an_account_that_is_refused_for_hours_waits(flow: Flow) -> None:
    mails(flow).answers = lambda _: SAYS_ACCOUNT
    ids = [await send(flow, number) for number in range(20)]
    await wait(flow, 8 * HOUR, 30.0)
    seen = [await flow.view(id) for id in ids]
    assert {(view.state, view.reason) for view in seen} == {(State.DEFERRED, "throttled")}
    assert max(len(facts(view)) for view in seen) <= 30
    mails(flow).answers = takes_it
    await wait(flow, HOUR, 10.0)
    assert {(await flow.view(id)).state for id in ids} == {State.SENT}


async def test_several_refusals_in_a_row_make_others_wait_without_costing_them_a_try(flow: Flow) -> None:
    mails(flow).answers = lambda _: Retry("throttled", 20.0)
    for number in range(3):
        await send(flow, number)
        await flow.settle()
    asked = len(mails(flow).sent)
    id = await send(flow, 99)
    await flow.settle()
    assert len(mails(flow).sent) == asked
    assert facts(await flow.view(id))[-1] == (State.DEFERRED, "throttled")
