"""Existing topics, and brokers without the new group protocol: what is corrected, refused or reported."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog.testing
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]
from msgspec import structs

from support import eventually, needs, ticks
from support.kafka import KafkaBroker
from support.kafka_cluster import replication_of
from support.queues import PATIENCE, items_of, take
from tidings.backends.kafka.protocol import CLASSIC, CONSUMER
from tidings.backends.kafka.queue import KafkaQueue
from tidings.backends.kafka.settings import MOST_ITEM_BYTES, KafkaSettings
from tidings.backends.kafka.topics import ensure
from tidings.model.errors import LeaseLost, SettingsError, Unavailable
from tidings.ports.queue import Item

pytestmark = needs("kafka")
GROUP = "readers"
TOPIC = "topic"


@pytest.fixture
def settings(kafka_broker: str, kafka_prefix: str) -> KafkaSettings:
    return KafkaSettings(kafka_broker, partitions=2, prefix=kafka_prefix)


def create(admin: AdminClient, name: str, partitions: int, config: dict[str, str]) -> None:
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(10)


def configuration(admin: AdminClient, name: str) -> dict[str, str]:
    (answer,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name)]).values()
    return {key: entry.value for key, entry in answer.result(10).items()}


class TestTopics:
    async def test_a_new_topic_deletes_nothing_by_itself(
        self, queue: KafkaQueue, settings: KafkaSettings, admin: AdminClient
    ) -> None:
        await queue.declare({TOPIC: (GROUP,)})
        actual = await asyncio.to_thread(configuration, admin, settings.topic(TOPIC))
        assert actual["retention.ms"] == actual["retention.bytes"] == "-1"
        assert actual["cleanup.policy"] == "delete"
        assert actual["unclean.leader.election.enable"] == "false"

    @pytest.mark.parametrize(
        "config",
        [
            {},  # the broker's defaults: seven days of retention
            {"retention.ms": "3600000", "retention.bytes": "1000000"},
            {"cleanup.policy": "compact"},
            {"cleanup.policy": "compact,delete", "unclean.leader.election.enable": "true"},
            {"max.message.bytes": "1000"},
            {"min.insync.replicas": "2"},  # with one replica nothing could be put
        ],
    )
    async def test_a_topic_that_would_lose_items_is_corrected(
        self, queue: KafkaQueue, settings: KafkaSettings, admin: AdminClient, config: dict[str, str]
    ) -> None:
        await asyncio.to_thread(create, admin, settings.topic(TOPIC), 2, config)
        with structlog.testing.capture_logs() as logged:
            await queue.declare({TOPIC: (GROUP,)})
        assert [line["topic"] for line in logged if "set right" in line["event"]] == [settings.topic(TOPIC)]

        async def right() -> bool:
            actual = await asyncio.to_thread(configuration, admin, settings.topic(TOPIC))
            return (
                actual["retention.ms"] == actual["retention.bytes"] == "-1"
                and actual["cleanup.policy"] == "delete"
                and actual["unclean.leader.election.enable"] == "false"
                and int(actual["max.message.bytes"]) == MOST_ITEM_BYTES
                and actual["min.insync.replicas"] == "1"
            )

        await eventually(right, PATIENCE)
        with structlog.testing.capture_logs() as again:
            await queue.declare({TOPIC: (GROUP,)})
        assert not again, "right settings are left alone"

    @pytest.mark.parametrize("listed", [{}, {"partitions": {}}], ids=["not listed", "listed without partitions"])
    async def test_a_topic_of_which_the_asked_broker_has_not_heard_yet_is_corrected(
        self, settings: KafkaSettings, admin: AdminClient, listed: dict[str, Any]
    ) -> None:
        name = settings.topic(TOPIC)
        await asyncio.to_thread(create, admin, name, 2, {"cleanup.policy": "compact"})
        answers = iter([SimpleNamespace(topics={name: SimpleNamespace(**listed)} if listed else {})])

        class Late(AdminClient):
            def list_topics(self, *arguments: Any, **options: Any) -> Any:
                return next(answers, None) or super().list_topics(*arguments, **options)

        late = Late({"bootstrap.servers": settings.brokers})
        with structlog.testing.capture_logs() as logged:
            await asyncio.to_thread(ensure, late, settings, [TOPIC])
        assert [line["topic"] for line in logged if "set right" in line["event"]] == [name]

    async def test_more_than_is_needed_is_left_alone(
        self, queue: KafkaQueue, settings: KafkaSettings, admin: AdminClient
    ) -> None:
        await queue.declare({TOPIC: (GROUP,)})
        name = settings.topic("other")
        large = str(2 * MOST_ITEM_BYTES)
        config = await asyncio.to_thread(configuration, admin, settings.topic(TOPIC))
        kept = {key: config[key] for key in ("retention.ms", "retention.bytes", "cleanup.policy")}
        await asyncio.to_thread(create, admin, name, 5, {**kept, "max.message.bytes": large})
        with structlog.testing.capture_logs() as logged:
            await queue.declare({"other": (GROUP,)})
        actual = await asyncio.to_thread(configuration, admin, name)
        assert actual["max.message.bytes"] == large
        assert not [line for line in logged if "partitions" in line]

    async def test_too_few_partitions_are_reported_and_left(
        self, queue: KafkaQueue, settings: KafkaSettings, admin: AdminClient
    ) -> None:
        name = settings.topic(TOPIC)
        await asyncio.to_thread(create, admin, name, 1, {})
        with structlog.testing.capture_logs() as logged:
            await queue.declare({TOPIC: (GROUP,)})
        (report,) = [line for line in logged if "partitions" in line]
        assert report["command"].endswith(f"--alter --topic {name} --partitions 2")
        assert len(admin.list_topics(name, timeout=10).topics[name].partitions) == 1, "keys would move"

    async def test_too_few_replicas_are_refused(self, queue: KafkaQueue, settings: KafkaSettings) -> None:
        await queue.declare({TOPIC: (GROUP,)})
        too_many = replication_of(settings.brokers) + 2
        stricter = await KafkaQueue.open_with(structs.replace(settings, replication=too_many))
        few = rf"has 1 replicas, fewer than queue\.replication = {too_many}: add some"
        command = rf"refuses to create (?s:.*)--replication-factor {too_many} .*insync.replicas={too_many - 1}"
        try:
            with pytest.raises(SettingsError, match=few):
                await stricter.declare({TOPIC: (GROUP,)})
            with pytest.raises(SettingsError, match=command):
                await stricter.declare({"new": (GROUP,)})
        finally:
            await stricter.close()


@pytest.fixture(scope="module")
def classic_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker with the `consumer` protocol switched off."""
    broker = KafkaBroker(
        tmp_path_factory.mktemp("kafka-classic"),
        {"group.coordinator.rebalance.protocols": "classic", "group.min.session.timeout.ms": "1000"},
    )
    broker.start()
    yield broker
    broker.kill()


class TestGroupProtocol:
    async def test_the_classic_one_is_used_where_the_broker_knows_no_other(
        self, classic_server: KafkaBroker, kafka_prefix: str
    ) -> None:
        settings = KafkaSettings(classic_server.bootstrap, partitions=4, prefix=kafka_prefix)
        first, second = await KafkaQueue.open_with(settings), await KafkaQueue.open_with(settings)
        try:
            with structlog.testing.capture_logs() as logged:
                await first.declare({TOPIC: (GROUP,), "other": (GROUP,)})
                await first.put([Item(topic, "k", b"x") for topic in (TOPIC, "other")])
                for topic in (TOPIC, "other"):
                    for claim in await take(first, topic, GROUP, 1, lease_s=30.0):
                        await claim.done()
            assert first._protocol.name == CLASSIC
            assert len([line for line in logged if "the classic one is used" in line["event"]]) == 1
            await expect_shared_work(first, second, 400)
        finally:
            await first.close()
            await second.close()

    async def test_it_can_be_demanded(self, classic_server: KafkaBroker, settings: KafkaSettings) -> None:
        there = structs.replace(settings, brokers=classic_server.bootstrap, group_protocol=CONSUMER)
        queue = await KafkaQueue.open_with(there)
        try:
            await queue.declare({TOPIC: (GROUP,)})
            await queue.put([Item(TOPIC, "k", b"x")])
            with pytest.raises(Unavailable, match="does not serve"):
                assert await queue.claim(TOPIC, GROUP, 1, 3.0)
            assert queue._protocol.name == CONSUMER
        finally:
            await queue.close()

    async def test_members_of_both_protocols_share_a_group(self, settings: KafkaSettings) -> None:
        """The brokers are upgraded under running processes."""
        new = await KafkaQueue.open_with(settings)
        old = await KafkaQueue.open_with(structs.replace(settings, group_protocol=CLASSIC))
        try:
            await new.declare({TOPIC: (GROUP,)})
            await expect_shared_work(old, new, 400)
        finally:
            await new.close()
            await old.close()

    def test_an_unknown_protocol_is_refused(self, settings: KafkaSettings) -> None:
        with pytest.raises(SettingsError, match="it may be auto, consumer, classic"):
            KafkaQueue(structs.replace(settings, group_protocol="modern"))


async def expect_shared_work(first: KafkaQueue, second: KafkaQueue, count: int) -> None:
    """One client starts, another joins and leaves again; every item is done.

    Some may be done twice: claims that ended just before a partition moved may not be committed. Nothing is begun here.
    A client that the broker refuses for a moment, as while a group changes its protocol, asks again, like a worker.
    """
    closed: set[KafkaQueue] = set()
    finished: set[int] = set()  # counts each item once, however often it was done

    async def work(queue: KafkaQueue, wanted: int) -> None:
        async for _ in ticks(0.01):
            if len(finished) >= wanted or queue in closed:
                return
            try:
                claim = await queue.claim(TOPIC, GROUP, 10, 0.2, 30.0)
            except Unavailable:
                continue
            if claim is None:
                continue
            try:
                await claim.done()
            except LeaseLost:
                continue
            finished.update(int(item.body) for item in items_of([claim]))

    await first.put([Item(TOPIC, f"key-{number % 50}", b"%d" % number) for number in range(count)])
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(work(first, count))
        group.create_task(work(second, count // 2))
        await eventually(lambda: len(finished) >= count // 2, 60)
        closed.add(second)
        await second.close()
    assert finished == set(range(count))
