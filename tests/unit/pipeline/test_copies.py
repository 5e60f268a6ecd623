"""Two copies of one delivery, claimed by two workers: the person gets one."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from support import eventually
from support.copies import (
    LEASE,
    RECORDED,
    TOPIC,
    at_step,
    claimed,
    die_in_a_call,
    expect_sent_once,
    lose_original,
    routed,
    slow_provider,
    worker,
)
from support.flow import SMS, TENANT, Flow, Recorder, wait
from tidings.backends.memory.queue import MemoryClaim
from tidings.model import topics
from tidings.model.sending import Receipt, Rejected, Retry, Sent
from tidings.model.user import Cap, Category, Preferences, QuietHours
from tidings.model.vocabulary import Channel, Excess, Priority, State
from tidings.model.wire import decode_delivery, decode_outcomes
from tidings.pipeline.deliver.attempts import hold
from tidings.pipeline.deliver.copies import ASKED_AFTER_MS
from tidings.pipeline.runtime.packs import pack
from tidings.pipeline.runtime.reader import REPEATED
from tidings.ports.queue import Item


@pytest.mark.parametrize("ahead_ms", [0, -600_000, 600_000])
async def test_a_copy_waits_while_another_worker_has_the_original(flow: Flow, ahead_ms: int) -> None:
    """Also if the clock of the worker that lets the copy wait is wrong by ten minutes."""
    provider = slow_provider(flow)
    id, copy = await routed(flow)
    first = asyncio.create_task(worker(flow).once())
    await provider.asked.wait()
    await flow.queue.put([copy])
    assert await worker(flow, ahead_ms).once() == 1
    await flow.settle()
    await wait(flow, LEASE // 2)
    provider.may_answer.set()
    await first
    await wait(flow, LEASE)
    await expect_sent_once(flow, id)


async def test_a_copy_that_meets_its_original_in_one_process_is_not_sent(flow: Flow) -> None:
    provider = slow_provider(flow)
    id, copy = await routed(flow)
    copy = at_step(1, copy)
    reader = worker(flow)
    first = asyncio.create_task(reader.once())
    await provider.asked.wait()
    await flow.queue.put([copy])
    assert await reader.once() == 1, "while the original is under way"
    provider.may_answer.set()
    await first
    await flow.queue.put([copy])
    assert await reader.once() == 1, "before its facts are recorded"
    await flow.settle()
    await expect_sent_once(flow, id)


async def test_a_copy_of_a_bounced_delivery_is_not_sent(flow: Flow) -> None:
    """The bounce is the only fact about the attempt: the worker that made it died before it could report."""
    provider = Recorder("sms-one", Channel.SMS)
    flow.providers[Channel.SMS] = [provider]
    id, copy = await routed(flow)
    claim = await claimed(flow)
    await claim.done([])
    bounce = Receipt(decode_delivery(copy.body).id, TENANT, State.FAILED, "bounced")
    await flow.receive(Channel.SMS, bounce)
    await flow.settle()
    await flow.queue.put([copy])
    await flow.settle()
    await wait(flow, 3 * LEASE)
    assert provider.sent == []
    assert (await flow.view(id)).state is State.FAILED


async def test_an_item_that_comes_back_before_its_lost_claim_ends_is_not_dropped(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first claim takes so long to begin it that the lease ends. Then neither claim may forget it."""
    provider = Recorder("sms-one", Channel.SMS)
    flow.providers[Channel.SMS] = [provider]
    id, _ = await routed(flow)
    begin, may_begin, begins = MemoryClaim.begin, asyncio.Event(), 0

    async def slow(self: MemoryClaim, places: Collection[int]) -> None:
        nonlocal begins
        begins += 1
        if begins == 1:
            await may_begin.wait()
        await begin(self, places)

    monkeypatch.setattr(MemoryClaim, "begin", slow)
    reader = worker(flow)
    first = asyncio.create_task(reader.once())
    await eventually(lambda: begins)
    await flow.clock.advance(LEASE)
    assert await reader.once() == 1, "while the first claim has not ended"
    assert not provider.sent
    may_begin.set()
    await first
    assert not provider.sent, "its lease was over"
    await flow.settle()
    await wait(flow, 2)
    await expect_sent_once(flow, id)


async def test_of_copies_in_one_batch_the_one_with_the_highest_step_goes_on(flow: Flow) -> None:
    """The fact that the other copy waits is recorded already."""
    await flow.store.tenants.put_category(TENANT, Category("news", caps=(Cap(1, 60),), excess=Excess.HOLD))
    await flow.user()
    await flow.accept(to={"user_id": "ada"}, content=SMS, category="news")
    await flow.settle()
    _, copy = await routed(flow)
    claim = await claimed(flow)
    await claim.done([at_step(step, copy) for step in (1, 2)])
    assert await worker(flow).once() == 2
    outcomes = await flow.queue.claim(topics.OUTCOMES, topics.RECORD, 10, 0)
    assert outcomes is not None
    id = decode_delivery(copy.body).id
    facts = [outcome for pack in outcomes.items for outcome in decode_outcomes(pack.body) if outcome.id == id]
    assert [(fact.state, fact.reason, fact.step) for fact in facts if fact.step] == [(State.DEFERRED, "capped", 2)]


async def test_a_copy_that_overtakes_its_original_leaves_the_sending_to_it(flow: Flow) -> None:
    id, copy = await routed(flow)
    claim = await claimed(flow)
    await flow.queue.put([copy])
    await flow.settle()
    await claim.release()
    await flow.settle()
    await wait(flow, LEASE + 1)
    await expect_sent_once(flow, id)


async def test_a_copy_whose_original_died_with_its_worker_is_not_sent(flow: Flow) -> None:
    provider = slow_provider(flow)
    id, copy = await routed(flow)
    await die_in_a_call(flow, provider)
    await flow.queue.put([copy])
    await wait(flow, 2 * LEASE)
    assert len(provider.sent) == 1
    assert (await flow.view(id)).state is State.UNCERTAIN


async def test_a_copy_without_an_original_is_sent_after_the_wait(flow: Flow) -> None:
    id, copy = await routed(flow)
    await lose_original(flow, copy)
    await flow.settle()
    seen = (await flow.view(id)).deliveries[0]
    assert (seen.state, seen.reason) == (State.PENDING, "may_have_been_sent")
    await wait(flow, LEASE - 1)
    assert not flow.provider(Channel.SMS).sent
    await wait(flow, 1 + RECORDED)
    assert (await flow.view(id)).state is State.SENT
    await wait(flow, LEASE)
    assert len(flow.provider(Channel.SMS).sent) == 1


@pytest.mark.parametrize("provider", [False, True], ids=["category", "provider"])
async def test_a_copy_whose_repetition_is_harmless_does_not_wait(flow: Flow, provider: bool) -> None:
    flow.providers[Channel.SMS] = [Recorder("sms-one", Channel.SMS, idempotent=provider)]
    await flow.store.tenants.put_category(TENANT, Category("code", allow_doubles=not provider))
    id, copy = await routed(flow, category="code")
    await lose_original(flow, copy)
    await flow.settle()
    assert (await flow.view(id)).state is State.SENT


async def test_a_copy_that_is_cancelled_before_any_call_is_not_uncertain(flow: Flow) -> None:
    """Its provider recognises repetitions, so it goes on at once; then it is cancelled before any call."""
    flow.providers[Channel.SMS] = [Recorder("sms-one", Channel.SMS, idempotent=True)]
    id, copy = await routed(flow)
    await lose_original(flow, copy)
    await flow.store.cancellations.cancel(TENANT, id, flow.clock.now())
    await flow.settle()
    await wait(flow, LEASE + RECORDED)
    assert not flow.provider(Channel.SMS).sent
    assert (await flow.view(id)).state is State.CANCELLED


async def test_a_failed_delivery_is_tried_again_whichever_copy_goes_on(flow: Flow) -> None:
    answers = iter([Retry("unavailable")])
    flow.provider(Channel.SMS).answers = lambda _: next(answers, Rejected("no_such_number"))
    id, copy = await routed(flow)
    await flow.queue.put([copy])
    assert await worker(flow).once() == 2
    await wait(flow, 3 * LEASE)
    assert (await flow.view(id)).state is State.FAILED
    assert len(flow.provider(Channel.SMS).sent) == 2


async def test_a_delivery_goes_on_whose_copies_wait_with_the_same_fact(flow: Flow) -> None:
    """One copy was held for a provider, the other is to be retried: delivery, attempt, state and step are equal."""
    answers = iter([Retry("unavailable")])
    provider = Recorder("sms-one", Channel.SMS, idempotent=True)
    provider.answers = lambda _: next(answers, Sent("r"))
    flow.providers[Channel.SMS] = [provider]
    id, copy = await routed(flow)
    delivery = decode_delivery(copy.body)
    held = hold(delivery, flow.clock.now(), flow.clock.now() + 3_600_000, "provider_open")
    assert held.wait is not None
    claim = await claimed(flow)
    await claim.done(pack([held]))
    await flow.settle()
    reader = worker(flow)
    await flow.queue.put([copy])
    assert await reader.once() == 1
    assert len(provider.sent) == 1, "not taken"
    await flow.queue.put([Item(TOPIC, copy.key, held.wait.body)])
    assert await reader.once() == 1
    assert len(provider.sent) == 1, "the facts of the first copy may be on their way"
    await flow.settle()
    await wait(flow, LEASE + RECORDED)
    assert len(provider.sent) == 2
    assert (await flow.view(id)).state is State.SENT


async def test_a_copy_that_comes_right_after_its_begun_original_waits_for_the_facts(flow: Flow) -> None:
    """No worker took up the lost claim until the copy was due."""
    provider = slow_provider(flow)
    id, copy = await routed(flow)
    await die_in_a_call(flow, provider)
    await flow.clock.advance(LEASE)
    reader = worker(flow)
    assert await reader.once() == 1, "the original, begun"
    await flow.queue.put([at_step(2, copy)])
    assert await reader.once() == 1, "the copy, before the fact about the original is recorded"
    await flow.settle()
    await wait(flow, LEASE + RECORDED)
    assert len(provider.sent) == 1
    assert (await flow.view(id)).state is State.UNCERTAIN


async def test_a_copy_that_is_routed_into_quiet_hours_stays_marked(flow: Flow) -> None:
    # 22:13 UTC on 2023-11-14
    await flow.user("ada", Preferences(quiet_hours=QuietHours(22 * 60 + 20, 7 * 60)), timezone="UTC")
    id = await flow.accept(to={"user_id": "ada"}, content=SMS)
    claim = await flow.queue.claim(topics.requests(Priority.NORMAL), topics.ROUTE, 10, 0)
    assert claim is not None
    [original] = claim.items
    await claim.release()
    await flow.settle()
    await flow.clock.advance(600)
    await flow.queue.put([Item(topics.requests(Priority.NORMAL), original.key, original.body, {REPEATED: "1"})])
    await flow.advance(1)
    await flow.advance(9 * 3600)
    await wait(flow, LEASE + 1)
    await expect_sent_once(flow, id)


async def test_the_history_is_not_asked_about_young_deliveries(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy can have been sent by then: a copy waits for longer than such a delivery is old."""
    asked: list[Any] = []
    attempted, waited = flow.store.history.attempted, flow.store.history.waited

    async def ask(attempts: Sequence[Any]) -> Any:
        asked.extend(attempts)
        return await attempted(attempts)

    async def ask_waits(attempts: Sequence[Any]) -> Any:
        asked.extend(attempts)
        return await waited(attempts)

    monkeypatch.setattr(flow.store.history, "attempted", ask)
    monkeypatch.setattr(flow.store.history, "waited", ask_waits)
    await flow.user()
    await flow.accept(to={"user_id": "ada"}, content=SMS)
    await flow.settle()
    assert len(flow.provider(Channel.SMS).sent) == 1
    assert not asked
    await flow.accept(to={"user_id": "ada"}, content=SMS)
    await flow.clock.advance(ASKED_AFTER_MS / 1000 + 1)
    await flow.settle()
    assert len(flow.provider(Channel.SMS).sent) == 2
    assert asked
