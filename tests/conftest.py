"""Profiles of hypothesis, and the support modules with fixtures and options (see tests/README.md)."""

from __future__ import annotations

import structlog
from hypothesis import settings

settings.register_profile("steady", deadline=None)  # the time of an example depends on the machine
settings.register_profile("mutants", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile("steady")

# By default structlog prints a traceback with every local variable, which takes most of a second.
structlog.configure(
    processors=[
        structlog.stdlib.add_log_level,
        structlog.dev.set_exc_info,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

pytest_plugins = [
    "support.parts",
    "support.postgres",
    "support.kafka_cluster",
    "support.kafka_security",
    "support.queues",
    "support.stores",
    "support.sandbox",
    "support.system",
    "support.faults",
    "support.up",
    "support.simulation",
]
