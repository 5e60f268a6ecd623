"""The parts that tests of every kind share, as plugins."""

from __future__ import annotations

pytest_plugins = [
    "support_parts",
    "support_postgres",
    "support_kafka_cluster",
    "support_kafka_security",
    "support_queues",
    "support_stores",
    "support_sandbox",
    "support_system",
    "support_faults",
    "support_up",
    "support_simulation",
]
