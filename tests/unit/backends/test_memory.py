from __future__ import annotations

import asyncio
import random

import pytest

from tidings.backends.memory.clock import SystemClock, VirtualClock
from tidings.backends.memory.queue import MemoryBroker, MemoryQueue
from tidings.ports.queue import Item


class TestVirtualClock:
    async def test_sleepers_wake_in_the_order_of_their_time(self) -> None:
        clock, woken = VirtualClock(start=1000), list[tuple[str, int]]()

        async def sleep(name: str, seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append((name, clock.now()))

        async with asyncio.TaskGroup() as group:
            for name, seconds in (("c", 3.0), ("a", 1.0), ("b", 1.0), ("now", 0.0)):
                group.create_task(sleep(name, seconds))
            await clock.settle()
            assert clock.next_waking == 2000
            await clock.advance(2.999)
            assert woken == [("now", 1000), ("a", 2000), ("b", 2000)]
            await clock.advance(0.001)
        assert woken[-1] == ("c", 4000)
        assert clock.now() == 4000
        assert clock.next_waking is None

    async def test_a_repeated_sleeper_misses_no_instant(self) -> None:
        clock, ticks = VirtualClock(start=0), list[int]()

        async def tick() -> None:
            while True:
                await clock.sleep(0.5)
                ticks.append(clock.now())

        ticking = asyncio.create_task(tick())
        await clock.advance(2.2)
        ticking.cancel()
        assert ticks == [500, 1000, 1500, 2000]

    async def test_a_cancelled_sleeper_is_forgotten(self) -> None:
        clock = VirtualClock(start=0)
        sleeping = asyncio.create_task(clock.sleep(1))
        await clock.settle()
        sleeping.cancel()
        await clock.settle()
        assert clock.next_waking is None
        await clock.advance(5)
        assert clock.now() == 5000


async def test_the_systems_clock_goes_on() -> None:
    clock = SystemClock()
    before = clock.now()
    await clock.sleep(0.01)
    assert clock.now() >= before + 9


class TestQueueInVirtualTime:
    @pytest.mark.parametrize("begun", [False, True])
    async def test_a_lease_runs_out_when_its_time_has_passed(self, begun: bool) -> None:
        clock = VirtualClock()
        queue = MemoryQueue(MemoryBroker(clock))
        await queue.declare({"t": ("g",)})
        await queue.put([Item("t", "k", b"x")])
        claim = await queue.claim("t", "g", 1, 0, lease_s=60.0)
        assert claim is not None
        await claim.begin([0] if begun else [])
        waiting = asyncio.create_task(queue.claim("t", "g", 1, 300.0, lease_s=60.0))
        await clock.advance(59.9)
        assert not waiting.done()
        await clock.advance(0.1)
        again = await waiting
        assert again is not None
        assert again.items[0].redelivered is begun

    async def test_waiting_ends_in_virtual_time(self) -> None:
        clock = VirtualClock()
        queue = MemoryQueue(MemoryBroker(clock))
        waiting = asyncio.create_task(queue.claim("t", "g", 1, 2.0))
        await clock.advance(1.9)
        assert not waiting.done()
        await clock.advance(0.1)
        assert await waiting is None

    async def test_the_same_seed_gives_the_same_run(self) -> None:
        async def run(seed: int) -> list[tuple[int, str, bytes, bool]]:
            chance, clock = random.Random(seed), VirtualClock()
            broker, seen = MemoryBroker(clock), list[tuple[int, str, bytes, bool]]()
            first = MemoryQueue(broker)
            await first.declare({"t": ("g",)})

            async def work(name: str) -> None:
                queue = MemoryQueue(broker)
                while True:
                    claim = await queue.claim("t", "g", chance.randint(1, 4), 1.0, lease_s=3.0)
                    if claim is None:
                        continue
                    seen.extend((clock.now(), name, item.body, item.redelivered) for item in claim.items)
                    await clock.sleep(chance.random() * 2)
                    if chance.random() < 0.3:
                        queue.crash()
                        queue = MemoryQueue(broker)
                    else:
                        await claim.done()

            workers = [asyncio.create_task(work(name)) for name in "abc"]
            for number in range(40):
                await first.put([Item("t", "k", b"%d" % number)])
                await clock.advance(chance.random())
            await clock.advance(60)
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)
            assert {body for _, _, body, _ in seen} == {b"%d" % number for number in range(40)}
            return seen

        assert await run(7) == await run(7)
        assert await run(7) != await run(8)
