"""Three brokers, replication 3, min ISR 2: any one may die, and without two nothing counts as put.

Run with `--brokers 3`, as `make faults` does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from support import eventually, needs, unique
from support.kafka_cluster import KafkaCluster
from support.queues import open_queue
from tidings.model.errors import LeaseLost, Unavailable
from tidings.ports.queue import Claim, Item, Queue

pytestmark = [needs("kafka"), pytest.mark.timeout(600)]
GROUP = "readers"
PATIENCE = 120.0
"""Seconds. On a busy machine a killed broker needs most of a minute to be back."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, broker_count: int) -> Iterator[KafkaCluster]:
    if broker_count < 3:
        pytest.skip("one broker is no cluster: run with --brokers 3")
    cluster = KafkaCluster(tmp_path_factory.mktemp("kafka-cluster"), broker_count)
    cluster.start()
    yield cluster
    cluster.kill()


@pytest.fixture
async def queue(cluster: KafkaCluster) -> AsyncIterator[Queue]:
    queue = await open_queue("kafka", cluster.bootstrap, unique("c") + ".")
    await queue.declare({"topic": (GROUP,)})
    yield queue
    await queue.close()


async def put_at_last(queue: Queue, items: list[Item]) -> bool:
    """Put items, again after Unavailable, as a stage does. Returns whether it had to repeat."""
    again = False
    while True:
        try:
            await queue.put(items)
        except Unavailable:
            again = True
            continue
        return again


async def done_at_last(claim: Claim) -> bool:
    while True:
        try:
            await claim.done()
        except Unavailable:
            continue
        except LeaseLost:
            return False
        return True


async def test_brokers_die_one_after_another_under_load(cluster: KafkaCluster, queue: Queue) -> None:
    unmarked, put, repeated = Counter[bytes](), list[bytes](), set[bytes]()
    seen: set[bytes] = set()
    stop = asyncio.Event()

    async def feed() -> None:
        while not stop.is_set():
            bodies = [b"%d" % number for number in range(len(put), len(put) + 20)]
            if await put_at_last(queue, [Item("topic", f"k{int(body) % 40}", body) for body in bodies]):
                repeated.update(bodies)
            put.extend(bodies)
            await asyncio.wait([asyncio.create_task(stop.wait())], timeout=0.02)

    async def work() -> None:
        while not stop.is_set() or not seen >= set(put):
            try:
                claim = await queue.claim("topic", GROUP, 50, 0.2, 60.0)
            except Unavailable:
                continue
            if claim is None:
                continue
            handed = [item for item in claim.items if not item.redelivered]
            if await done_at_last(claim):
                seen.update(item.body for item in claim.items)
                unmarked.update(item.body for item in handed)

    async def far_enough(count: int) -> None:
        await eventually(lambda: len(seen) >= count, PATIENCE)

    async with asyncio.timeout(500), asyncio.TaskGroup() as group:
        group.create_task(feed())
        group.create_task(work())
        await far_enough(200)
        for broker in cluster.brokers:
            await asyncio.to_thread(broker.kill)
            await far_enough(len(seen) + 500)
            await asyncio.to_thread(broker.start)
            await far_enough(len(seen) + 200)
        stop.set()
    assert seen >= set(put), "no acknowledged item is lost"
    twice = {body for body, count in unmarked.items() if count > 1}
    assert twice <= repeated, "an item that comes twice is marked, unless it was put twice"


async def test_without_two_of_three_nothing_counts_as_put(cluster: KafkaCluster, queue: Queue) -> None:
    await queue.put([Item("topic", f"k{number}", b"before") for number in range(20)])
    first, second, _ = cluster.brokers
    await asyncio.to_thread(first.kill)
    await put_at_last(queue, [Item("topic", f"k{number}", b"with two") for number in range(20)])
    await asyncio.to_thread(second.kill)
    with pytest.raises(Unavailable):
        await queue.put([Item("topic", f"k{number}", b"with one") for number in range(20)])
    await asyncio.to_thread(first.start)
    await asyncio.to_thread(second.start)
    await put_at_last(queue, [Item("topic", f"k{number}", b"after") for number in range(20)])
    found: Counter[bytes] = Counter()
    async with asyncio.timeout(PATIENCE):
        while found[b"after"] < 20 or found[b"with two"] < 20 or found[b"before"] < 20:
            try:
                claim = await queue.claim("topic", GROUP, 50, 1.0)
            except Unavailable:
                continue
            if claim is not None:
                found.update(item.body for item in claim.items)
                await claim.done()
