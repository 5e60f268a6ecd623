from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tidings.backends.memory.clock import SystemClock, VirtualClock
from tidings.backends.memory.queue import MemoryBroker, MemoryQueue
from tidings.backends.memory.store import MemoryStore
from tidings.model import topics
from tidings.pipeline.rounds.depths import EVERY_S, MOST_LOOKS, Depths
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
