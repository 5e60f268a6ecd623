from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tidings.backends.memory.clock import SystemClock
from tidings.backends.memory.queue import MemoryBroker, MemoryQueue
from tidings.backends.memory.store import MemoryStore
from tidings.model import topics
from tidings.pipeline.rounds.depths import Depths
from tidings.ports.queue import Item
from tidings.telemetry.metrics import Metrics


def told(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        one.labels["topic"]: one.value
        for family in families
        for one in family.samples
        if one.name == "tidings_queue_items"
    }


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
