"""The parts that tests of every kind share, as plugins."""

from __future__ import annotations

from importlib.util import find_spec

pytest_plugins = ["support_parts", "support_kafka", "support_sandbox"]
if (
    find_spec("support_postgres")
    and find_spec("tidings.backends.postgres.queue")
    and find_spec("tidings.backends.kafka.queue")
):
    pytest_plugins += ["support_postgres", "support_queues", "support_stores"]
