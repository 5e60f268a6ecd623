"""Finds the offset at which a group continues in a partition, also if its committed offset is missing or wrong.

`Administration.declare` commits the beginning of every new group, so a missing offset means that it was lost. If a
partition has no offset, or one that another tool has set, its present items may have been begun before, and come marked
`redelivered`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tidings.backends.kafka.progress import Progress

_CALL_WITHIN_S = 5.0
_log = structlog.get_logger("tidings.kafka")

LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION}  # noqa: SLF001 - the client's own codes
"""The errors of a consumer for a partition that does not hold the offset at which it should be read."""


def committed(consumer: Consumer, places: Sequence[TopicPartition]) -> Iterator[tuple[int, Progress, bool]]:
    """For each partition its number, its progress, and whether that progress must still be committed (blocks).

    Raises:
        KafkaException: the offsets of some partitions cannot be read now.
    """
    for place in consumer.committed(list(places), timeout=_CALL_WITHIN_S):
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
                "a partition has no offset that Tidings committed for the group: its items come marked as redelivered",
                topic=place.topic, partition=place.partition, first=low, end=high,
            )  # fmt: skip
        yield place.partition, Progress.unknown(low, high), True


def found_again(
    consumer: Consumer, place: TopicPartition, progress: Progress, code: int
) -> tuple[int, Progress | None]:
    """The offset at which to continue in a partition that does not hold the next offset (blocks).

    Also returns the partition's new progress if its log was cut, else None.

    Raises:
        KafkaException: the partition's offsets cannot be read now.
    """
    low, high = _ends(consumer, place)
    wanted = progress.next if progress.next is not None else low
    where = {"topic": place.topic, "partition": place.partition, "wanted": wanted, "first": low, "end": high}
    if wanted > high or code == KafkaError._LOG_TRUNCATION:  # noqa: SLF001
        _log.error(
            "the log of a partition was cut: its items come marked as redelivered, the cut ones are lost", **where
        )
        return low, Progress.unknown(low, high)
    if wanted < low:
        _log.error("items were deleted before they were read: find out what deletes from this topic", **where)
        return low, None
    return wanted, None


def _ends(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """The partition's first offset, and the offset after its last."""
    ends = consumer.get_watermark_offsets(TopicPartition(place.topic, place.partition), timeout=_CALL_WITHIN_S)
    if ends is None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
    return ends
