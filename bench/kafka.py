"""The Kafka broker of the test suite, with a production broker's intervals."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.servers import ROOT

sys.path.append(str(ROOT / "tests"))

from support_kafka import KafkaBroker

__all__ = ["KafkaBroker", "broker"]

_INTERVALS = {
    # Kafka's own defaults: the tests' shorter ones would be paid for by an idle broker.
    "broker.session.timeout.ms": "9000",
    "broker.heartbeat.interval.ms": "2000",
    "group.consumer.min.heartbeat.interval.ms": "5000",
    "group.consumer.heartbeat.interval.ms": "5000",
    "group.consumer.min.session.timeout.ms": "45000",
    "group.consumer.session.timeout.ms": "45000",
}


def broker(folder: Path) -> KafkaBroker:
    """A running broker with its data in `folder`."""
    made = KafkaBroker(folder, _INTERVALS)
    made.start()
    return made
