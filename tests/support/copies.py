"""Copies of one delivery in a `Flow`: how they arise, who claims them, and that the person gets one."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec

from support.flow import SMS, Flow, Recorder
from tidings.model import topics
from tidings.model.sending import AnyDelivery, SendResult
from tidings.model.vocabulary import Channel, Priority, State
from tidings.model.wire import decode_delivery, encode
from tidings.pipeline.deliver.stage import RECORDED_WITHIN_S
from tidings.pipeline.runtime.reader import REPEATED, Reader
from tidings.ports.clock import Clock
from tidings.ports.queue import Claim, Item
from tidings.roles.worker import readings

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
        """Keep, wait, answer."""
        self.sent.extend(batch)
        self.asked.set()
        await self.may_answer.wait()
        return [self.answers(outbound) for outbound in batch]


def slow_provider(flow: Flow) -> Slow:
    """The flow's only provider of SMS from now on."""
    provider = Slow()
    flow.providers[Channel.SMS] = [provider]
    return provider


class WrongClock:
    """A clock that shows another time of day than `clock`, by `ahead_ms`, and passes as fast."""

    def __init__(self, clock: Clock, ahead_ms: int) -> None:
        self._clock = clock
        self._ahead_ms = ahead_ms
        self.elapsed, self.sleep = clock.elapsed, clock.sleep

    def now(self) -> int:
        """Milliseconds since the epoch, wrong."""
        return self._clock.now() + self._ahead_ms


def worker(flow: Flow, ahead_ms: int = 0) -> Reader[Any]:
    """The deliver stage of a new process, which knows nothing about the attempts of the others.

    `ahead_ms` says how far the process's clock is ahead.
    """
    parts = dataclasses.replace(flow.parts(), clock=WrongClock(flow.clock, ahead_ms))
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


def at_step(step: int, copy: Item, topic: str = TOPIC) -> Item:
    """The copy after its wait of this step, without the mark."""
    waited = msgspec.structs.replace(decode_delivery(copy.body), step=step)
    return Item(topic, copy.key, encode(waited))


async def claimed(flow: Flow, topic: str = TOPIC, lease_s: float | None = None) -> Claim:
    """What waits in the queue, claimed by a process that does nothing with it."""
    claim = await flow.queue.claim(topic, topics.DELIVER, 10, 0, lease_s)
    assert claim is not None
    return claim


async def lose_original(flow: Flow, copy: Item) -> None:
    """Take the original from its queue, and put the copy there."""
    claim = await claimed(flow)
    await claim.done([copy])


async def die_in_a_call(flow: Flow, provider: Slow) -> None:
    """Let a worker claim what waits and die while the provider works on it."""
    dying = asyncio.create_task(worker(flow).once())
    await provider.asked.wait()
    dying.cancel()
    await asyncio.wait([dying])


async def wait_besides_surplus(flow: Flow, seconds: int) -> None:
    """Let time pass, while all stages work on everything but surplus."""
    for _ in range(seconds):
        await flow.clock.advance(1)
        await flow.settle(besides_surplus=True)


async def expect_sent_once(flow: Flow, id: Any) -> None:
    """Fail unless one SMS was sent, and the notification is recorded as sent."""
    assert len(flow.provider(Channel.SMS).sent) == 1
    assert (await flow.view(id)).state is State.SENT
