"""Kafka for the tests: one broker, or with `--brokers 3` a cluster of three with replication 3 and min ISR 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import unique
from support.kafka import KafkaBroker
from support.parts import require


class KafkaCluster:
    """`count` brokers, each also a controller. Every method acts on all of them."""

    def __init__(self, folder: Path, count: int) -> None:
        internal = {
            f"{name}.{setting}": str(value)
            for name in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
            for setting, value in (("replication.factor", count), ("min.isr", max(1, count - 1)))
            if (name, setting) != ("offsets.topic", "min.isr")
        }
        # Notice a dead broker quickly: tests must not wait as long as a production cluster does.
        quick = {
            "min.insync.replicas": str(max(1, count - 1)),
            "replica.lag.time.max.ms": "3000",
            "controller.quorum.election.timeout.ms": "1000",
            "controller.quorum.fetch.timeout.ms": "2000",
        }
        self.brokers = [KafkaBroker(folder / f"broker-{number}", internal | quick) for number in range(count)]
        voters = ",".join(f"{n}@127.0.0.1:{broker.controller_port}" for n, broker in enumerate(self.brokers, 1))
        for node, broker in enumerate(self.brokers, 1):
            broker.node, broker.voters, broker.cluster_id = node, voters, self.brokers[0].cluster_id

    @property
    def bootstrap(self) -> str:
        """The bootstrap string."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    @property
    def replication(self) -> int:
        """The number of brokers that store each item."""
        return len(self.brokers)

    def start(self) -> None:
        """Start all, and return once each answers."""
        for broker in self.brokers:
            broker.launch()
        for broker in self.brokers:
            broker.wait()

    def kill(self) -> None:
        """Kill them, as a power cut does."""
        for broker in self.brokers:
            broker.kill()

    def restart(self) -> None:
        """Kill them and start them again with the same data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze them."""
        for broker in self.brokers:
            broker.pause()

    def resume(self) -> None:
        """End a pause."""
        for broker in self.brokers:
            broker.resume()


def replication_of(bootstrap: str) -> int:
    """The number of replicas for a topic: one on each broker, all of which the bootstrap string names."""
    return bootstrap.count(",") + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--brokers", type=int, default=1, help="how many brokers Kafka has in the tests (1 or 3)")


@pytest.fixture(scope="session")
def broker_count(pytestconfig: pytest.Config) -> int:
    """The number of brokers in the clusters of this run."""
    return int(pytestconfig.getoption("--brokers"))


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory, broker_count: int) -> Iterator[KafkaCluster]:
    """A cluster for the whole run. A test that harms it starts its own."""
    require("kafka")
    cluster = KafkaCluster(tmp_path_factory.mktemp("kafka"), broker_count)
    cluster.start()
    yield cluster
    cluster.kill()


@pytest.fixture
def kafka_broker(kafka_server: KafkaCluster) -> str:
    """The bootstrap string of the run's cluster."""
    return kafka_server.bootstrap


@pytest.fixture
def kafka_prefix() -> str:
    """A prefix for topics and groups that no other test uses."""
    return unique("t") + "."
