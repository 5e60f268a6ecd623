"""The reader of a topic: claim, decode, let the stage work, done; and how each of these may fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Generic, TypeVar

import structlog
from msgspec import Struct

from tidings.model.errors import LeaseLost, Unavailable, Unreadable
from tidings.pipeline.runtime.beginning import Begin, Beginning
from tidings.pipeline.runtime.setbacks import Setbacks
from tidings.pipeline.runtime.setting_aside import set_aside
from tidings.pipeline.runtime.stopping import Stopping
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.objects import Objects
from tidings.ports.queue import Claim, Item, Queue, Received

T = TypeVar("T")

REPEATED = "repeated"
"""The header that marks an item as a possible copy: before a crash it may have been put already."""

SLOW_AFTER_S = 0.25
"""Seconds after which the next batch may be claimed beside one that is still worked on."""
NO_ROOM_PAUSE_S = 0.05
"""Seconds until a stage without room is asked again."""
SHORTEST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 2.0
"""Shortest and longest pause between two tries to end a claim or to give it back."""
_log = structlog.get_logger("tidings.stage")


def nothing(_: Sequence[Item]) -> Sequence[Item]:
    """No outputs: the `after_loss` of stages that put nothing after a lost lease."""
    return ()


class Claimed(Struct, Generic[T], frozen=True, gc=False):
    """A claimed and decoded item. `begun`: an earlier claim began it. `repeated`: it may be a copy.

    `place` is its index in the claim.
    """

    value: T
    begun: bool = False
    repeated: bool = False
    place: int = 0


class Aside(Struct, frozen=True):
    """A part of an item that cannot be worked on: its bytes, and the reason."""

    body: bytes
    why: str


class Partly(Struct, frozen=True, kw_only=True):
    """The result of a stage that could not finish its whole batch.

    The items at the places `unbegun` go back to the queue. The items at the places `failed` (with reasons) were not
    begun either, and are worked on one by one. `aside`: unusable parts of items that are finished otherwise.
    """

    outputs: Sequence[Item]
    unbegun: Collection[int] = ()
    failed: Mapping[int, str] = {}
    aside: Sequence[Aside] = ()


class Reading(Struct, Generic[T], frozen=True, kw_only=True):
    """How a stage reads one topic.

    work: turns a batch into the items to put. Before it hands items to a provider it calls its second argument with the
        places of just these items. It raises Unavailable only before it has begun anything. After any other error
        the items are worked on one by one, so that only the faulty one suffers.
    stop: called when the process is to stop. `work` then begins nothing more that has effects outside the queue.
    room: how many items may be claimed now; 0: look again in a moment.
    lease_s: the lease of the claims, which work with effects outside the queue needs; None: no lease.
    in_flight, most_in_flight: so many batches are worked on at once, and up to `most_in_flight` if some of them take
        longer than `SLOW_AFTER_S`, so that a slow batch does not stop the others.
    linger_s: the pause after a batch that was not full, so that the next one is larger.
    after_loss: chooses the outputs to put although the lease was lost. Another claimer decides about the batch now, so
        only facts that are true in any case may be put.
    """

    stage: str
    topic: str
    decode: Callable[[bytes], T]
    work: Callable[[Sequence[Claimed[T]], Begin], Awaitable[Sequence[Item] | Partly]]
    stop: Callable[[], None] | None = None
    max_items: int = 500
    room: Callable[[], int] | None = None
    lease_s: float | None = None
    in_flight: int = 1
    most_in_flight: int = 1
    max_wait_s: float = 5.0
    linger_s: float = 0.0
    after_loss: Callable[[Sequence[Item]], Sequence[Item]] = nothing


class _Done(Struct):
    """The result of a claim. The places `unbegun` and `stuck` (these cannot go aside now) go back to the queue."""

    outputs: list[Item] = []
    unbegun: set[int] = set()
    stuck: set[int] = set()
    broke: bool = False
    """Whether the batch failed after some of its items were begun."""


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
        self._most = reading.max_items
        self._refused: dict[bytes, str] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set; then claim no more, and finish or give back the batches under way."""
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
        reading = self._reading
        setbacks = Setbacks(_log, self._meter, reading.stage, reading.topic)
        while not stopping.is_set():
            try:
                count = await self._turn(stopping)
                if reading.linger_s and 0 < count < reading.max_items:
                    await self._stopping.ending(self._clock.sleep(reading.linger_s))
            except Exception as error:
                await self._stopping.ending(self._clock.sleep(setbacks.note(error)))
            else:
                setbacks.over()

    async def _turn(self, stopping: asyncio.Event) -> int:
        """Wait for this loop's turn, then claim and finish one batch; the number of its items."""
        await self._turns.acquire()
        passing_on = [self._turns.release]
        try:
            if stopping.is_set():
                return 0
            claim = await self._claim()
            if claim is None:
                return 0
            later = asyncio.get_running_loop().call_later(SLOW_AFTER_S, _call_last, passing_on)
            try:
                return await self._finish_batch(claim)
            finally:
                later.cancel()
        finally:
            if passing_on:
                _call_last(passing_on)

    async def once(self) -> int:
        """Claim and finish one batch; the number of its items, 0 if none came."""
        claim = await self._claim()
        return 0 if claim is None else await self._finish_batch(claim)

    async def _claim(self) -> Claim | None:
        reading = self._reading
        most = min(reading.max_items, self._most)
        room = most if reading.room is None else min(reading.room(), most)
        if room <= 0:
            await self._stopping.ending(self._clock.sleep(NO_ROOM_PAUSE_S))
            return None
        claiming = self._queue.claim(reading.topic, reading.stage, room, reading.max_wait_s, reading.lease_s)
        return await self._stopping.ending(claiming)

    async def _finish_batch(self, claim: Claim) -> int:
        started = time.perf_counter()
        beginning = Beginning(claim)
        try:
            done = await self._work(claim, beginning)
        except Exception:
            await self._give_back(claim)
            raise
        try:
            await self._finish(claim, done.outputs, done.unbegun | done.stuck)
        except Unavailable:
            raise
        except Exception as error:
            await self._cannot_end(claim, beginning, error)
            raise
        if not done.broke:
            self._most = min(self._most * 2, self._reading.max_items)
        items, seconds = len(claim.items), time.perf_counter() - started
        self._meter.batch(self._reading.stage, self._reading.topic, items, seconds)
        if done.stuck:
            raise Unavailable(f"{len(done.stuck)} items could not be put aside, and wait in their queue")
        if self._running and len(done.unbegun) == items:
            await self._stopping.ending(self._clock.sleep(NO_ROOM_PAUSE_S))
        return items

    async def _work(self, claim: Claim, beginning: Beginning) -> _Done:
        """Work on a claim as far as possible. Raises Unavailable: then give back the whole claim."""
        done = _Done()
        batch = await self._decode(claim.items, done)
        if not batch:
            return done
        suspects: Sequence[Claimed[T]] = batch
        try:
            failed = await self._take_up(batch, beginning, done)
        except (Unavailable, asyncio.CancelledError):
            raise
        except Exception:
            _log.exception("a batch failed; going on one by one", stage=self._reading.stage, topic=self._reading.topic)
            if beginning.places:
                # Begun items cannot be worked on one by one now. Halve the claims until the faulty item is alone.
                self._most = max(1, len(claim.items) // 2)
                done.broke = True
        else:
            suspects = [claimed for claimed in batch if claimed.place in failed]
        for claimed in suspects:
            if self._stopping.is_set:
                done.unbegun.add(claimed.place)
            else:
                await self._alone(claimed, claim, beginning, done)
        return done

    async def _take_up(self, batch: Sequence[Claimed[T]], beginning: Beginning, done: _Done) -> Mapping[int, str]:
        """Work on a batch; the places that failed before they were begun, with the reasons."""
        outcome = await self._reading.work(batch, beginning.begin)
        if not isinstance(outcome, Partly):
            done.outputs.extend(outcome)
            return {}
        for part in outcome.aside:
            if not await self._set_aside("", part.body, part.why):
                raise Unavailable("a part that cannot be worked on could not be put aside; check the object store")
        done.outputs.extend(outcome.outputs)
        done.unbegun.update(outcome.unbegun)
        return outcome.failed

    async def _alone(self, claimed: Claimed[T], claim: Claim, beginning: Beginning, done: _Done) -> None:
        """Work on one item of a failed batch. If it fails again it is the faulty one, and goes aside.

        An item that was begun before the failure goes back to the queue marked as begun, for the stage to judge. If it
        came back so already and fails once more, it goes aside: else it would come back for ever.
        """
        place = claimed.place
        if place in beginning.places:  # by the batch that failed
            if len(claim.items) > 1 or not claimed.begun:
                done.unbegun.add(place)
                return
            why: str | None = "it failed again and again after it was begun"
        else:
            try:
                why = (await self._take_up([claimed], beginning, done)).get(place)
            except (Unavailable, asyncio.CancelledError):
                raise
            except Exception as error:
                _log.exception("an item failed", stage=self._reading.stage, topic=self._reading.topic)
                why = repr(error)
        if why is None:
            return
        if place in beginning.places and not claimed.begun:
            done.unbegun.add(place)
            return
        item = claim.items[place]
        if not await self._set_aside(item.key, item.body, why):
            done.stuck.add(place)

    async def _decode(self, items: Sequence[Received], done: _Done) -> list[Claimed[T]]:
        """The items that can be decoded. The others, and those whose outputs the queue refused, go aside."""
        batch: list[Claimed[T]] = []
        decode = self._reading.decode
        for place, item in enumerate(items):
            repeated = item.repeated or REPEATED in item.headers
            why = self._refused.get(item.body) if self._refused else None
            try:
                if why is None:
                    batch.append(Claimed(decode(item.body), item.redelivered, repeated, place))
            except Exception as error:
                why = str(error) if isinstance(error, Unreadable) else repr(error)
            if why is None:
                continue
            if await self._set_aside(item.key, item.body, why):
                self._refused.pop(item.body, None)
            else:
                done.stuck.add(place)
        return batch

    async def _finish(self, claim: Claim, outputs: Sequence[Item], unbegun: Collection[int] = ()) -> None:
        """End the claim; of leased work, retry until the queue answers.

        Only this process knows the provider's answers, so it keeps them.
        """
        pause_s = 0.0
        while True:
            try:
                await self._end(claim, outputs, unbegun)
                return
            except Unavailable as error:
                if self._reading.lease_s is None or not self._running or self._stopping.is_set:
                    raise
                self._meter.failure(self._reading.stage, self._reading.topic, "unavailable")
                if not pause_s:
                    _log.warning(
                        "keeping the results of a batch until the queue is back",
                        stage=self._reading.stage,
                        why=str(error),
                    )
            pause_s = min(max(pause_s * 2, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
            await self._clock.sleep(pause_s)

    async def _end(self, claim: Claim, outputs: Sequence[Item], unbegun: Collection[int]) -> None:
        try:
            await claim.done(outputs, unbegun)
        except Unavailable:
            if self._reading.lease_s is None:
                await self._give_back(claim)
            raise  # leased work may have put its outputs: end the claim again, or leave it to the lease
        except LeaseLost:
            self._meter.failure(self._reading.stage, self._reading.topic, "lease_lost")
            _log.warning("a lease was lost", stage=self._reading.stage, topic=self._reading.topic)
            if facts := self._reading.after_loss(outputs):
                await self._queue.put(facts)

    async def _cannot_end(self, claim: Claim, beginning: Beginning, error: Exception) -> None:
        """Give back a claim whose outputs the queue refuses. Halved claims isolate the faulty item; it goes aside."""
        items = claim.items
        self._most = max(1, len(items) // 2)
        if len(items) == 1 and not beginning.places:
            # The claim may be over, and the item back in its queue: this process sets it aside when it comes again.
            self._refused[items[0].body] = repr(error)
        await self._give_back(claim)

    async def _give_back(self, claim: Claim) -> None:
        """Release the claim; retry until it works, the lease ends, or the process stops."""
        lease_ends_at = self._clock.elapsed() + round((self._reading.lease_s or 0.0) * 1000)
        pause_s = 0.0
        while True:
            try:
                await claim.release()
                return
            except LeaseLost:
                return
            except Unavailable as error:
                if pause_s and (not self._running or self._stopping.is_set or self._clock.elapsed() >= lease_ends_at):
                    _log.warning("could not give a batch back; it returns by itself", why=str(error))
                    return
            if pause_s:
                await self._clock.sleep(pause_s)
            pause_s = min(max(pause_s * 2, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)

    async def _set_aside(self, key: str, body: bytes, why: str) -> bool:
        stage, topic = self._reading.stage, self._reading.topic
        return await set_aside(self._aside, self._clock, self._meter, stage, topic, key, body, why)


def _call_last(pending: list[Callable[[], None]]) -> None:
    pending.pop()()
