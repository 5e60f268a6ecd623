"""Where a group on Kafka continues after a rebalance, after losing its offsets, and after losing the log."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from unittest.mock import Mock

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from support import eventually, needs
from support.queues import PATIENCE, depth, items_of, take
from tidings.backends.kafka.queue import KafkaQueue
from tidings.backends.kafka.settings import KafkaSettings
from tidings.model.errors import LeaseLost, Unavailable
from tidings.ports.queue import Item, Received

pytestmark = needs("kafka")
GROUP = "readers"
TOPIC = "topic"
EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]


@pytest.fixture
def settings(kafka_broker: str, kafka_prefix: str) -> KafkaSettings:
    return KafkaSettings(kafka_broker, partitions=1, prefix=kafka_prefix)


def numbered(first: int, end: int) -> list[Item]:
    return [Item(TOPIC, f"k{number}", b"%d" % number) for number in range(first, end)]


def marks(items: list[Received]) -> dict[int, bool]:
    return {int(item.body): item.redelivered for item in items}


async def works_off(queue: KafkaQueue, count: int) -> None:
    """Do `count` items, and return once that is committed."""
    for claim in await take(queue, TOPIC, GROUP, count, lease_s=60.0):
        await claim.done()

    async def empty() -> bool:
        return await depth(queue, TOPIC, GROUP) == 0

    await eventually(empty, PATIENCE)


def delete_offsets(admin: AdminClient, settings: KafkaSettings) -> None:
    """Delete a group's offsets, as an operator or Kafka's expiry does."""
    (deleted,) = admin.delete_consumer_groups([settings.group_id(TOPIC, GROUP)]).values()
    deleted.result(10)


def delete_records(admin: AdminClient, settings: KafkaSettings, before: int) -> None:
    (deleted,) = admin.delete_records([TopicPartition(settings.topic(TOPIC), 0, before)]).values()
    deleted.result(10)


def make_anew(admin: AdminClient, settings: KafkaSettings) -> None:
    """Delete the topic and create it again, as a restored backup does."""
    name = settings.topic(TOPIC)
    admin.delete_topics([name])[name].result(10)
    while True:
        try:
            admin.create_topics([NewTopic(name, 1, 1)])[name].result(10)
        except KafkaException:
            continue
        return


def commit_by_hand(settings: KafkaSettings, offset: int, text: str) -> None:
    """Commit an offset, as another tool does."""
    consumer = Consumer({"bootstrap.servers": settings.brokers, "group.id": settings.group_id(TOPIC, GROUP)})
    consumer.commit(offsets=[TopicPartition(settings.topic(TOPIC), 0, offset, metadata=text)], asynchronous=False)
    consumer.close()


class TestRebalances:
    async def test_partitions_kept_over_a_rebalance_are_resumed(self, settings: KafkaSettings) -> None:
        count = 1005
        four = KafkaSettings(settings.brokers, partitions=4, prefix=settings.prefix)
        first = await KafkaQueue.open_with(four)
        second = await KafkaQueue.open_with(four)
        try:
            await first.declare({TOPIC: (GROUP,)})
            await first.put(numbered(0, count))
            (warm, *more) = await take(first, TOPIC, GROUP, 1, max_items=1)
            lane = first._readers[TOPIC, GROUP]
            # Nothing is claimed and enough items wait, so the reader pauses all of its partitions.
            await eventually(lambda: lane._paused is True, PATIENCE)
            (other, *_) = await take(second, TOPIC, GROUP, 1, max_items=1)
            await other.release()
            await second.close()
            for claim in (warm, *more):
                with suppress(LeaseLost):
                    await claim.release()
            arrived: set[int] = set()
            async with asyncio.timeout(30):
                while len(arrived) < count:
                    for claim in await take(first, TOPIC, GROUP, 1):
                        arrived |= set(marks(list(claim.items)))
                        await claim.done()
            assert arrived == set(range(count))
        finally:
            await second.close()
            await first.close()


class TestLostOffsets:
    async def test_a_new_group_on_a_new_topic_gets_everything_unmarked(
        self, queue: KafkaQueue, settings: KafkaSettings
    ) -> None:
        await queue.declare({TOPIC: (GROUP,)})
        await queue.put(numbered(0, 5))
        # Another process declares the same, as every process does at its start.
        other = await KafkaQueue.open_with(settings)
        await other.declare({TOPIC: (GROUP,)})
        await other.close()
        assert marks(items_of(await take(queue, TOPIC, GROUP, 5))) == dict.fromkeys(range(5), False)

    @pytest.mark.parametrize("declared", [True, False])
    async def test_items_come_marked_after_the_offsets_were_lost(
        self, settings: KafkaSettings, admin: AdminClient, declared: bool
    ) -> None:
        first = await KafkaQueue.open_with(settings)
        await first.declare({TOPIC: (GROUP,)})
        await first.put(numbered(0, 10))
        await works_off(first, 10)
        await first.close()
        await asyncio.to_thread(delete_offsets, admin, settings)
        second = await KafkaQueue.open_with(settings)
        try:
            if declared:
                await second.declare({TOPIC: (GROUP,)})
                await second.put(numbered(10, 12))
            again = marks(items_of(await take(second, TOPIC, GROUP, 12 if declared else 10)))
            assert again == {number: number < 10 for number in range(12 if declared else 10)}
        finally:
            await second.close()

    async def test_the_marks_are_kept_over_another_crash(self, settings: KafkaSettings, admin: AdminClient) -> None:
        await self.test_items_come_marked_after_the_offsets_were_lost(settings, admin, True)
        third = await KafkaQueue.open_with(settings)
        try:
            assert marks(items_of(await take(third, TOPIC, GROUP, 12))) == {number: number < 10 for number in range(12)}
        finally:
            await third.close()

    @pytest.mark.parametrize("text", ["", "by hand"])
    async def test_an_offset_that_another_tool_has_set(
        self, queue: KafkaQueue, settings: KafkaSettings, text: str
    ) -> None:
        await queue.declare({TOPIC: (GROUP,)})
        await queue.put(numbered(0, 10))
        await asyncio.to_thread(commit_by_hand, settings, 4, text)
        assert marks(items_of(await take(queue, TOPIC, GROUP, 6))) == dict.fromkeys(range(4, 10), True)


class TestLogs:
    async def test_deleted_records_do_not_stop_the_others(
        self, queue: KafkaQueue, settings: KafkaSettings, admin: AdminClient
    ) -> None:
        await queue.declare({TOPIC: (GROUP,)})
        await queue.put(numbered(0, 10))
        await asyncio.to_thread(delete_records, admin, settings, 6)
        assert marks(items_of(await take(queue, TOPIC, GROUP, 4))) == dict.fromkeys(range(6, 10), False)

    async def test_a_topic_made_anew_while_nobody_reads(self, settings: KafkaSettings, admin: AdminClient) -> None:
        first = await KafkaQueue.open_with(settings)
        await first.declare({TOPIC: (GROUP,)})
        await first.put(numbered(0, 10))
        await works_off(first, 10)
        await first.close()
        await asyncio.to_thread(make_anew, admin, settings)
        # Restore the offset of the old log, as if only the log had been lost.
        await asyncio.to_thread(commit_by_hand, settings, 10, "b=;d=")
        second = await KafkaQueue.open_with(settings)
        try:
            await second.declare({TOPIC: (GROUP,)})
            await second.put(numbered(0, 3))
            claims = await take(second, TOPIC, GROUP, 3)
            assert marks(items_of(claims)) == dict.fromkeys(range(3), True)
            await second.put(numbered(3, 6))
            more = await take(second, TOPIC, GROUP, 3)
            assert marks(items_of(more)) == dict.fromkeys(range(3, 6), False)
            for claim in (*claims, *more):
                await claim.done()

            async def empty() -> bool:
                return await depth(second, TOPIC, GROUP) == 0

            await eventually(empty, PATIENCE)
        finally:
            await second.close()


class TestTrimming:
    def oldest(self, admin: AdminClient, settings: KafkaSettings) -> int:
        (answer,) = admin.list_offsets({TopicPartition(settings.topic(TOPIC), 0): EARLIEST}).values()
        return int(answer.result(10).offset)

    async def test_a_group_that_only_another_process_declared_loses_nothing(
        self, queue: KafkaQueue, settings: KafkaSettings, admin: AdminClient
    ) -> None:
        await queue.declare({TOPIC: (GROUP,)})
        newer = await KafkaQueue.open_with(settings)
        await newer.declare({TOPIC: (GROUP, "matcher")})
        await newer.close()
        await queue.put(numbered(0, 10))
        await works_off(queue, 10)
        await asyncio.to_thread(queue._administration.trim, {TOPIC: {GROUP}})
        assert await asyncio.to_thread(self.oldest, admin, settings) == 0
        read = 0
        for claim in await take(queue, TOPIC, "matcher", 1, max_items=4):
            read += len(claim.items)
            await claim.done()

        async def committed() -> bool:
            return await depth(queue, TOPIC, "matcher") == 10 - read

        await eventually(committed, PATIENCE)
        await asyncio.to_thread(queue._administration.trim, {TOPIC: {GROUP}})
        assert await asyncio.to_thread(self.oldest, admin, settings) == read

    async def test_a_declared_group_without_offsets_keeps_everything(
        self, queue: KafkaQueue, settings: KafkaSettings, admin: AdminClient
    ) -> None:
        await queue.declare({TOPIC: (GROUP,)})
        await queue.put(numbered(0, 10))
        await works_off(queue, 10)
        await asyncio.to_thread(queue._administration.trim, {TOPIC: {GROUP, "unheard"}})
        assert await asyncio.to_thread(self.oldest, admin, settings) == 0
        await asyncio.to_thread(queue._administration.trim, {TOPIC: set()})
        assert await asyncio.to_thread(self.oldest, admin, settings) == 0

    async def test_nothing_is_deleted_if_a_broker_does_not_list_its_groups(
        self, queue: KafkaQueue, settings: KafkaSettings, admin: AdminClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await queue.declare({TOPIC: (GROUP,)})
        await queue.put(numbered(0, 10))
        await works_off(queue, 10)
        listed = queue._administration._admin.list_consumer_groups().result(10)
        listed.errors.append(KafkaException(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)))
        listed.valid.clear()
        answer: Future[object] = Future()
        answer.set_result(listed)
        # The answer of a broker that is just starting, simulated because it cannot be provoked.
        asked = Mock(wraps=queue._administration._admin, list_consumer_groups=lambda **_: answer)
        monkeypatch.setattr(queue._administration, "_admin", asked)
        with pytest.raises(Unavailable, match="did not delete"):
            await asyncio.to_thread(queue._administration.trim, {TOPIC: {GROUP}})
        assert await asyncio.to_thread(self.oldest, admin, settings) == 0


class TestTopicsThatABrokerDoesNotKnow:
    """For a moment after a topic's creation, some brokers do not know it yet."""

    async def test_depth_and_extent_raise(self, queue: KafkaQueue) -> None:
        # An empty extent would cover itself, and would prove that the new items are lost.
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(Unavailable, match="did not answer a question about nowhere"):
                await queue.extent("nowhere", GROUP)
            with pytest.raises(Unavailable, match="did not answer a question about nowhere"):
                await queue.depths([("nowhere", GROUP)])
