"""The parts that tests of every kind share, as plugins."""

from __future__ import annotations

from importlib.util import find_spec

pytest_plugins = ["support_parts", "support_postgres", "support_kafka", "support_stores", "support_sandbox"]
if find_spec("tidings.backends.kafka.queue"):
    pytest_plugins += ["support_queues"]
