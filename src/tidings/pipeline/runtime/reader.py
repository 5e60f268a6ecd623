"""What every reading stage has around it: claim, decode, work, done; and what happens when one of them fails."""

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
"""The header of an item that may be a second copy: what put it could have put it before a crash."""

PATIENCE = 0.25
"""Seconds after which a batch that is still worked on no longer keeps the next one from being claimed."""
NO_ROOM = 0.05
"""Seconds until a stage that can take nothing now is asked again."""
PAUSE_AFTER_FAILURE = 0.5
LONGEST_KEEPING = 2.0
"""Seconds between two tries to hand in what came of a batch, or to give it back."""
_log = structlog.get_logger("tidings.stage")


def nothing(_: Sequence[Item]) -> Sequence[Item]:
    """Nothing is put when a lease was lost."""
    return ()


class Taken(Struct, Generic[T], frozen=True, gc=False):
    """A decoded item. `begun`: an earlier claim has begun it. `repeated`: it may be a second copy.

    `place` is where it stood in its claim.
    """

    value: T
    begun: bool = False
    repeated: bool = False
    place: int = 0


class Aside(Struct, frozen=True):
    """A part of an item that cannot be worked on, as bytes, and why."""

    body: bytes
    why: str


class Partly(Struct, frozen=True, kw_only=True):
    """What a stage that did not get through its batch has to put.

    The items at the places `unbegun` go back to the queue. Those at the places `failed` (with the reason) were not
    begun, and are worked on one by one. `aside` are parts of items that got through otherwise.
    """

    outputs: Sequence[Item]
    unbegun: Collection[int] = ()
    failed: Mapping[int, str] = {}
    aside: Sequence[Aside] = ()


class Reading(Struct, Generic[T], frozen=True, kw_only=True):
    """How a stage reads one topic.

    `work` turns a batch into the items to put. Before it hands something to somebody outside it calls the function that
    it is given with the places of just these items. It raises Unavailable before it has begun anything, or not at all.
    Whatever else it raises costs only the item that is the cause: the others are worked on one by one.
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
    work: Callable[[Sequence[Taken[T]], Begin], Awaitable[Sequence[Item] | Partly]]
    stop: Callable[[], None] | None = None
    max_items: int = 500
    room: Callable[[], int] | None = None
    lease: float | None = None
    in_flight: int = 1
    most_in_flight: int = 1
    max_wait: float = 2.0
    linger: float = 0.0
    after_loss: Callable[[Sequence[Item]], Sequence[Item]] = nothing


class _Done(Struct):
    """What came of a claim. The places `unbegun` go back, and so do those that are `stuck`: they cannot go aside."""

    outputs: list[Item] = []
    unbegun: set[int] = set()
    stuck: set[int] = set()
    broke: bool = False
    """Whether it failed after something of it was begun."""


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
        reading = self._reading
        setbacks = Setbacks(_log, self._meter, reading.stage, reading.topic)
        while not stopping.is_set():
            try:
                taken = await self._turn(stopping)
                if reading.linger and 0 < taken < reading.max_items:
                    await self._stopping.ending(self._clock.sleep(reading.linger))
            except Exception as error:
                await self._stopping.ending(self._clock.sleep(setbacks.note(error)))
            else:
                setbacks.over()

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
        most = min(reading.max_items, self._most)
        room = most if reading.room is None else min(reading.room(), most)
        if room <= 0:
            await self._stopping.ending(self._clock.sleep(NO_ROOM))
            return None
        claiming = self._queue.claim(reading.topic, reading.stage, room, reading.max_wait, reading.lease)
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
            await self._stopping.ending(self._clock.sleep(NO_ROOM))
        return items

    async def _work(self, claim: Claim, beginning: Beginning) -> _Done:
        """All that can be done of a batch. Raises Unavailable: then all of it goes back."""
        done = _Done()
        batch = await self._decode(claim.items, done)
        if not batch:
            return done
        suspects: Sequence[Taken[T]] = batch
        try:
            failed = await self._take_up(batch, beginning, done)
        except (Unavailable, asyncio.CancelledError):
            raise
        except Exception:
            _log.exception("a batch failed; going on one by one", stage=self._reading.stage, topic=self._reading.topic)
            if beginning.places:
                # What it had begun cannot be tried alone now: smaller and smaller claims find the one that is to blame.
                self._most = max(1, len(claim.items) // 2)
                done.broke = True
        else:
            suspects = [taken for taken in batch if taken.place in failed]
        for taken in suspects:
            if self._stopping.is_set:
                done.unbegun.add(taken.place)
            else:
                await self._alone(taken, claim, beginning, done)
        return done

    async def _take_up(self, batch: Sequence[Taken[T]], beginning: Beginning, done: _Done) -> Mapping[int, str]:
        """Work on a batch; what of it failed before it was begun, with the reasons."""
        outcome = await self._reading.work(batch, beginning.begin)
        if not isinstance(outcome, Partly):
            done.outputs.extend(outcome)
            return {}
        for part in outcome.aside:
            if not await self._set_aside("", part.body, part.why):
                raise Unavailable("what cannot be worked on could not be put aside")
        done.outputs.extend(outcome.outputs)
        done.unbegun.update(outcome.unbegun)
        return outcome.failed

    async def _alone(self, taken: Taken[T], claim: Claim, beginning: Beginning, done: _Done) -> None:
        """One of a batch that failed. What fails once more is the culprit, and goes aside.

        What was begun when something failed goes back as such, and it is for the stage to say what that means. It goes
        aside when that fails as well: else it would come back for ever.
        """
        place = taken.place
        if place in beginning.places:  # by the batch that failed
            if len(claim.items) > 1 or not taken.begun:
                done.unbegun.add(place)
                return
            why: str | None = "it failed again and again after it was begun"
        else:
            try:
                why = (await self._take_up([taken], beginning, done)).get(place)
            except (Unavailable, asyncio.CancelledError):
                raise
            except Exception as error:
                _log.exception("an item failed", stage=self._reading.stage, topic=self._reading.topic)
                why = repr(error)
        if why is None:
            return
        if place in beginning.places and not taken.begun:
            done.unbegun.add(place)
            return
        item = claim.items[place]
        if not await self._set_aside(item.key, item.body, why):
            done.stuck.add(place)

    async def _decode(self, items: Sequence[Received], done: _Done) -> list[Taken[T]]:
        """The readable items; the others go aside."""
        batch: list[Taken[T]] = []
        decode = self._reading.decode
        for place, item in enumerate(items):
            repeated = item.repeated or REPEATED in item.headers
            why = self._refused.get(item.body) if self._refused else None
            try:
                if why is None:
                    batch.append(Taken(decode(item.body), item.redelivered, repeated, place))
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
        """End the claim.

        Only this process knows what came of work with effects outside: it is kept, and handed in when the queue is
        back.
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
            raise  # of leased work the outputs may be there: it is handed in again, or the lease brings it back
        except LeaseLost:
            self._meter.failure(self._reading.stage, self._reading.topic, "lease_lost")
            _log.warning("a lease was lost", stage=self._reading.stage, topic=self._reading.topic)
            if facts := self._reading.after_loss(outputs):
                await self._queue.put(facts)

    async def _cannot_end(self, claim: Claim, beginning: Beginning, error: Exception) -> None:
        """The queue refuses the outputs: smaller and smaller claims find the item that is the cause. It goes aside."""
        items = claim.items
        self._most = max(1, len(items) // 2)
        if len(items) > 1 or beginning.places:
            await self._give_back(claim)
        else:
            # The claim may be over already, and the item back in its queue: whoever gets it next puts it aside.
            self._refused[items[0].body] = repr(error)
            await self._give_back(claim)

    async def _give_back(self, claim: Claim) -> None:
        """Give back what was claimed, for as long as nobody else does it: the end of the lease, or of the process."""
        until = self._clock.elapsed() + round((self._reading.lease or 0.0) * 1000)
        pause = 0.0
        while True:
            try:
                await claim.release()
                return
            except LeaseLost:
                return
            except Unavailable as error:
                if pause and (not self._running or self._stopping.is_set or self._clock.elapsed() >= until):
                    _log.warning("could not give a batch back; it returns by itself", why=str(error))
                    return
            if pause:
                await self._clock.sleep(pause)
            pause = min(max(pause * 2, PAUSE_AFTER_FAILURE), LONGEST_KEEPING)

    async def _set_aside(self, key: str, body: bytes, why: str) -> bool:
        stage, topic = self._reading.stage, self._reading.topic
        return await set_aside(self._aside, self._clock, self._meter, stage, topic, key, body, why)


def _call_last(pending: list[Callable[[], None]]) -> None:
    pending.pop()()
