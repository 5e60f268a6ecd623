"""The Kafka broker of the test suite, with the default intervals of a production broker."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.servers import ROOT

sys.path.append(str(ROOT / "tests"))

from support.kafka import KafkaBroker

__all__ = ["KafkaBroker", "broker"]

_INTERVALS = {
    # Kafka's own defaults: with the tests' shorter intervals an idle broker would use more CPU.
    "broker.session.timeout.ms": "9000",
    "broker.heartbeat.interval.ms": "2000",
    "group.consumer.min.heartbeat.interval.ms": "5000",
    "group.consumer.heartbeat.interval.ms": "5000",
    "group.consumer.min.session.timeout.ms": "45000",
    "group.consumer.session.timeout.ms": "45000",
}


def broker(folder: Path) -> KafkaBroker:
    """Start a broker with its data in `folder`."""
    started = KafkaBroker(folder, _INTERVALS)
    started.start()
    return started
