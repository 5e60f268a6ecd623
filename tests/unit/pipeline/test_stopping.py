"""An orderly stop: no new claim is made, waiting deliveries go back unbegun, and calls under way finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.flow import Flow, Recorder
from tidings.backends.memory.clock import VirtualClock
from tidings.config import Settings
from tidings.model import topics
from tidings.model.outcome import Outcome
from tidings.model.sending import AnyDelivery, SendResult, Sent
from tidings.model.vocabulary import Channel, Priority, State
from tidings.model.wire import decode_outcomes
from tidings.pipeline.runtime.reader import Reader
from tidings.pipeline.runtime.stopping import Stopping, finishing, first_of, pause
from tidings.pipeline.schedule.stage import Schedule
from tidings.roles.worker import readings
from tidings.sections import Fairness

DELIVERIES = topics.deliveries(Channel.SMS, Priority.NORMAL)


class Hanging(Recorder):
    """A provider that answers when the test lets it."""

    def __init__(self, concurrency: int) -> None:
        super().__init__("hanging", Channel.SMS)
        self.concurrency = concurrency
        self.batch_size = 1
        self.timeout_s = 1_000.0
        self.answer = asyncio.Event()

    async def send(self, batch: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        self.sent.extend(batch)
        await self.answer.wait()
        return [Sent() for _ in batch]


@asynccontextmanager
async def reading(flow: Flow, topic: str, stopping: asyncio.Event) -> AsyncIterator[asyncio.Task[None]]:
    """A reader of the topic, as a worker runs it."""
    parts = flow.parts()
    [found] = [one for one in readings(parts) if one.topic == topic]
    reader: Reader[Any] = Reader(found, parts.queue, parts.objects, parts.clock, parts.metrics)
    running = asyncio.create_task(reader.run(stopping))
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait({running})


async def facts(flow: Flow) -> list[Outcome]:
    """The facts in `outcomes`."""
    found: list[Outcome] = []
    while (claim := await flow.queue.claim(topics.OUTCOMES, topics.RECORD, 100, 0.0)) is not None:
        found += [fact for item in claim.items for fact in decode_outcomes(item.body)]
        await claim.done()
    return found


async def routed(flow: Flow, count: int) -> None:
    """Put deliveries for the provider into their queue."""
    for number in range(count):
        await flow.accept(to={"phone": f"+4915123456{number:03d}"}, content={"sms": {"text": "x"}})
    await flow.settle(topics.ROUTE)
    await facts(flow)


async def test_a_reader_that_waits_ends_at_once(flow: Flow) -> None:
    stopping = asyncio.Event()
    async with reading(flow, DELIVERIES, stopping) as running:
        await flow.clock.settle()
        assert not running.done()
        stopping.set()
        await flow.clock.settle()  # no time passes
        assert running.done()


async def test_the_schedule_ends_at_once(flow: Flow) -> None:
    stopping = asyncio.Event()
    parts = flow.parts()
    running = asyncio.create_task(
        Schedule(parts.shard.schedule, parts.queue, parts.objects, parts.clock, parts.metrics).run(stopping)
    )
    await flow.clock.settle()
    assert not running.done()
    stopping.set()
    await flow.clock.settle()
    assert running.done()
    await running


@pytest.mark.parametrize("limit", ["slots", "rate"])
async def test_waiting_deliveries_go_back_unbegun_and_calls_under_way_finish(flow: Flow, limit: str) -> None:
    provider = Hanging(concurrency=2 if limit == "slots" else 50)
    provider.rate = 2 if limit == "rate" else None
    flow.settings = Settings(fairness=Fairness(per_second=0))  # else half of that is the tenant's share
    flow.providers[Channel.SMS] = [provider]
    # No shares: with such a slow vendor, most of the five would be surplus, in another queue.
    flow.settings = Settings.model_validate({"fairness": {"per_second": 0}})
    await routed(flow, 5)
    stopping = asyncio.Event()
    async with reading(flow, DELIVERIES, stopping) as running:
        await flow.clock.advance(0.1)
        begun = len(provider.sent)
        assert 0 < begun < 5
        stopping.set()
        await flow.clock.advance(0.1)
        assert len(provider.sent) == begun
        assert not running.done()
        provider.answer.set()
        await flow.clock.advance(0.1)
        assert running.done()
    assert [fact.state for fact in await facts(flow)] == [State.SENT] * begun
    left = await flow.queue.claim(DELIVERIES, topics.DELIVER, 100, 0.0, 60.0)
    assert left is not None
    assert len(left.items) == 5 - begun
    # The next process sees that they were never begun.
    assert not any(item.redelivered for item in left.items)


async def test_a_delivery_that_went_back_unbegun_may_be_begun_later_by_the_same_process(flow: Flow) -> None:
    provider = Hanging(concurrency=1)
    flow.providers[Channel.SMS] = [provider]
    await routed(flow, 3)
    stopping = asyncio.Event()
    async with reading(flow, DELIVERIES, stopping):
        await flow.clock.settle()
        stopping.set()
        provider.answer.set()
        await flow.clock.settle()
    await flow.settle()
    assert len(provider.sent) == len({outbound.id for outbound in provider.sent}) == 3


async def test_stopping_ends_waits_and_other_errors_pass() -> None:
    stopping = Stopping()
    hanging = asyncio.create_task(stopping.ending(asyncio.Event().wait()))
    cancelled = asyncio.create_task(stopping.ending(asyncio.Event().wait()))
    assert await stopping.ending(asyncio.sleep(0, "value")) == "value"
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    with pytest.raises(TimeoutError):
        await stopping.ending(asyncio.wait_for(asyncio.Event().wait(), 0))
    stopping.set()
    assert await hanging is None
    assert await stopping.ending(asyncio.Event().wait()) is None


async def test_work_that_takes_longer_than_the_grace_is_cancelled() -> None:
    stopping, ended = asyncio.Event(), []

    async def work(until: asyncio.Event) -> None:
        try:
            await until.wait()
            ended.append("finished")
        except asyncio.CancelledError:
            ended.append("left")
            raise

    async def worker(grace: float) -> None:
        async with finishing(stopping, grace) as group:
            group.create_task(work(stopping))
            group.create_task(work(asyncio.Event()))

    running = asyncio.create_task(worker(0.05))
    await asyncio.sleep(0)
    assert not running.done()
    stopping.set()
    await asyncio.wait_for(running, 5)
    assert ended == ["finished", "left"]


async def test_a_timeout_of_the_work_itself_is_raised() -> None:
    async def fails() -> None:
        raise TimeoutError("a part")

    with pytest.raises(ExceptionGroup):
        async with finishing(asyncio.Event(), 1.0) as group:
            group.create_task(fails())


async def test_a_pause_ends_after_its_time_or_when_the_process_stops() -> None:
    clock, stopping = VirtualClock(), asyncio.Event()
    first = asyncio.create_task(pause(2, stopping, clock))
    await clock.advance(1.999)
    assert not first.done()
    await clock.advance(0.001)
    assert first.done()
    second = asyncio.create_task(pause(2, stopping, clock))
    await clock.settle()
    stopping.set()
    await clock.settle()
    assert second.done()
    await pause(2, stopping, clock)
    assert clock.next_waking is None, "nothing is left that sleeps"


async def test_the_first_to_end_ends_the_wait_however_it_ended_and_the_others_are_cancelled() -> None:
    ended: list[str] = []

    async def hangs(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async with asyncio.timeout(5):
        await first_of(hangs("a"), fails(), hangs("b"))
    assert ended == ["a", "b"]


async def test_if_the_wait_itself_is_cancelled_so_is_all_that_it_waits_for() -> None:
    left = [asyncio.get_running_loop().create_future() for _ in range(2)]
    waiting = asyncio.create_task(first_of(*left))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert all(one.cancelled() for one in left)


async def test_what_follows_the_process_stops_with_it() -> None:
    stopping, event = Stopping(), asyncio.Event()
    following = asyncio.create_task(stopping.follow(event))
    waits = [asyncio.create_task(stopping.ending(asyncio.Event().wait())) for _ in range(2)]
    await asyncio.sleep(0)
    assert (stopping.is_set, event.is_set()) == (False, False)
    event.set()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waits) == [None, None]
    await following
    assert stopping.is_set
    assert not stopping._waits
