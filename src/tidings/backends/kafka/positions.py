"""Where a group goes on in a partition: after what it has committed, or where nothing (true) is known of that.

A new group is not told from one whose offsets are lost by their absence: `Administration.declare` commits the beginning
of every new group. So where a partition has no offset, or one that another tool has set, the items that are in it now
may have been begun before, and come out marked `redelivered`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tidings.backends.kafka.progress import Progress

_CALL = 5.0
_log = structlog.get_logger("tidings.kafka")

LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION}  # noqa: SLF001 - the client's own codes
"""What a consumer says of a partition that does not hold the offset at which it is to be read."""


def committed(consumer: Consumer, places: Sequence[TopicPartition]) -> Iterator[tuple[int, Progress, bool]]:
    """Each partition's number and progress, and whether that is still to be committed (blocks).

    Raises:
        KafkaException: not all of them are to be had now.
    """
    for place in consumer.committed(list(places), timeout=_CALL):
        if place.error is not None:
            raise KafkaException(place.error)
        text = place.metadata or ""
        if place.offset >= 0 and Progress.wrote(text):
            yield place.partition, Progress(place.offset, text), False
            continue
        low, high = _ends(consumer, place)
        low = min(max(low, place.offset), high)
        if low < high:
            _log.warning(
                "a partition has no offset that Tidings committed for the group: what is in it comes marked",
                topic=place.topic, partition=place.partition, first=low, end=high,
            )  # fmt: skip
        yield place.partition, Progress.unknown(low, high), True


def found_again(
    consumer: Consumer, place: TopicPartition, progress: Progress, code: int
) -> tuple[int, Progress | None]:
    """Where to go on in a partition that does not hold the next offset (blocks); its progress, when its log was cut.

    Raises:
        KafkaException: that is not to be had now.
    """
    low, high = _ends(consumer, place)
    wanted = progress.next if progress.next is not None else low
    where = {"topic": place.topic, "partition": place.partition, "wanted": wanted, "first": low, "end": high}
    if wanted > high or code == KafkaError._LOG_TRUNCATION:  # noqa: SLF001
        _log.error("the log of a partition was cut: what is in it comes marked, what was cut is lost", **where)
        return low, Progress.unknown(low, high)
    if wanted < low:
        _log.error("items were deleted before they were read: who or what deletes from this topic?", **where)
        return low, None
    return wanted, None


def _ends(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """The partition's first offset, and the one after its last."""
    ends = consumer.get_watermark_offsets(TopicPartition(place.topic, place.partition), timeout=_CALL)
    if ends is None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
    return ends
