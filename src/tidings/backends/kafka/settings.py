"""How the clients of Kafka are set up. Names of client settings are librdkafka's (its CONFIGURATION.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError
from msgspec import Struct

from tidings.backends.kafka.protocol import AUTO, CLASSIC
from tidings.backends.kafka.security import Security

LARGEST_ITEM = 8 * 1024 * 1024
"""Bytes that an item may have, with key and headers."""

_CLASSIC_GROUP = {
    # Partitions that stay with their member are not touched by a rebalance.
    "partition.assignment.strategy": "cooperative-sticky",
    # A client that died is missed after so long; with the consumer protocol the broker says how long.
    "session.timeout.ms": 15_000,
    "heartbeat.interval.ms": 3_000,
}

_logger = logging.getLogger("tidings.kafka")


class KafkaSettings(Struct, frozen=True):
    """`brokers` is `host:port,host:port`; times are seconds.

    `prefix` stands before every topic and group, so that several installations may share a cluster. `linger` is how
    long the producer waits for company before it sends; `delivery_timeout` bounds a put. Done items are committed after
    `commit_interval` at the latest. A partition that moves to another client is held back for up to `drain`, for the
    claims over it to end. What every group has done is deleted each `trim_interval`.
    `group_protocol` is one of AUTO, CONSUMER, CLASSIC.
    """

    brokers: str
    partitions: int = 8
    replication: int = 1
    prefix: str = ""
    linger: float = 0.002
    delivery_timeout: float = 10.0
    commit_interval: float = 0.1
    drain: float = 5.0
    trim_interval: float = 600.0
    security: Security = Security()
    group_protocol: str = AUTO

    @property
    def min_insync(self) -> int:
        """How many replicas must have an item before it counts as put: all but one, so that one may be away."""
        return max(1, self.replication - 1)

    def group_id(self, topic: str, group: str) -> str:
        """Kafka's name of the group: one for each topic, so that a rebalance of one topic leaves the others alone.

        Raises:
            ValueError: there is a dot in the group's name.
        """
        if "." in group:
            raise ValueError(f"a group's name has no dots: {group!r}")
        return f"{self.prefix}{group}.{topic}"

    def reads(self, group_id: str, topic: str) -> bool:
        """Whether a group of this name reads the topic."""
        group = group_id.removeprefix(self.prefix).removesuffix(f".{topic}")
        return "." not in group and group_id == self.group_id(topic, group)

    def topic(self, topic: str) -> str:
        """Kafka's name of the topic."""
        return self.prefix + topic

    def client(self, on_error: Callable[[KafkaError], None]) -> dict[str, Any]:
        """What every client has.

        Raises:
            SettingsError: the security settings cannot be used.
        """
        return self.security.client(self.brokers) | {
            "bootstrap.servers": self.brokers,
            "client.id": "tidings",
            "error_cb": on_error,
            # What matters comes through `error_cb` and the calls; the rest repeats itself at each try to connect.
            "log_level": 2,
            "logger": _logger,
            "reconnect.backoff.max.ms": 1000,
            "socket.connection.setup.timeout.ms": 5000,
            "socket.keepalive.enable": True,
        }

    def producer(self, on_error: Callable[[KafkaError], None]) -> dict[str, Any]:
        """Durable and in order: acknowledged by all in-sync replicas, numbered so that a retry never doubles."""
        return self.client(on_error) | {
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "linger.ms": self.linger * 1000,
            "message.timeout.ms": round(self.delivery_timeout * 1000),
            "request.timeout.ms": min(5000, round(self.delivery_timeout * 1000)),
            "message.max.bytes": LARGEST_ITEM,
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
        """By hand: nothing is committed but what the ledger says. Memory for what is fetched ahead is bounded."""
        return self.client(on_error) | {
            "group.id": self.group_id(topic, group),
            "group.protocol": protocol,
            **(_CLASSIC_GROUP if protocol == CLASSIC else {}),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # The lane says where to start, and is to be told when there is nothing.
            "auto.offset.reset": "error",
            "on_commit": on_commit,
            # A consumer that reads in batches would otherwise pause for a second each time its queue is full.
            "fetch.queue.backoff.ms": 5,
            "queued.min.messages": 10_000,
            "queued.max.messages.kbytes": 16_384,
            "fetch.message.max.bytes": LARGEST_ITEM,
            "fetch.max.bytes": 2 * LARGEST_ITEM,
            "receive.message.max.bytes": 4 * LARGEST_ITEM,
        }
