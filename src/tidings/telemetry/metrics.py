"""Metrics in the Prometheus text format, counted once per batch.

Where several processes make up one system on one machine, `PROMETHEUS_MULTIPROC_DIR` (prometheus-client's own variable)
names a folder in which each keeps its counters, so that any of them can show the sum.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counts what the stages and the API do; a Meter for the pipeline."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._items = Counter(
            "tidings_stage_items", "Items that a stage finished", ["stage", "topic"], registry=self._registry
        )
        self._batches = Histogram(
            "tidings_stage_batch_seconds",
            "Time from claim to done of a batch",
            ["stage", "topic"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._failures = Counter(
            "tidings_stage_failures",
            "Batches given back and items set aside",
            ["stage", "topic", "kind"],
            registry=self._registry,
        )
        self._results = Counter(
            "tidings_provider_results", "Answers of providers", ["provider", "result"], registry=self._registry
        )
        self._calls = Histogram(
            "tidings_provider_call_seconds",
            "Time of a provider call",
            ["provider"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._health = Gauge(
            "tidings_provider_share",
            "Share of its usual traffic that a provider gets: 0 when its circuit breaker is open",
            ["provider"],
            registry=self._registry,
            multiprocess_mode="livemin",
        )
        self._accepted = Counter(
            "tidings_accepted", "Notifications accepted, and requests refused", ["result"], registry=self._registry
        )

        self._accepted_as: dict[str, Counter] = {}

    def batch(self, stage: str, topic: str, items: int, seconds: float) -> None:
        """See ports/meter.py."""
        self._items.labels(stage, topic).inc(items)
        self._batches.labels(stage, topic).observe(seconds)

    def failure(self, stage: str, topic: str, kind: str) -> None:
        """See ports/meter.py."""
        self._failures.labels(stage, topic, kind).inc()

    def results(self, provider: str, result: str, count: int, seconds: float) -> None:
        """See ports/meter.py."""
        self._results.labels(provider, result).inc(count)
        self._calls.labels(provider).observe(seconds)

    def health(self, provider: str, share: float) -> None:
        """See ports/meter.py."""
        self._health.labels(provider).set(share)

    def accepted(self, result: str, count: int = 1) -> None:
        """The API took (`accepted`) or refused (`refused`, `unavailable`) this many."""
        counter = self._accepted_as.get(result)
        if counter is None:  # finding a child by its labels costs ten times the counting
            counter = self._accepted_as[result] = self._accepted.labels(result)
        counter.inc(count)

    def exposition(self) -> bytes:
        """All metrics as text."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]  # no hints in the library
        return generate_latest(together)
