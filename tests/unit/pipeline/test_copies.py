"""Two copies of one delivery, claimed by two workers: the person gets one."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import pytest

from support import eventually
from support.flow import TENANT, Flow, Recorder, abandon, wait
from support.queues import depth
from tidings.backends.memory.queue import MemoryClaim
from tidings.model import topics
from tidings.model.sending import AnyDelivery, InboundRequest, Receipt, Rejected, Retry, SendResult, Sent
from tidings.model.user import Cap, Category, Preferences, QuietHours
from tidings.model.vocabulary import Channel, Excess, Priority, State
from tidings.model.wire import decode_delivery, decode_outcomes, encode
from tidings.pipeline.deliver.attempts import hold, second_copy
from tidings.pipeline.deliver.copies import ASKED_AFTER_MS
from tidings.pipeline.deliver.stage import RECORDED_WITHIN_S
from tidings.pipeline.runtime.packs import pack
from tidings.pipeline.runtime.reader import REPEATED, Reader
from tidings.policy.idempotency import RESERVATION_LEASE_S
from tidings.ports.queue import Claim, Item
from tidings.roles.worker import readings

SMS = {"sms": {"text": "Hello"}}
TOPIC = topics.deliveries(Channel.SMS, Priority.NORMAL)
SURPLUS = topics.of_surplus(TOPIC)
LEASE, RECORDED = 60, int(RECORDED_WITHIN_S) + 1


class Slow(Recorder):
    """A provider that answers when the test lets it."""

    def __init__(self, *, idempotent: bool = False) -> None:
        super().__init__("sms-one", Channel.SMS, idempotent=idempotent)
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def send(self, batch: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        self.sent.extend(batch)
        self.asked.set()
        await self.may_answer.wait()
        return [self.answers(outbound) for outbound in batch]


def worker(flow: Flow) -> Reader[Any]:
    """The deliver stage of a new process, which knows nothing about the attempts of the others."""
    parts = flow.parts()
    [reading] = [reading for reading in readings(parts) if reading.topic == TOPIC]
    return flow._reader(reading, parts)


async def routed(flow: Flow, category: str = "news") -> tuple[Any, Item]:
    """The id of a notification whose delivery is in its queue, and a copy of the delivery, marked as repeated."""
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=SMS, category=category)
    await flow.settle(only=topics.ROUTE)
    claim = await claimed(flow)
    [item] = claim.items
    await claim.release()
    return id, Item(TOPIC, item.key, item.body, {REPEATED: "1"})


async def claimed(flow: Flow) -> Claim:
    """What waits in the queue of deliveries, claimed without a lease by a process that does nothing with it."""
    claim = await flow.queue.claim(TOPIC, topics.DELIVER, 10, 0)
    assert claim is not None
    return claim


async def die_in_a_call(flow: Flow, provider: Slow) -> None:
    """Let a worker claim what waits and die while the provider works on it."""
    dying = asyncio.create_task(worker(flow).once())
    await provider.asked.wait()
    dying.cancel()
    await asyncio.wait([dying])


async def test_a_copy_waits_while_another_worker_has_the_original(flow: Flow) -> None:
    provider = Slow()
    flow.providers[Channel.SMS] = [provider]
    id, copy = await routed(flow)
    first = asyncio.create_task(worker(flow).once())
    await provider.asked.wait()
    await flow.queue.put([copy])
    assert await worker(flow).once() == 1
    await flow.settle()
    await wait(flow, LEASE // 2)
    provider.may_answer.set()
    await first
    await wait(flow, LEASE)
    assert len(provider.sent) == 1
    assert (await flow.view(id)).state is State.SENT


async def test_a_copy_that_meets_its_original_in_one_process_is_not_sent(flow: Flow) -> None:
    provider = Slow()
    flow.providers[Channel.SMS] = [provider]
    id, copy = await routed(flow)
    waited = msgspec.structs.replace(decode_delivery(copy.body), step=1)
    copy = Item(TOPIC, copy.key, encode(waited))
    one = worker(flow)
    first = asyncio.create_task(one.once())
    await provider.asked.wait()
    await flow.queue.put([copy])
    assert await one.once() == 1, "while the original is under way"
    provider.may_answer.set()
    await first
    await flow.queue.put([copy])
    assert await one.once() == 1, "before its facts are recorded"
    await flow.settle()
    assert len(provider.sent) == 1
    assert (await flow.view(id)).state is State.SENT


async def test_a_copy_of_a_bounced_delivery_is_not_sent(flow: Flow) -> None:
    """The bounce is the only fact about the attempt: the worker that made it died before it could report."""
    provider = Recorder("sms-one", Channel.SMS)
    flow.providers[Channel.SMS] = [provider]
    id, copy = await routed(flow)
    claim = await claimed(flow)
    await claim.done([])
    bounce = Receipt(decode_delivery(copy.body).id, TENANT, State.FAILED, "bounced")
    await flow.with_receipts("sms-one", Channel.SMS, [bounce]).receipts("sms-one", InboundRequest("", {}, {}, b""))
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
    one = worker(flow)
    first = asyncio.create_task(one.once())
    await eventually(lambda: begins)
    await flow.clock.advance(LEASE)
    assert await one.once() == 1, "while the first claim has not ended"
    assert not provider.sent
    may_begin.set()
    await first
    assert not provider.sent, "its lease was over"
    await flow.settle()
    await wait(flow, 2)
    assert len(provider.sent) == 1
    assert (await flow.view(id)).state is State.SENT


async def test_of_copies_in_one_batch_the_one_with_the_highest_step_goes_on(flow: Flow) -> None:
    """The fact that the other copy waits is recorded already."""
    await flow.store.tenants.put_category(TENANT, Category("news", caps=(Cap(1, 60),), excess=Excess.HOLD))
    await flow.user()
    await flow.accept(to={"user_id": "ada"}, content=SMS, category="news")
    await flow.settle()
    _, item = await routed(flow)
    claim = await claimed(flow)
    delivery = decode_delivery(item.body)
    waited = [msgspec.structs.replace(delivery, step=step) for step in (1, 2)]
    await claim.done([Item(TOPIC, item.key, encode(one)) for one in waited])
    assert await worker(flow).once() == 2
    told = await flow.queue.claim(topics.OUTCOMES, topics.RECORD, 10, 0)
    assert told is not None
    facts = [outcome for pack in told.items for outcome in decode_outcomes(pack.body) if outcome.id == delivery.id]
    assert [(fact.state, fact.reason, fact.step) for fact in facts if fact.step] == [(State.DEFERRED, "capped", 2)]


async def test_a_copy_that_overtakes_its_original_leaves_the_sending_to_it(flow: Flow) -> None:
    id, copy = await routed(flow)
    claim = await claimed(flow)
    await flow.queue.put([copy])
    await flow.settle()
    await claim.release()
    await flow.settle()
    await wait(flow, LEASE + 1)
    assert len(flow.provider(Channel.SMS).sent) == 1
    assert (await flow.view(id)).state is State.SENT


async def test_a_copy_whose_original_died_with_its_worker_is_not_sent(flow: Flow) -> None:
    provider = Slow()
    flow.providers[Channel.SMS] = [provider]
    id, copy = await routed(flow)
    await die_in_a_call(flow, provider)
    await flow.queue.put([copy])
    await wait(flow, 2 * LEASE)
    assert len(provider.sent) == 1
    assert (await flow.view(id)).state is State.UNCERTAIN


async def test_a_copy_without_an_original_is_sent_after_the_wait(flow: Flow) -> None:
    id, copy = await routed(flow)
    claim = await claimed(flow)
    await claim.done([copy])
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
    claim = await claimed(flow)
    await claim.done([copy])
    await flow.settle()
    assert (await flow.view(id)).state is State.SENT


async def test_a_copy_that_is_cancelled_before_any_call_is_not_uncertain(flow: Flow) -> None:
    """Its provider recognises repetitions, so it goes on at once; then it is cancelled before any call."""
    flow.providers[Channel.SMS] = [Recorder("sms-one", Channel.SMS, idempotent=True)]
    id, copy = await routed(flow)
    claim = await claimed(flow)
    await claim.done([copy])
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
    one = worker(flow)
    await flow.queue.put([copy])
    assert await one.once() == 1
    assert len(provider.sent) == 1, "not taken"
    await flow.queue.put([Item(TOPIC, copy.key, held.wait.body)])
    assert await one.once() == 1
    assert len(provider.sent) == 1, "the facts of the first copy may be on their way"
    await flow.settle()
    await wait(flow, LEASE + RECORDED)
    assert len(provider.sent) == 2
    assert (await flow.view(id)).state is State.SENT


async def test_a_copy_that_comes_right_after_its_begun_original_waits_for_the_facts(flow: Flow) -> None:
    """No worker took up the lost claim until the copy was due."""
    provider = Slow()
    flow.providers[Channel.SMS] = [provider]
    id, copy = await routed(flow)
    await die_in_a_call(flow, provider)
    await flow.clock.advance(LEASE)
    one = worker(flow)
    assert await one.once() == 1, "the original, begun"
    waited = msgspec.structs.replace(decode_delivery(copy.body), step=2)
    await flow.queue.put([Item(TOPIC, copy.key, encode(waited))])
    assert await one.once() == 1, "the copy, before the fact about the original is recorded"
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
    assert len(flow.provider(Channel.SMS).sent) == 1
    assert (await flow.view(id)).state is State.SENT


async def test_both_puts_of_an_abandoned_key_in_a_backlog_are_sent_once(flow: Flow) -> None:
    await flow.user()
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": SMS}
    await abandon(flow, "k", **body)
    await flow.clock.advance(RESERVATION_LEASE_S)
    id = await flow.accept("k", **body)
    assert await flow.accept("k", **body) == id
    await flow.settle(only=topics.ROUTE)
    assert [await depth(flow.queue, topic, topics.DELIVER) for topic in (TOPIC, SURPLUS)] == [1, 1]
    one, other = worker(flow), worker(flow)
    await asyncio.gather(_one_item(flow, one, SURPLUS), _one_item(flow, other, TOPIC))
    await wait(flow, 2 * LEASE)
    assert len(flow.provider(Channel.SMS).sent) == 1
    assert (await flow.view(id)).state is State.SENT


@pytest.mark.parametrize("original_in", ["requests", "deliveries"])
async def test_a_copy_stays_behind_an_original_that_waits_as_surplus(flow: Flow, original_in: str) -> None:
    """However long the original waits: the surplus of a flood may wait much longer than a copy does."""
    await flow.user()
    flow.spend_share()
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": SMS}
    await abandon(flow, "k", **body)
    if original_in == "deliveries":
        await flow.settle(only=topics.ROUTE)
    await flow.clock.advance(RESERVATION_LEASE_S)  # there is room in the share again: only the mark keeps the copy back
    id = await flow.accept("k", **body)
    for _ in range(10 * LEASE):
        await flow.clock.advance(1)
        await flow.settle(besides_surplus=True)
    assert not flow.provider(Channel.SMS).sent
    await flow.settle()
    await wait(flow, 3 * LEASE)
    assert len(flow.provider(Channel.SMS).sent) == 1
    assert (await flow.view(id)).state is State.SENT


async def test_a_copy_that_has_waited_comes_back_behind_an_original_that_came_back_unbegun(flow: Flow) -> None:
    await flow.user()
    flow.spend_share()
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": SMS}
    await abandon(flow, "k", **body)
    await flow.settle(only=topics.ROUTE)
    held = await flow.queue.claim(SURPLUS, topics.DELIVER, 10, 0)
    assert held is not None
    await flow.clock.advance(RESERVATION_LEASE_S)
    id = await flow.accept("k", **body)
    await flow.settle()  # the copy is looked at, and waits
    assert not flow.provider(Channel.SMS).sent
    await held.release()
    for _ in range(3 * LEASE):
        await flow.clock.advance(1)
        await flow.settle(besides_surplus=True)
    assert not flow.provider(Channel.SMS).sent
    await flow.settle()
    await wait(flow, 3 * LEASE)
    assert len(flow.provider(Channel.SMS).sent) == 1
    assert (await flow.view(id)).state is State.SENT


@pytest.mark.parametrize("looked_at", [6, LEASE + RECORDED - 1], ids=["soon", "late"])
async def test_an_original_that_keeps_coming_back_unbegun_yields_to_its_copy(flow: Flow, looked_at: int) -> None:
    """No claim held it long enough to begin it, and none recorded a fact about it."""
    id, copy = await routed(flow)
    bouncing = await flow.queue.claim(TOPIC, topics.DELIVER, 10, 0, 10 * LEASE)
    assert bouncing is not None
    await wait(flow, looked_at)
    await flow.queue.put([copy])
    await flow.settle()
    await bouncing.release()
    bouncing = await flow.queue.claim(TOPIC, topics.DELIVER, 10, 0, 10 * LEASE)
    assert bouncing is not None
    await wait(flow, LEASE + RECORDED)
    assert len(flow.provider(Channel.SMS).sent) == 1, "the copy"
    await bouncing.release()
    await flow.settle()
    await wait(flow, 3 * LEASE)
    assert len(flow.provider(Channel.SMS).sent) == 1
    assert (await flow.view(id)).state is State.SENT


async def test_an_original_yields_to_its_copy_before_the_copy_is_sent(flow: Flow) -> None:
    """Else two processes would send both at once, and the history could not tell either of the other."""
    id, copy = await routed(flow)
    held = await flow.queue.claim(TOPIC, topics.DELIVER, 10, 0, LEASE)
    assert held is not None
    await wait(flow, 6)
    await flow.queue.put([copy])
    await flow.settle()
    await held.release()
    assert await worker(flow).once() == 1
    assert not flow.provider(Channel.SMS).sent
    await wait(flow, LEASE + RECORDED)
    assert len(flow.provider(Channel.SMS).sent) == 1
    assert (await flow.view(id)).state is State.SENT


async def test_an_original_that_is_put_after_its_copy_was_sent_is_not_sent(flow: Flow) -> None:
    """Its process stood still in the middle of the put."""
    id, copy = await routed(flow)
    claim = await claimed(flow)
    await claim.done([copy])
    await flow.settle()
    await wait(flow, LEASE + RECORDED)
    assert (await flow.view(id)).state is State.SENT
    await flow.queue.put([Item(TOPIC, copy.key, copy.body)])
    await flow.settle()
    await wait(flow, 3 * LEASE)
    assert len(flow.provider(Channel.SMS).sent) == 1


async def test_an_original_yields_to_a_copy_that_waits_for_the_end_of_quiet_hours(flow: Flow) -> None:
    id, copy = await routed(flow)
    held = await flow.queue.claim(TOPIC, topics.DELIVER, 10, 0, LEASE)
    assert held is not None
    await wait(flow, 6)
    # 22:13 UTC on 2023-11-14
    await flow.user("ada", Preferences(quiet_hours=QuietHours(22 * 60, 23 * 60)), timezone="UTC")
    waited = msgspec.structs.replace(decode_delivery(copy.body), step=1)
    await flow.queue.put([Item(SURPLUS, copy.key, encode(waited))])
    await flow.settle()
    seen = (await flow.view(id)).deliveries[0]
    assert (seen.state, seen.reason) == (State.DEFERRED, "quiet_hours")
    await flow.user("ada", Preferences(), timezone="UTC")
    await held.release()
    await flow.settle()
    assert not flow.provider(Channel.SMS).sent
    await flow.advance(3600)
    assert len(flow.provider(Channel.SMS).sent) == 1
    assert (await flow.view(id)).state is State.SENT


async def test_an_original_that_waits_yields_to_a_copy_that_does_not(flow: Flow) -> None:
    """Both waits may end together, in two processes."""
    id, copy = await routed(flow)
    await flow.user("ada", Preferences(quiet_hours=QuietHours(22 * 60, 23 * 60)), timezone="UTC")
    await flow.settle()
    assert (await flow.view(id)).deliveries[0].reason == "quiet_hours"
    original = msgspec.structs.replace(decode_delivery(copy.body), step=1)
    await flow.user("ada", Preferences(), timezone="UTC")
    # The copy was claimed before the original's wait was recorded.
    told = second_copy(decode_delivery(copy.body), flow.clock.now(), 70_000, surplus=True)
    await flow.queue.put(pack([told]))
    await flow.settle()
    await flow.queue.put([Item(TOPIC, copy.key, encode(original))])
    await flow.settle()
    assert not flow.provider(Channel.SMS).sent
    await wait(flow, LEASE + RECORDED)
    assert len(flow.provider(Channel.SMS).sent) == 1
    await flow.advance(3600)
    assert len(flow.provider(Channel.SMS).sent) == 1
    assert (await flow.view(id)).state is State.SENT


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


async def _one_item(flow: Flow, reader: Reader[Any], topic: str) -> None:
    claim = await flow.queue.claim(topic, topics.DELIVER, 1, 0, LEASE)
    assert claim is not None
    await reader._finish_batch(claim)
