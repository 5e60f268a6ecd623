from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidings.backends.memory.accounts import MemoryRounds
from tidings.backends.memory.clock import SystemClock, VirtualClock
from tidings.backends.memory.queue import MemoryBroker, MemoryQueue
from tidings.backends.memory.store import MemoryStore
from tidings.model import topics
from tidings.pipeline.rounds.depths import EVERY_S, MOST_LOOKS, ROUND, Depths
from tidings.pipeline.rounds.rounds import ROUNDS_MISSED
from tidings.ports.queue import Item
from tidings.telemetry.metrics import Metrics


def told(metrics: Metrics, name: str = "tidings_queue_items") -> dict[str, float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {one.labels["topic"]: one.value for family in families for one in family.samples if one.name == name}


async def test_one_process_tells_what_waits_in_every_queue() -> None:
    clock, store = SystemClock(), MemoryStore()
    queue = MemoryQueue(MemoryBroker(clock))
    first, second = Metrics(), Metrics()
    await queue.put([Item(topics.REQUESTS[0], "k", b"x")] * 3)
    assert await Depths(queue, store.rounds, clock, first).once()
    assert not await Depths(queue, store.rounds, clock, second).once()
    assert told(first)[topics.REQUESTS[0]] == 3
    assert set(told(first)) == set(topics.subscriptions())
    assert told(second) == {}


async def test_the_oldest_item_is_as_old_as_the_first_look_that_found_it() -> None:
    clock, metrics = VirtualClock(), Metrics()
    queue = MemoryQueue(MemoryBroker(clock))
    depths = Depths(queue, MemoryStore().rounds, clock, metrics)
    topic = topics.REQUESTS[0]

    async def age_s() -> float:
        assert await depths.once()
        return told(metrics, "tidings_queue_oldest_seconds")[topic]

    await queue.declare(topics.subscriptions())
    assert await age_s() == 0
    await queue.put([Item(topic, "k", b"first")])
    assert await age_s() == 0
    await clock.advance(30)
    await queue.put([Item(topic, "k", b"second")])
    assert await age_s() == 30
    claim = await queue.claim(topic, topics.ROUTE, 1, 0.0)
    assert claim is not None
    await clock.advance(10)
    assert await age_s() == 40, "a claimed item still waits for its end"
    await claim.done()
    assert await age_s() == 10
    claim = await queue.claim(topic, topics.ROUTE, 1, 0.0)
    assert claim is not None
    await claim.done()
    assert await age_s() == 0


async def test_the_age_of_a_long_wait_stays_right_with_few_looks_remembered() -> None:
    clock, metrics = VirtualClock(), Metrics()
    queue = MemoryQueue(MemoryBroker(clock))
    depths = Depths(queue, MemoryStore().rounds, clock, metrics)
    for number in range(5 * MOST_LOOKS):
        await queue.put([Item(topics.REQUESTS[0], "k", b"%d" % number)])
        assert await depths.once()
        assert told(metrics, "tidings_queue_oldest_seconds")[topics.REQUESTS[0]] == number * EVERY_S
        await clock.advance(EVERY_S)


class Groups:
    """Several groups of readers of one queue, which nothing leaves and to which something comes at each look."""

    def __init__(self, **depths: int) -> None:
        self.groups = depths
        self.looks = 0

    async def depths(self, queues: list[tuple[str, str]]) -> list[int]:
        return [self.groups[group] for _, group in queues]

    async def extent(self, topic: str, group: str) -> Any:
        assert (topic, group in self.groups) == ("mail", True)
        self.looks += 1
        return SimpleNamespace(covers=lambda _other: False)


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, **depths: int) -> None:
        monkeypatch.setattr(topics, "subscriptions", lambda: {"mail": tuple(depths)})
        self.clock, self.metrics = VirtualClock(), Metrics()
        self.rounds = MemoryRounds(self.clock.now)
        self.groups = Groups(**depths)
        self.depths = Depths(self.groups, self.rounds, self.clock, self.metrics)  # type: ignore[arg-type]

    async def look(self) -> tuple[float, float]:
        assert await self.depths.once()
        return told(self.metrics)["mail"], told(self.metrics, "tidings_queue_oldest_seconds")["mail"]


@pytest.mark.parametrize("emptied", ["one", "two"])
async def test_a_queue_with_two_groups_has_both_and_the_older_age(
    monkeypatch: pytest.MonkeyPatch, emptied: str
) -> None:
    world = World(monkeypatch, one=2, two=3)
    assert await world.look() == (5, 0)
    await world.clock.advance(7)
    assert await world.look() == (5, 7)
    left = world.groups.groups[emptied]
    world.groups.groups[emptied] = 0
    assert await world.look() == (5 - left, 7)
    world.groups.groups[emptied] = left
    await world.clock.advance(1)
    assert await world.look() == (5, 8)
    world.groups.groups["two" if emptied == "one" else "one"] = 0
    assert (await world.look())[1] == 0, "what was emptied once is as old as the look that found it again"


async def test_old_looks_are_thinned_out_and_the_first_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, one=1)
    for number in range(MOST_LOOKS):
        assert await world.look() == (1, number)
        await world.clock.advance(1)
    looks = world.depths._looks["mail", "one"]
    assert len(looks) == MOST_LOOKS
    begun = looks[0].at
    await world.look()
    kept = [(look.at - begun) // 1000 for look in world.depths._looks["mail", "one"]]
    assert kept == [*range(0, MOST_LOOKS, 2), MOST_LOOKS]


async def test_a_process_that_stands_by_tells_nothing_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    world, other = World(monkeypatch, one=1), UUID(int=9)
    await world.look()
    await world.clock.advance(ROUNDS_MISSED * EVERY_S - 0.001)
    assert await world.rounds.begin(ROUND, other, 1.0) is None, "it may miss some rounds"
    await world.clock.advance(0.001)
    assert await world.rounds.begin(ROUND, other, 1.0) is not None
    assert not await world.depths.once()
    assert told(world.metrics) == {}
    await world.clock.advance(1)
    assert await world.look() == (1, 0)


async def test_it_looks_every_ten_seconds_and_leaves_that_to_others_when_it_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, stopping = World(monkeypatch, one=1), asyncio.Event()
    running = asyncio.create_task(world.depths.run(stopping))
    for looks in range(1, 4):
        await world.clock.settle()
        assert world.groups.looks == looks
        await world.clock.advance(EVERY_S - 0.1)
        assert world.groups.looks == looks
        await world.clock.advance(0.1)
    stopping.set()
    await world.clock.settle()
    assert running.done()
    assert await world.rounds.begin(ROUND, UUID(int=9), 1.0) is not None
