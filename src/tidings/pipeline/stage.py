"""What every reading stage has around it: claim, decode, work, done; and what happens when one of them fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Generic, TypeVar
from uuid import uuid4

import msgspec
import structlog
from msgspec import Struct

from tidings.model.errors import LeaseLost, Unavailable, Unreadable
from tidings.pipeline.stopping import Stopping
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.objects import Objects
from tidings.ports.queue import Claim, Item, Queue, Received

T = TypeVar("T")

REPEATED = "repeated"
"""The header of an item that may be a second copy: what put it could have put it before a crash."""

PATIENCE = 0.25
"""Seconds after which a batch that is still worked on no longer keeps the next one from being claimed."""
NO_ROOM = 0.05
"""Seconds until a stage that can take nothing now is asked again."""
PAUSE_AFTER_FAILURE = 0.5
LONGEST_PAUSE = 10.0
LONGEST_KEEPING = 2.0
"""Seconds between two tries to hand in what came of a batch."""
_log = structlog.get_logger("tidings.stage")


def nothing(_: Sequence[Item]) -> Sequence[Item]:
    """Nothing is put when a lease was lost."""
    return ()


class Taken(Struct, Generic[T], frozen=True, gc=False):
    """A decoded item. `begun`: an earlier claim may have begun it. `repeated`: it may be a second copy.

    `place` is where it stood in its claim.
    """

    value: T
    begun: bool = False
    repeated: bool = False
    place: int = 0


class Partly(Struct, frozen=True):
    """What a stage that was stopped half-way has to put; the items at the places `unbegun` go back to the queue."""

    outputs: Sequence[Item]
    unbegun: Collection[int]


class Reading(Struct, Generic[T], frozen=True, kw_only=True):
    """How a stage reads one topic.

    `work` turns a batch into the items to put; it raises Unavailable before it has had any effect, or not at all.
    `stop` is called when the process is to stop: `work` then begins nothing more that has effects outside the queue.
    `room` says how many items may be claimed now (0: look again in a moment). `lease` (seconds) is for work with
    effects outside the queue. `in_flight` batches are worked on at once, and up to `most_in_flight` when some of them
    take longer than `PATIENCE`: what one of them waits for must not stop the others. After a batch that was not full
    the reader lingers for `linger` seconds, so that the next one is larger. `after_loss` gives what of the outputs is
    still put when the lease was lost: another claimer decides about the batch now, so only what is true anyway.
    """

    stage: str
    topic: str
    decode: Callable[[bytes], T]
    work: Callable[[Sequence[Taken[T]]], Awaitable[Sequence[Item] | Partly]]
    stop: Callable[[], None] | None = None
    max_items: int = 500
    room: Callable[[], int] | None = None
    lease: float | None = None
    in_flight: int = 1
    most_in_flight: int = 1
    max_wait: float = 2.0
    linger: float = 0.0
    after_loss: Callable[[Sequence[Item]], Sequence[Item]] = nothing


class Reader(Generic[T]):
    """Reads one topic until it is told to stop."""

    def __init__(self, reading: Reading[T], queue: Queue, aside: Objects, clock: Clock, meter: Meter) -> None:
        self._reading = reading
        self._queue = queue
        self._aside = aside
        self._clock = clock
        self._meter = meter
        self._turns = asyncio.Semaphore(reading.in_flight)
        self._stopping = Stopping()
        self._running = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set, then claim no more, and finish or give back what is under way."""
        self._running = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stop(stopping))
            for _ in range(max(self._reading.in_flight, self._reading.most_in_flight)):
                group.create_task(self._loop(stopping))

    async def _stop(self, stopping: asyncio.Event) -> None:
        await self._stopping.follow(stopping)
        if self._reading.stop is not None:
            self._reading.stop()

    async def _loop(self, stopping: asyncio.Event) -> None:
        reading, pause = self._reading, 0.0
        while not stopping.is_set():
            try:
                taken = await self._turn(stopping)
                if reading.linger and 0 < taken < reading.max_items:
                    await self._stopping.ending(self._clock.sleep(reading.linger))
            except Unavailable as error:
                self._meter.failure(reading.stage, reading.topic, "unavailable")
                if not pause:  # once for an outage, not once a second
                    _log.warning("waiting for a part", stage=reading.stage, topic=reading.topic, why=str(error))
            except Exception:
                self._meter.failure(reading.stage, reading.topic, "error")
                _log.exception("a batch failed", stage=reading.stage, topic=reading.topic)
            else:
                pause = 0.0
                continue
            pause = min(max(pause * 2, PAUSE_AFTER_FAILURE), LONGEST_PAUSE)
            await self._stopping.ending(self._clock.sleep(pause))

    async def _turn(self, stopping: asyncio.Event) -> int:
        """One batch when it is this loop's turn; the number of its items."""
        await self._turns.acquire()
        passing_on = [self._turns.release]
        try:
            if stopping.is_set():
                return 0
            claim = await self._claim()
            if claim is None:
                return 0
            later = asyncio.get_running_loop().call_later(PATIENCE, _call_last, passing_on)
            try:
                return await self._finish_batch(claim)
            finally:
                later.cancel()
        finally:
            if passing_on:
                _call_last(passing_on)

    async def once(self) -> int:
        """Claim and finish one batch; the number of its items, 0 when nothing came."""
        claim = await self._claim()
        return 0 if claim is None else await self._finish_batch(claim)

    async def _claim(self) -> Claim | None:
        reading = self._reading
        room = reading.max_items if reading.room is None else min(reading.room(), reading.max_items)
        if room <= 0:
            await self._stopping.ending(self._clock.sleep(NO_ROOM))
            return None
        claiming = self._queue.claim(reading.topic, reading.stage, room, reading.max_wait, reading.lease)
        return await self._stopping.ending(claiming)

    async def _finish_batch(self, claim: Claim) -> int:
        started = time.perf_counter()
        try:
            batch = await self._decode(claim.items)
            outputs = await self._work(batch)
        except Unavailable:
            await self._give_back(claim)
            raise
        if isinstance(outputs, Partly):
            await self._finish(claim, outputs.outputs, outputs.unbegun)
        else:
            await self._finish(claim, outputs)
        items, seconds = len(claim.items), time.perf_counter() - started
        self._meter.batch(self._reading.stage, self._reading.topic, items, seconds)
        return items

    async def _decode(self, items: Sequence[Received]) -> list[Taken[T]]:
        """The readable items; the others go aside."""
        batch: list[Taken[T]] = []
        decode = self._reading.decode
        for place, item in enumerate(items):
            try:
                batch.append(Taken(decode(item.body), item.redelivered, REPEATED in item.headers, place))
            except Unreadable as error:
                await self._set_aside(item.key, item.body, str(error))
        return batch

    async def _work(self, batch: Sequence[Taken[T]]) -> Sequence[Item] | Partly:
        if not batch:
            return ()
        try:
            return await self._reading.work(batch)
        except (Unavailable, asyncio.CancelledError):
            raise
        except Exception:
            if self._reading.lease is not None:
                raise  # it may have had effects: the lease brings it back, marked
            _log.exception("a batch failed; going on one by one", stage=self._reading.stage, topic=self._reading.topic)
        return await self._one_by_one(batch)

    async def _one_by_one(self, batch: Sequence[Taken[T]]) -> Sequence[Item]:
        """Work without effects outside can be repeated: find the culprits and put them aside."""
        outputs: list[Item] = []
        for taken in batch:
            try:
                done = await self._reading.work([taken])
                outputs.extend(done.outputs if isinstance(done, Partly) else done)
            except (Unavailable, asyncio.CancelledError):
                raise
            except Exception as error:
                await self._set_aside("", msgspec.msgpack.encode(taken.value), repr(error))
        return outputs

    async def _finish(self, claim: Claim, outputs: Sequence[Item], unbegun: Collection[int] = ()) -> None:
        """End the claim.

        What came of work with effects outside is known here alone. It is kept, and handed in when the queue is back.
        """
        pause = 0.0
        while True:
            try:
                await self._end(claim, outputs, unbegun)
                return
            except Unavailable as error:
                if self._reading.lease is None or not self._running or self._stopping.is_set:
                    raise
                self._meter.failure(self._reading.stage, self._reading.topic, "unavailable")
                if not pause:
                    _log.warning("keeping what came of a batch", stage=self._reading.stage, why=str(error))
            pause = min(max(pause * 2, PAUSE_AFTER_FAILURE), LONGEST_KEEPING)
            await self._clock.sleep(pause)

    async def _end(self, claim: Claim, outputs: Sequence[Item], unbegun: Collection[int]) -> None:
        try:
            await claim.done(outputs, unbegun)
        except Unavailable:
            if self._reading.lease is None:
                await self._give_back(claim)
            raise  # leased work has begun, and its outputs may be there: the lease brings it back, marked
        except LeaseLost:
            self._meter.failure(self._reading.stage, self._reading.topic, "lease_lost")
            _log.warning("a lease was lost", stage=self._reading.stage, topic=self._reading.topic)
            if facts := self._reading.after_loss(outputs):
                await self._queue.put(facts)

    async def _give_back(self, claim: Claim) -> None:
        try:
            await claim.release()
        except Unavailable as error:
            _log.warning("could not give a batch back; it returns by itself", why=str(error))

    async def _set_aside(self, key: str, body: bytes, why: str) -> None:
        name = f"aside/{self._reading.topic}/{self._clock.now()}-{uuid4().hex}"
        await self._aside.put(name + ".bin", body)
        await self._aside.put(name + ".txt", f"key: {key}\nreason: {why}\n".encode())
        self._meter.failure(self._reading.stage, self._reading.topic, "aside")
        _log.error("an item was put aside", topic=self._reading.topic, object=name, why=why)


def _call_last(pending: list[Callable[[], None]]) -> None:
    pending.pop()()
