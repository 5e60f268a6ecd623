"""Topics, depths and deletions, through Kafka's administration client. Every call blocks; run it in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from tidings.backends.kafka.progress import Progress
from tidings.backends.kafka.settings import KafkaSettings
from tidings.backends.kafka.topics import ensure
from tidings.model.errors import Unavailable
from tidings.ports.queue import Extent, Subscription

T = TypeVar("T")
_log = structlog.get_logger("tidings.kafka")

_CALL_WITHIN_S = 15.0
"""The most seconds for one request."""
_SETTLING_S = 5.0
"""The most seconds until every broker knows a new topic or a new leader."""
_PAUSE_S = 0.05
_AT_ONCE = 8
"""Groups whose beginning is committed at the same time: each costs several round trips."""
_PASSING = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError._NOENT,  # noqa: SLF001 - the client's own code: no broker says who leads the partition
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
_HAS_MEMBERS = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.REBALANCE_IN_PROGRESS,
}
_LATEST, _EARLIEST = OffsetSpec.latest(), OffsetSpec.earliest()  # type: ignore[no-untyped-call]


class Administration:
    """Creates topics, reads offsets and deletes done items. All calls block."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin = AdminClient(settings.client(_ignored))
        self._askers: dict[str, Consumer] = {}
        self._making = threading.Lock()

    def declare(self, subscriptions: Mapping[str, Sequence[str]]) -> None:
        """Make the topics ready, and commit the beginning of every group that has no offset yet.

        The committed beginning shows other clients that the group exists (`trim`). Later it shows that a group whose
        offsets are missing is not new but has lost them (positions.py).

        Raises:
            SettingsError: a topic cannot be used as it is.
            Unavailable: Kafka does not answer.
        """
        ensure(self._admin, self._settings, subscriptions)
        readings = [(topic, group) for topic, groups in subscriptions.items() for group in groups]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="tidings-kafka-declare") as beside:
            for begun in [beside.submit(self._begin_patiently, topic, group) for topic, group in readings]:
                begun.result()

    def depths(self, queues: Sequence[Subscription]) -> Sequence[int]:
        """For each topic and group the number of items that the group has not done, by its committed offsets."""
        if not queues:
            return []
        names = [(self._settings.topic(topic), self._settings.group_id(topic, group)) for topic, group in queues]
        return self._patiently(partial(self._depths, names), ", ".join(topic for topic, _ in queues))

    def extent(self, topic: str, group: str) -> Extent:
        """How far the topic is filled and done, for each partition, by the group's committed offsets."""
        name, group_id = self._settings.topic(topic), self._settings.group_id(topic, group)
        return self._patiently(partial(self._extent, name, group_id), topic)

    def _patiently(self, ask: Callable[[], T], about: str, patience_s: float = _SETTLING_S) -> T:
        """The result of `ask`. Retries for `patience_s` while leaders or coordinators move."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return ask()
            except (KafkaException, TimeoutError) as error:
                passing = isinstance(error, KafkaException) and error.args[0].code() in _PASSING
                if not passing or time.monotonic() > deadline:
                    raise Unavailable(f"Kafka did not answer a question about {about}: {error}") from error
            time.sleep(_PAUSE_S)

    def trim(self, subscriptions: Mapping[str, Collection[str]]) -> None:
        """Delete the items that every group of their topic has done, including groups that other clients declared.

        A partition for which a group has no offset stays as it is. If not all groups can be listed, nothing is deleted.

        Raises:
            Unavailable: some items may not have been deleted.
        """
        try:
            before = self._readers(subscriptions)
            done = {topic: self._done(topic, groups, before) for topic, groups in subscriptions.items()}
            # A group that was declared meanwhile may need items that the other groups have already done.
            if new := self._readers(subscriptions) - before:
                _log.info("nothing is deleted this time: there are new groups", groups=sorted(new))
                return
            for places in done.values():
                if places:
                    for deleted in self._admin.delete_records(places, request_timeout=_CALL_WITHIN_S).values():
                        deleted.result(_CALL_WITHIN_S)
        except (KafkaException, TimeoutError) as error:
            raise Unavailable(f"Kafka did not delete what is done: {error}") from error

    def _readers(self, topics: Collection[str]) -> frozenset[str]:
        """The cluster's groups that read any of these topics. Raises KafkaException if a broker lists none."""
        listed = self._admin.list_consumer_groups(request_timeout=_CALL_WITHIN_S).result(_CALL_WITHIN_S)
        if listed.errors:
            raise listed.errors[0]
        found = (group.group_id for group in listed.valid)
        return frozenset(group_id for group_id in found if any(self._settings.reads(group_id, one) for one in topics))

    def _done(self, topic: str, groups: Collection[str], listed: Collection[str]) -> list[TopicPartition]:
        """For each partition of the topic, the offset up to which every group is done."""
        if not groups:
            return []
        readers = {self._settings.group_id(topic, group) for group in groups}
        readers |= {group_id for group_id in listed if self._settings.reads(group_id, topic)}
        name = self._settings.topic(topic)
        places = self._partitions([name])[name]
        read = [self._committed(group_id, places) for group_id in sorted(readers)]
        return [
            TopicPartition(place.topic, place.partition, end)
            for place in places
            if all(place.partition in progress for progress in read)
            and (end := min(progress[place.partition].base or 0 for progress in read)) > 0
        ]

    def _begin_patiently(self, topic: str, group: str) -> None:
        begin = partial(self._begin, self._settings.topic(topic), self._settings.group_id(topic, group))
        self._patiently(begin, topic, _CALL_WITHIN_S)

    def _begin(self, name: str, group_id: str) -> None:
        """Commit the beginning of the group in every partition where it has no offset.

        Items that are in the partition already are committed as begun, because a group that lost its offsets may have
        begun them. So are items that arrive meanwhile. A member of the group knows better and overrules this commit.
        """
        places = self._partitions([name])[name]
        known = self._committed(group_id, places)
        missing = [place for place in places if place.partition not in known]
        if not missing:
            return
        low, before = self._offsets(missing, _EARLIEST), self._offsets(missing, _LATEST)
        if not self._commit_beginning(name, group_id, low, before):
            return
        after = self._offsets(missing, _LATEST)
        if moved := {number: end for number, end in after.items() if end != before[number]}:
            self._commit_beginning(name, group_id, {number: low[number] for number in moved}, moved)

    def _commit_beginning(self, name: str, group_id: str, low: Mapping[int, int], high: Mapping[int, int]) -> bool:
        """Commit `low` as the offset and everything up to `high` as begun.

        False if the group has members: they commit the missing offsets themselves.
        """
        beginnings = [
            TopicPartition(name, number, start, metadata=Progress.unknown(start, high[number]).metadata())
            for number, start in low.items()
        ]
        try:
            answers = self._asker(group_id).commit(offsets=beginnings, asynchronous=False) or []
        except KafkaException as error:
            answers, problem = [], error.args[0]
        else:
            problem = None
        problem = problem or next((place.error for place in answers if place.error is not None), None)
        if problem is None:
            return True
        if problem.code() in _HAS_MEMBERS:
            return False
        raise KafkaException(problem)

    def _depths(self, queues: Sequence[tuple[str, str]]) -> list[int]:
        partitions = self._partitions({name for name, _ in queues})
        # In this order: an item that moves on in between counts twice rather than not at all.
        read = [(name, self._committed(group_id, partitions[name])) for name, group_id in queues]
        latest = self._offsets_of([place for places in partitions.values() for place in places], _LATEST)
        unread = [place for name, known in read for place in partitions[name] if place.partition not in known]
        earliest = self._offsets_of(unread, _EARLIEST) if unread else {}
        depths: list[int] = []
        for name, known in read:
            ends = {place.partition: latest[name, place.partition] for place in partitions[name]}
            depths.append(
                sum(
                    known[number].left(end) if number in known else end - earliest[name, number]
                    for number, end in ends.items()
                )
            )
        return depths

    def _partitions(self, names: Collection[str]) -> dict[str, list[TopicPartition]]:
        """The partitions of the topics `names`. Raises KafkaException if the asked broker does not know one yet."""
        answers = self._admin.describe_topics(TopicCollection(list(names)), request_timeout=_CALL_WITHIN_S)
        return {
            name: [TopicPartition(name, one.id) for one in answer.result(_CALL_WITHIN_S).partitions]
            for name, answer in answers.items()
        }

    def _extent(self, name: str, group_id: str) -> Extent:
        places = self._partitions([name])[name]
        latest = self._offsets(places, _LATEST)
        committed = self._committed(group_id, places)
        unread = [place for place in places if place.partition not in committed]
        earliest = self._offsets(unread, _EARLIEST) if unread else {}
        done = {number: earliest[number] if number in earliest else committed[number].base or 0 for number in latest}
        return Extent(
            tuple(end for _, end in sorted(latest.items())), tuple(offset for _, offset in sorted(done.items()))
        )

    def close(self) -> None:
        """Close the clients."""
        with self._making:
            for asker in self._askers.values():
                asker.close()
            self._askers.clear()
        self._admin.__exit__(None, None, None)

    def _offsets(self, places: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        """The offset of each of these partitions of one topic."""
        return {number: offset for (_, number), offset in self._offsets_of(places, spec).items()}

    def _offsets_of(self, places: list[TopicPartition], spec: OffsetSpec) -> dict[tuple[str, int], int]:
        """The offsets of partitions of several topics, by topic and partition."""
        answers = self._admin.list_offsets(dict.fromkeys(places, spec), request_timeout=_CALL_WITHIN_S)
        return {
            (place.topic, place.partition): answer.result(_CALL_WITHIN_S).offset for place, answer in answers.items()
        }

    def _committed(self, group_id: str, places: list[TopicPartition]) -> dict[int, Progress]:
        # Ask through a consumer that never joins, not through the administration client: librdkafka (2.16) aborts the
        # process if the answer to `list_consumer_group_offsets` is that the coordinator has moved or is not ready.
        known = self._asker(group_id).committed(places, timeout=_CALL_WITHIN_S)
        if problem := next((place.error for place in known if place.error is not None), None):
            raise KafkaException(problem)
        return {place.partition: Progress(place.offset, place.metadata or "") for place in known if place.offset >= 0}

    def _asker(self, group_id: str) -> Consumer:
        with self._making:
            asker = self._askers.get(group_id)
            if asker is None:
                settings = self._settings.client(_ignored) | {"group.id": group_id, "enable.auto.commit": False}
                asker = self._askers[group_id] = Consumer(settings)
            return asker


def _ignored(error: KafkaError) -> None:
    """Does nothing: every call raises its own errors."""
