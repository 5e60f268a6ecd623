"""What a reader does with the results of a batch when the queue is away, or the lease was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support import eventually
from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.queue import MemoryBroker, MemoryQueue
from tidings.backends.objects.folder import Folder
from tidings.model.errors import Unavailable
from tidings.pipeline.runtime.beginning import Begin
from tidings.pipeline.runtime.reader import Claimed, Reader, Reading
from tidings.ports.queue import Claim, Item, Received
from tidings.telemetry.metrics import Metrics

LEASE = 30.0


class _Claim:
    def __init__(self, queue: _Queue, claim: Claim) -> None:
        self._queue = queue
        self._claim = claim

    @property
    def items(self) -> Sequence[Received]:
        return self._claim.items

    async def begin(self, places: Collection[int]) -> None:
        self._queue.look()
        await self._claim.begin(places)

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        self._queue.look()
        await self._claim.done(outputs, released)

    async def release(self) -> None:
        self._queue.look()
        await self._claim.release()


class _Queue(MemoryQueue):
    """A queue that can be unavailable."""

    away = False
    asked = 0

    def look(self) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("away")

    async def put(self, items: Sequence[Item]) -> None:
        self.look()
        await super().put(items)

    async def claim(
        self, topic: str, group: str, max_items: int, max_wait_s: float, lease_s: float | None = None
    ) -> Claim | None:
        claim = await super().claim(topic, group, max_items, max_wait_s, lease_s)
        return None if claim is None else _Claim(self, claim)


class _World:
    """A stage that turns items of `in` into items of `out`, and its surroundings."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.queue = _Queue(MemoryBroker(self.clock))
        self.worked: list[bytes] = []
        self.true_anyway = b""
        self.handed_over = {b"1"}
        self.goes_on = asyncio.Event()
        self.stopping = asyncio.Event()
        self._folder = Folder(folder)

    def reader(self, lease_s: float | None) -> Reader[bytes]:
        reading = Reading(
            stage="s",
            topic="in",
            decode=bytes,
            work=self._work,
            lease_s=lease_s,
            max_wait_s=0.5,
            after_loss=lambda outputs: [item for item in outputs if item.body == self.true_anyway],
        )
        return Reader(reading, self.queue, self._folder, self.clock, Metrics())

    async def _work(self, batch: Sequence[Claimed[bytes]], begin: Begin) -> list[Item]:
        if batch[0].value in self.handed_over:
            await begin([claimed.place for claimed in batch])
        self.worked += [claimed.value for claimed in batch]
        await self.goes_on.wait()
        return [Item("out", "k", claimed.value) for claimed in batch]

    async def out(self) -> list[Received]:
        found: list[Received] = []
        while (claim := await self.queue.claim("out", "g", 10, 0)) is not None:
            found += claim.items
            await claim.done()
        return found


@pytest.fixture
async def world(tmp_path: Path) -> _World:
    made = _World(tmp_path)
    await made.queue.declare({"in": ("s",), "out": ("g",)})
    await made.queue.put([Item("in", "k", b"1")])
    return made


@asynccontextmanager
async def reading(world: _World, lease_s: float | None) -> AsyncIterator[asyncio.Task[None]]:
    """Run the stage until it works on its batch."""
    running = asyncio.create_task(world.reader(lease_s).run(world.stopping))
    try:
        await eventually(lambda: world.worked)
        yield running
    finally:
        world.stopping.set()
        world.goes_on.set()
        while not running.done():
            await world.clock.advance(1)
        await running


async def test_the_results_of_a_batch_are_kept_while_the_queue_is_away(world: _World) -> None:
    async with reading(world, LEASE):
        world.queue.away = True
        world.goes_on.set()
        await world.clock.advance(10)
        assert world.queue.asked > 3
        world.queue.away = False
        await world.clock.advance(2)
        assert [item.body for item in await world.out()] == [b"1"]
    assert world.worked == [b"1"]


@pytest.mark.parametrize("true_anyway", [b"", b"1"])
async def test_after_a_lost_lease_only_facts_that_are_true_anyway_are_put(world: _World, true_anyway: bytes) -> None:
    world.true_anyway = true_anyway
    async with reading(world, LEASE):
        world.queue.away = True
        world.goes_on.set()
        await world.clock.advance(LEASE + 1)
        other = await world.queue.claim("in", "s", 10, 0, LEASE)
        assert other is not None
        assert other.items[0].redelivered
        world.queue.away = False
        await world.clock.advance(2)
        assert [item.body for item in await world.out()] == ([true_anyway] if true_anyway else [])
        await other.done([Item("out", "k", b"2")])
        assert [item.body for item in await world.out()] == [b"2"]


async def test_a_process_that_must_stop_does_not_wait_for_the_queue(world: _World) -> None:
    async with reading(world, LEASE) as running:
        world.queue.away = True
        world.goes_on.set()
        await world.clock.advance(1)
        world.stopping.set()
        await world.clock.advance(5)
        assert running.done()
        world.queue.away = False
        await world.clock.advance(LEASE)
        again = await world.queue.claim("in", "s", 10, 0, LEASE)
        assert again is not None
        assert again.items[0].redelivered
