"""The settings of Kafka's clients. The names in the dictionaries are librdkafka's (its CONFIGURATION.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError
from msgspec import Struct

from tidings.backends.kafka.protocol import AUTO, CLASSIC
from tidings.backends.kafka.security import Security

MOST_ITEM_BYTES = 8 * 1024 * 1024
"""The most bytes of an item, with key and headers."""

_CLASSIC_GROUP = {
    # A rebalance does not interrupt partitions that stay with their member.
    "partition.assignment.strategy": "cooperative-sticky",
    # The time until a dead client is noticed. With the consumer protocol the broker decides it.
    "session.timeout.ms": 15_000,
    "heartbeat.interval.ms": 3_000,
}

_logger = logging.getLogger("tidings.kafka")


class KafkaSettings(Struct, frozen=True):
    """The settings of the queue on Kafka.

    - `brokers`: `host:port,host:port`.
    - `prefix`: the start of every topic's and group's name, so that several installations can share a cluster.
    - `linger_s`: how long the producer waits for more items before it sends.
    - `delivery_timeout_s`: the longest time for a put.
    - `commit_interval_s`: the longest time until done items are committed.
    - `drain_s`: how long a partition that moves to another client is held back, for the claims over it to end.
    - `trim_interval_s`: the time between two deletions of items that every group has done.
    - `group_protocol`: one of AUTO, CONSUMER, CLASSIC.
    """

    brokers: str
    partitions: int = 8
    replication: int = 1
    prefix: str = ""
    linger_s: float = 0.002
    delivery_timeout_s: float = 10.0
    commit_interval_s: float = 0.1
    drain_s: float = 5.0
    trim_interval_s: float = 600.0
    security: Security = Security()
    group_protocol: str = AUTO

    @property
    def min_insync(self) -> int:
        """The number of replicas that must have an item before it counts as put: all but one, so that one may fail."""
        return max(1, self.replication - 1)

    def group_id(self, topic: str, group: str) -> str:
        """Kafka's name for the group: one for each topic, so that a rebalance of one topic leaves the others alone.

        Raises:
            ValueError: the group's name has a dot.
        """
        if "." in group:
            raise ValueError(f"the name of a group must not have a dot: {group!r}")
        return f"{self.prefix}{group}.{topic}"

    def reads(self, group_id: str, topic: str) -> bool:
        """True if a group with this Kafka name reads the topic."""
        group = group_id.removeprefix(self.prefix).removesuffix(f".{topic}")
        return "." not in group and group_id == self.group_id(topic, group)

    def topic(self, topic: str) -> str:
        """Kafka's name for the topic."""
        return self.prefix + topic

    def client(self, on_error: Callable[[KafkaError], None]) -> dict[str, Any]:
        """The settings of every client.

        Raises:
            SettingsError: the security settings cannot be used.
        """
        return self.security.client(self.brokers) | {
            "bootstrap.servers": self.brokers,
            "client.id": "tidings",
            "error_cb": on_error,
            # Errors that matter come through `error_cb` and the calls; the others repeat at each attempt to connect.
            "log_level": 2,
            "logger": _logger,
            "reconnect.backoff.max.ms": 1000,
            "socket.connection.setup.timeout.ms": 5000,
            "socket.keepalive.enable": True,
        }

    def producer(self, on_error: Callable[[KafkaError], None]) -> dict[str, Any]:
        """The settings of the producer: acknowledged by all in-sync replicas, in order, no doubles on retries."""
        return self.client(on_error) | {
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "linger.ms": self.linger_s * 1000,
            "message.timeout.ms": round(self.delivery_timeout_s * 1000),
            "request.timeout.ms": min(5000, round(self.delivery_timeout_s * 1000)),
            "message.max.bytes": MOST_ITEM_BYTES,
            "queue.buffering.max.messages": 500_000,
        }

    def consumer(
        self,
        topic: str,
        group: str,
        protocol: str,
        on_error: Callable[[KafkaError], None],
        on_commit: Callable[[KafkaError | None, list[Any]], object],
    ) -> dict[str, Any]:
        """The settings of a consumer: it commits only the ledger's offsets, and bounds its memory for fetched items."""
        return self.client(on_error) | {
            "group.id": self.group_id(topic, group),
            "group.protocol": protocol,
            **(_CLASSIC_GROUP if protocol == CLASSIC else {}),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # The reader sets the offset to start at, and must get an error if the partition does not hold it.
            "auto.offset.reset": "error",
            "on_commit": on_commit,
            # The default pauses a consumer that reads in batches for a second each time its queue is full.
            "fetch.queue.backoff.ms": 5,
            "queued.min.messages": 10_000,
            "queued.max.messages.kbytes": 16_384,
            "fetch.message.max.bytes": MOST_ITEM_BYTES,
            "fetch.max.bytes": 2 * MOST_ITEM_BYTES,
            "receive.message.max.bytes": 4 * MOST_ITEM_BYTES,
        }
