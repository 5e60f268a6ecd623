"""Kafka absent, slow, killed or frozen: the errors of the queue's client, their timing, and that nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from support import eventually, needs, unique
from support.kafka import KafkaBroker
from support.kafka_cluster import KafkaCluster
from support.ports import free_port
from support.queues import PATIENCE, expect_nothing_left, items_of, open_queue, take
from tidings.backends.kafka.queue import KafkaQueue
from tidings.backends.kafka.settings import MOST_ITEM_BYTES, KafkaSettings
from tidings.model.errors import LeaseLost, Unavailable
from tidings.ports.queue import Item

pytestmark = needs("kafka")
GROUP = "readers"
EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory, broker_count: int) -> Iterator[KafkaCluster]:
    """A cluster that the test may harm."""
    cluster = KafkaCluster(tmp_path_factory.mktemp("kafka"), broker_count)
    cluster.start()
    yield cluster
    cluster.resume()
    cluster.kill()


@pytest.fixture
async def own_queue(own_server: KafkaCluster) -> AsyncIterator[KafkaQueue]:
    queue = await open_queue("kafka", own_server.bootstrap, unique("p") + ".")
    assert isinstance(queue, KafkaQueue)
    yield queue
    await queue.close()


@pytest.fixture
async def topic(own_queue: KafkaQueue) -> str:
    await own_queue.declare({"topic": (GROUP,)})
    return "topic"


def kafka_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tidings-kafka")]


async def test_without_a_broker_the_client_fails_in_time() -> None:
    brokers = f"127.0.0.1:{free_port()}"
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Unavailable, match=f"does not answer at {brokers}"):
            await KafkaQueue.open(brokers)
    assert kafka_threads() == []


async def test_closing_leaves_no_thread_and_ends_what_waits(kafka_broker: str, kafka_prefix: str) -> None:
    queue = await KafkaQueue.open(kafka_broker, partitions=2, prefix=kafka_prefix)
    await queue.declare({"topic": (GROUP,), "other": (GROUP,)})
    await queue.put([Item("topic", "k", b"x")])
    claims = await take(queue, "topic", GROUP, 1)
    waiting = asyncio.create_task(queue.claim("other", GROUP, 1, PATIENCE))
    await queue.claim("other", GROUP, 1, 0.1)
    await queue.close()
    await queue.close()
    assert kafka_threads() == []
    with pytest.raises(Unavailable, match="closed"):
        await waiting
    with pytest.raises(Unavailable, match="closed"):
        await queue.put([Item("topic", "k", b"y")])
    with pytest.raises(Unavailable, match="closed"):
        await queue.claim("topic", GROUP, 1, 0.1)
    with pytest.raises(LeaseLost):
        await claims[0].done()


async def test_the_topics_of_the_whole_flow_at_once(kafka_broker: str, kafka_prefix: str) -> None:
    queue = await KafkaQueue.open(kafka_broker, partitions=2, prefix=kafka_prefix)
    topics = [f"topic-{number}" for number in range(16)]
    try:
        await queue.declare(dict.fromkeys(topics, (GROUP,)))
        await queue.put([Item(topic, "k", topic.encode()) for topic in topics])
        claims = await asyncio.gather(*(queue.claim(topic, GROUP, 10, PATIENCE, 30.0) for topic in topics))
        assert [claim and claim.items[0].body for claim in claims] == [topic.encode() for topic in topics]
        assert len(kafka_threads()) <= len(topics) + 3
    finally:
        await queue.close()


async def test_an_undeclared_topic_is_refused(kafka_broker: str, kafka_prefix: str) -> None:
    queue = await KafkaQueue.open(kafka_broker, prefix=kafka_prefix)
    try:
        with pytest.raises(Unavailable, match="declare"):
            await queue.claim("nowhere", GROUP, 1, 3.0)
        await queue.declare({"nowhere": (GROUP,)})
        await queue.put([Item("nowhere", "k", b"x")])
        assert len(items_of(await take(queue, "nowhere", GROUP, 1))) == 1
    finally:
        await queue.close()


async def test_items_that_every_group_has_done_are_deleted(kafka_broker: str, kafka_prefix: str) -> None:
    settings = KafkaSettings(kafka_broker, partitions=1, prefix=kafka_prefix, trim_interval_s=0.2)
    queue = KafkaQueue(settings)
    watcher = AdminClient({"bootstrap.servers": kafka_broker})
    place = TopicPartition(settings.topic("topic"), 0)

    def oldest() -> int:
        (answer,) = watcher.list_offsets({place: EARLIEST}).values()
        return int(answer.result(10).offset)

    try:
        await queue.declare({"topic": (GROUP, "others")})
        await queue.put([Item("topic", "k", b"%d" % number) for number in range(30)])
        # The other group has claimed an item but done none.
        (begun,) = await take(queue, "topic", "others", 1, max_items=10, lease_s=60.0)
        done = len(begun.items)
        for claim in await take(queue, "topic", GROUP, 30, max_items=20):
            await claim.done()
        await begun.done()
        await eventually(lambda: oldest() == done, PATIENCE)
        left = items_of(await take(queue, "topic", "others", 30 - done))
        assert [int(item.body) for item in left] == list(range(done, 30))
    finally:
        await queue.close()


async def test_a_producer_that_broke_for_good_is_replaced(kafka_broker: str, kafka_prefix: str) -> None:
    queue = await KafkaQueue.open(kafka_broker, partitions=1, prefix=kafka_prefix)
    try:
        await queue.declare({"topic": (GROUP,)})
        broken = queue._producer._producer
        queue._producer._on_error(KafkaError(KafkaError._FATAL, "made up", fatal=True))
        await eventually(lambda: queue._producer._producer is not broken)
        await queue.put([Item("topic", "k", b"x")])
        assert len(items_of(await take(queue, "topic", GROUP, 1))) == 1
    finally:
        await queue.close()


async def test_an_item_that_is_too_large(kafka_broker: str, kafka_prefix: str) -> None:
    queue = await KafkaQueue.open(kafka_broker, partitions=1, prefix=kafka_prefix)
    try:
        await queue.declare({"topic": (GROUP,)})
        with pytest.raises(ValueError, match="may have at most"):
            await queue.put([Item("topic", "k", bytes(MOST_ITEM_BYTES))])
        await queue.put([Item("topic", "k", bytes(MOST_ITEM_BYTES // 2))])
        (claim,) = await take(queue, "topic", GROUP, 1)
        assert len(claim.items[0].body) == MOST_ITEM_BYTES // 2
    finally:
        await queue.close()


async def test_a_group_whose_clients_come_and_go(kafka_broker: str, kafka_prefix: str) -> None:
    """Items are done once each, in the order of their key, while clients join and leave.

    A client that was away for longer than its session, on a machine that is overloaded, may have lost what it did since
    its last commit: then those items come again, marked as repeated.
    """
    count, finished, repeated = 3000, dict[str, list[int]](), set[int]()
    first = await KafkaQueue.open(kafka_broker, partitions=8, prefix=kafka_prefix)
    await first.declare({"topic": (GROUP,)})
    stop = asyncio.Event()

    async def work(queue: KafkaQueue, leave_after: int | None) -> None:
        claims = 0
        while not stop.is_set() and (leave_after is None or claims < leave_after):
            claim = await queue.claim("topic", GROUP, 20, 0.2, 30.0)
            if claim is None:
                continue
            claims += 1
            try:
                await claim.done()
            except LeaseLost:
                continue
            for item in claim.items:
                if item.repeated or item.redelivered:
                    repeated.add(int(item.body))
                else:
                    finished.setdefault(item.key, []).append(int(item.body))
        await queue.close()

    def done_at_least(wanted: int) -> bool:
        return len(repeated.union(*finished.values())) >= wanted

    async def feed() -> None:
        for start in range(0, count, 100):
            await first.put([Item("topic", f"key-{n % 50}", b"%d" % n) for n in range(start, start + 100)])
            await eventually(partial(done_at_least, start - 300), PATIENCE)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(work(first, None))
        feeding = group.create_task(feed())
        for leave_after in (5, 10, 15):
            other = await KafkaQueue.open(kafka_broker, prefix=kafka_prefix)
            group.create_task(work(other, leave_after))
        await feeding
        await eventually(partial(done_at_least, count), PATIENCE)
        stop.set()
    once = [number for numbers in finished.values() for number in numbers]
    assert len(once) == len(set(once))
    assert repeated.union(once) == set(range(count))
    assert all(numbers == sorted(numbers) for numbers in finished.values())


class TestKilled:
    async def test_items_survive_and_work_goes_on(
        self, own_server: KafkaCluster, own_queue: KafkaQueue, topic: str
    ) -> None:
        await own_queue.put([Item(topic, f"k{number}", b"%d" % number) for number in range(100)])
        claims = await take(own_queue, topic, GROUP, 1, max_items=30, lease_s=60.0)
        begun = {item.body for item in items_of(claims)}
        await asyncio.to_thread(own_server.restart)
        for claim in claims:
            await claim.done([Item(topic, item.key, b"-" + item.body) for item in claim.items])
        finished = set(begun)
        wanted = {b"%d" % number for number in range(100)} | {b"-" + body for body in begun}
        while finished != wanted:
            for claim in await take(own_queue, topic, GROUP, 1, lease_s=60.0):
                finished |= {item.body for item in claim.items}
                await claim.done()

        await expect_nothing_left(own_queue, topic, GROUP)

    async def test_an_absent_broker_is_reported_in_time_and_forgotten_when_it_is_back(
        self, own_server: KafkaCluster, own_queue: KafkaQueue, topic: str
    ) -> None:
        await own_queue.put([Item(topic, "k", b"before")])
        (held,) = await take(own_queue, topic, GROUP, 1, lease_s=60.0)
        await held.begin([0])
        await asyncio.to_thread(own_server.kill)

        async def said(call: Awaitable[object]) -> bool:
            with pytest.raises(Unavailable):
                assert await call, "the claim returned None instead of raising Unavailable"
            return True

        async with asyncio.timeout(30):
            await asyncio.gather(
                said(own_queue.put([Item(topic, "k", b"lost")])), said(held.done([Item(topic, "k", b"out")]))
            )
            await said(held.begin([0]))
            await eventually(lambda: said(own_queue.claim(topic, GROUP, 1, 0.5)), PATIENCE)
        await asyncio.to_thread(own_server.start)

        async def back() -> bool:
            try:
                return await own_queue.claim(topic, GROUP, 1, 0.5) is None
            except Unavailable:
                return False

        await eventually(back, 30.0)
        await held.done([Item(topic, "k", b"out")])
        assert [item.body for item in items_of(await take(own_queue, topic, GROUP, 1))] == [b"out"]

    async def test_closing_without_a_broker_ends(self, tmp_path: Path) -> None:
        broker = KafkaBroker(tmp_path)
        await asyncio.to_thread(broker.start)
        queue = await KafkaQueue.open(broker.bootstrap, partitions=2)
        await queue.declare({"topic": (GROUP,)})
        await queue.put([Item("topic", "k", b"1"), Item("topic", "k", b"2")])
        (claim,) = await take(queue, "topic", GROUP, 1, max_items=1, lease_s=60.0)
        await asyncio.to_thread(broker.kill)
        await claim.done()
        closing = asyncio.create_task(queue.close())
        await asyncio.wait([closing], timeout=30)
        assert closing.done(), "closing waits for the broker"
        await closing


class TestFrozen:
    async def test_nothing_is_lost_while_a_broker_is_frozen(
        self, own_server: KafkaCluster, own_queue: KafkaQueue, topic: str
    ) -> None:
        await own_queue.put([Item(topic, "k", b"first")])
        (claim,) = await take(own_queue, topic, GROUP, 1, lease_s=60.0)
        own_server.pause()
        try:
            ending = asyncio.create_task(claim.done([Item(topic, "k", b"second")]))
            assert await own_queue.claim(topic, GROUP, 1, 1.0) is None
            assert not ending.done()
        finally:
            own_server.resume()
        await ending
        claims = await take(own_queue, topic, GROUP, 1)
        assert [item.body for item in items_of(claims)] == [b"second"]
