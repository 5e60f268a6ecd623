"""Every adapter of the port Queue behind one fixture, `queues`. Also a program: a claimer that will be killed.

python -m support.queues KIND LOCATION PREFIX hold TOPIC GROUP MAX_ITEMS LEASE PLACES
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from support import eventually, program, unique
from support.kafka_cluster import replication_of
from tidings.backends.kafka.queue import KafkaQueue
from tidings.backends.memory.queue import MemoryBroker, MemoryQueue
from tidings.backends.postgres.queue import PostgresQueue
from tidings.ports.queue import Claim, Item, Queue, Received

MEMORY = {"memory", "memory_partitioned"}
PATIENCE = 20.0
"""Seconds within which expected items come: a killed Kafka consumer is noticed after its session timeout."""
BRIEFLY = 0.3
"""Seconds to wait for items that must not come."""
GROUP = "readers"
"""The group that reads the fixture `topic`."""


async def depth(queue: Queue, topic: str, group: str) -> int:
    """The number of items that the group has not done."""
    [count] = await queue.depths([(topic, group)])
    return count


async def open_queue(kind: str, location: str, prefix: str) -> Queue:
    """A client of the queue at `location` (a DSN, a bootstrap string)."""
    if kind == "postgres":
        return await PostgresQueue.open(location)
    return await KafkaQueue.open(location, partitions=4, replication=replication_of(location), prefix=prefix)


@dataclass
class Queues:
    """Opens clients of one queue and lets one of them die."""

    kind: str
    location: str
    prefix: str
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    opened: list[Queue] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.kind == "memory_partitioned":
            self.broker = MemoryBroker(partitions=4)

    async def open(self) -> Queue:
        """A new client, closed when the test ends."""
        if self.kind in MEMORY:
            queue: Queue = MemoryQueue(self.broker)
        else:
            queue = await open_queue(self.kind, self.location, self.prefix)
        self.opened.append(queue)
        return queue

    async def die_holding(
        self, topic: str, group: str, max_items: int, lease_s: float | None, begin: Sequence[int] = ()
    ) -> int:
        """Let a client claim, begin the items at some places, and be killed. Returns how many items it held."""
        if self.kind in MEMORY:
            queue = MemoryQueue(self.broker)
            claim = await queue.claim(topic, group, max_items, PATIENCE, lease_s)
            assert claim is not None
            if begin:
                await claim.begin(begin)
            queue.crash()
            return len(claim.items)
        places = ",".join(map(str, begin))
        return (await self._kill_after(1, "hold", topic, group, max_items, lease_s, places))[0]

    async def die_working(self, topic: str, group: str, max_items: int, out: str) -> None:
        """Let a client copy items to `out`, batch after batch, and kill its process in between."""
        if self.kind in MEMORY:
            queue = MemoryQueue(self.broker)
            working = asyncio.create_task(copy(queue, topic, group, max_items, out))
            await queue.claim(out, "watcher", 1, PATIENCE)
            working.cancel()
            queue.crash()
            return
        await self._kill_after(3, "copy", topic, group, max_items, None, out)

    async def _kill_after(self, lines: int, *errand: object) -> list[int]:
        """Run this file as a program and kill it after it has printed so many numbers."""
        command, environment = program("queues")
        process = await asyncio.create_subprocess_exec(
            *command, self.kind, self.location, self.prefix, *map(str, errand),
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(3 * PATIENCE):
                return [int(await process.stdout.readline()) for _ in range(lines)]
        finally:
            process.kill()
            await process.communicate()

    async def close(self) -> None:
        """Close every client."""
        for queue in self.opened:
            await queue.close()


@pytest.fixture(params=["memory", "memory_partitioned", "postgres", "kafka"])
async def queues(request: pytest.FixtureRequest, queue_location: str) -> AsyncIterator[Queues]:
    """Every adapter in turn."""
    queues = Queues(request.param, queue_location, request.getfixturevalue("kafka_prefix"))
    yield queues
    await queues.close()


@pytest.fixture
def queue_location(request: pytest.FixtureRequest) -> str:
    """The location of the present parameter's queue."""
    kind = request.node.callspec.params["queues"]
    fixtures = {"postgres": "postgres_dsn", "kafka": "kafka_broker"}
    return str(request.getfixturevalue(fixtures[kind])) if kind in fixtures else ""


@pytest.fixture
async def queue(queues: Queues) -> Queue:
    """One client."""
    return await queues.open()


@pytest.fixture
async def topic(queue: Queue) -> str:
    """A topic that GROUP reads."""
    topic = unique("topic")
    await queue.declare({topic: (GROUP,)})
    return topic


def numbered(topic: str, count: int, start: int = 0) -> list[Item]:
    """Items whose bodies are their numbers, of 10 keys."""
    return [Item(topic, f"key-{number % 10}", b"%d" % number) for number in range(start, start + count)]


async def take(
    queue: Queue, topic: str, group: str, count: int, *, max_items: int = 1000, lease_s: float | None = None
) -> list[Claim]:
    """Claims with at least `count` items in total."""
    claims: list[Claim] = []
    while sum(len(claim.items) for claim in claims) < count:
        claim = await queue.claim(topic, group, max_items, PATIENCE, lease_s)
        assert claim is not None, f"only {items_of(claims)} of {count} items came"
        claims.append(claim)
    return claims


def items_of(claims: list[Claim]) -> list[Received]:
    """The items of these claims, in order."""
    return [item for claim in claims for item in claim.items]


def bodies(items: Sequence[Received]) -> list[bytes]:
    """The bodies of these items, in order."""
    return [item.body for item in items]


async def expect_nothing_left(queue: Queue, topic: str, group: str = GROUP) -> None:
    """Fail if an item can be claimed, or if the group's depth does not become 0."""
    assert await queue.claim(topic, group, 10, BRIEFLY) is None

    async def empty() -> bool:
        return await depth(queue, topic, group) == 0

    await eventually(empty)


async def copy(queue: Queue, topic: str, group: str, max_items: int, out: str) -> None:
    """Copy every item of `topic` to `out`, for ever, and print how many after each batch."""
    while True:
        claim = await queue.claim(topic, group, max_items, PATIENCE)
        assert claim is not None
        await claim.done([Item(out, item.key, item.body) for item in claim.items])
        _say(len(claim.items))


async def _until_killed(kind: str, location: str, prefix: str, errand: str, *rest: str) -> None:
    queue = await open_queue(kind, location, prefix)
    topic, group, max_items, lease_s, *out = rest
    if errand == "copy":
        await copy(queue, topic, group, int(max_items), *out)
    claim = await queue.claim(topic, group, int(max_items), PATIENCE, None if lease_s == "None" else float(lease_s))
    assert claim is not None
    if places := [int(place) for place in out[0].split(",") if place]:
        while len(claim.items) <= max(places):  # Kafka hands out the items that have arrived so far
            await claim.release()
            claim = await queue.claim(topic, group, int(max_items), PATIENCE, float(lease_s))
            assert claim is not None
        await claim.begin(places)
    _say(len(claim.items))
    await asyncio.Event().wait()


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_until_killed(*sys.argv[1:]))
