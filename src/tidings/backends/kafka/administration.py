"""Topics and depths: what goes through Kafka's administration, in a thread beside the event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from tidings.backends.kafka.progress import Progress
from tidings.backends.kafka.settings import LARGEST_ITEM, KafkaSettings
from tidings.model.errors import Unavailable
from tidings.ports.queue import Extent

T = TypeVar("T")

_CALL = 15.0
"""Seconds that one request may take."""
_SEGMENT = 128 * 1024 * 1024
"""Bytes: Kafka deletes whole segments."""
_SETTLING = 5.0
"""Seconds that a new topic, or a new leader, may take until every broker knows of it."""
_PAUSE = 0.05
_PASSING = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
_LATEST, _EARLIEST = OffsetSpec.latest(), OffsetSpec.earliest()  # type: ignore[no-untyped-call]


class Administration:
    """Blocking calls."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin = AdminClient(settings.client(_ignored))
        self._askers: dict[str, Consumer] = {}
        self._making = threading.Lock()

    def declare(self, topics: Iterable[str]) -> None:
        """Create the topics that are missing. Age deletes nothing from them: `trim` does."""
        settings = self._settings
        config = {
            "max.message.bytes": str(LARGEST_ITEM),
            "min.insync.replicas": str(max(1, settings.replication - 1)),
            "retention.ms": "-1",
            "segment.bytes": str(_SEGMENT),
        }
        wanted = [
            NewTopic(
                settings.topic(topic),
                num_partitions=settings.partitions,
                replication_factor=settings.replication,
                config=config,
            )
            for topic in topics
        ]
        if not wanted:
            return
        try:
            for topic, created in self._admin.create_topics(wanted, request_timeout=_CALL).items():
                _created(topic, created.exception(_CALL))
        except (KafkaException, TimeoutError) as error:
            raise Unavailable(f"Kafka did not create the topics: {error}") from error

    def depth(self, topic: str, group: str) -> int:
        """How many items of the topic the group has not done, by what it has committed."""
        return self._patiently(self._depth, topic, group)

    def extent(self, topic: str, group: str) -> Extent:
        """How far the topic is filled and the group has come, by partition, by what it has committed."""
        return self._patiently(self._extent, topic, group)

    def _patiently(self, ask: Callable[[str, str], T], topic: str, group: str) -> T:
        """What `ask` gives about a topic and a group; a cluster in motion is given a moment."""
        deadline = time.monotonic() + _SETTLING
        while True:
            try:
                return ask(self._settings.topic(topic), self._settings.group_id(topic, group))
            except (KafkaException, TimeoutError) as error:
                passing = isinstance(error, KafkaException) and error.args[0].code() in _PASSING
                if not passing or time.monotonic() > deadline:
                    raise Unavailable(f"Kafka did not tell how far {topic} is: {error}") from error
            time.sleep(_PAUSE)

    def trim(self, topics: Iterable[str]) -> None:
        """Delete what every group of a topic has done. A partition that a group has not begun to read stays as it is.

        Raises:
            Unavailable: some of it, perhaps, was not deleted.
        """
        try:
            listed = self._admin.list_consumer_groups(request_timeout=_CALL).result(_CALL)
            known = [group.group_id for group in listed.valid]
            for topic in topics:
                groups = [group_id for group_id in known if self._settings.reads(group_id, topic)]
                self._trim(self._settings.topic(topic), groups)
        except (KafkaException, TimeoutError) as error:
            raise Unavailable(f"Kafka did not delete what is done: {error}") from error

    def _trim(self, name: str, groups: list[str]) -> None:
        partitions = self._admin.list_topics(name, timeout=_CALL).topics[name].partitions
        places = [TopicPartition(name, number) for number in partitions]
        read = [self._committed(group_id, places) for group_id in groups]
        done = [
            TopicPartition(name, number, min(progress[number].base or 0 for progress in read))
            for number in partitions
            if read and all(number in progress for progress in read)
        ]
        if done:
            for deleted in self._admin.delete_records(done, request_timeout=_CALL).values():
                deleted.result(_CALL)

    def _depth(self, name: str, group_id: str) -> int:
        partitions = self._admin.list_topics(name, timeout=_CALL).topics[name].partitions
        places = [TopicPartition(name, number) for number in partitions]
        latest = self._offsets(places, _LATEST)
        committed = self._committed(group_id, places)
        unread = [place for place in places if place.partition not in committed]
        earliest = self._offsets(unread, _EARLIEST) if unread else {}
        return sum(
            end - earliest[number] if number in earliest else committed[number].left(end)
            for number, end in latest.items()
        )

    def _extent(self, name: str, group_id: str) -> Extent:
        partitions = self._admin.list_topics(name, timeout=_CALL).topics[name].partitions
        places = [TopicPartition(name, number) for number in partitions]
        latest = self._offsets(places, _LATEST)
        committed = self._committed(group_id, places)
        unread = [place for place in places if place.partition not in committed]
        earliest = self._offsets(unread, _EARLIEST) if unread else {}
        done = {number: earliest[number] if number in earliest else committed[number].base or 0 for number in latest}
        return Extent(
            tuple(end for _, end in sorted(latest.items())), tuple(offset for _, offset in sorted(done.items()))
        )

    def close(self) -> None:
        """End the clients' threads."""
        with self._making:
            for asker in self._askers.values():
                asker.close()
            self._askers.clear()
        self._admin.__exit__(None, None, None)

    def _offsets(self, places: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        answers = self._admin.list_offsets(dict.fromkeys(places, spec), request_timeout=_CALL)
        return {place.partition: answer.result(_CALL).offset for place, answer in answers.items()}

    def _committed(self, group_id: str, places: list[TopicPartition]) -> dict[int, Progress]:
        # A consumer that never joins asks, and not the administration: librdkafka (2.16) ends the process when the
        # answer to `list_consumer_group_offsets` is that the coordinator is another one, or not ready.
        known = self._asker(group_id).committed(places, timeout=_CALL)
        return {place.partition: Progress(place.offset, place.metadata or "") for place in known if place.offset >= 0}

    def _asker(self, group_id: str) -> Consumer:
        with self._making:
            asker = self._askers.get(group_id)
            if asker is None:
                settings = self._settings.client(_ignored) | {"group.id": group_id, "enable.auto.commit": False}
                asker = self._askers[group_id] = Consumer(settings)
            return asker


def _created(topic: str, error: BaseException | None) -> None:
    if error is None:
        return
    if isinstance(error, KafkaException) and error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
        return
    raise Unavailable(f"Kafka did not create the topic {topic}: {error}") from error


def _ignored(error: KafkaError) -> None:
    """Every call says itself what went wrong."""
