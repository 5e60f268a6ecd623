"""Metrics in the Prometheus text format, counted once per batch.

If several processes on one machine form a system, each keeps its counters in the folder `PROMETHEUS_MULTIPROC_DIR`
(prometheus-client's own variable), and any of them can show the sum.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.metrics import MetricWrapperBase

from tidings.model.vocabulary import State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


_Metric = TypeVar("_Metric", bound=MetricWrapperBase)


class _Children(dict[tuple[str, ...], _Metric]):
    """The children of a metric by their labels. To find one through the metric costs ten times as much as to count."""

    def __init__(self, metric: _Metric) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> _Metric:
        child = self[labels] = self._metric.labels(*labels)
        return child


class Metrics:
    """Counts what the stages and the API do; a Meter for the pipeline."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._items = _Children(
            Counter("tidings_stage_items", "Items that a stage finished", ["stage", "topic"], registry=self._registry)
        )
        self._batches = _Children(
            Histogram(
                "tidings_stage_batch_seconds",
                "Time from claim to done of a batch",
                ["stage", "topic"],
                buckets=_SECONDS,
                registry=self._registry,
            )
        )
        self._failures = Counter(
            "tidings_stage_failures",
            "Batches given back and items set aside",
            ["stage", "topic", "kind"],
            registry=self._registry,
        )
        self._unrecorded = Counter(
            "tidings_facts_unrecorded",
            "Facts that were not recorded: about archived notifications, or with an impossible time (too_old, too_far)",
            ["reason"],
            registry=self._registry,
        )
        self._results = _Children(
            Counter("tidings_provider_results", "Answers of providers", ["provider", "result"], registry=self._registry)
        )
        self._calls = _Children(
            Histogram(
                "tidings_provider_call_seconds",
                "Time of a provider call",
                ["provider"],
                buckets=_SECONDS,
                registry=self._registry,
            )
        )
        self._health = Gauge(
            "tidings_provider_share",
            "Share of its usual traffic that a provider gets: 0 when its circuit breaker is open",
            ["provider"],
            registry=self._registry,
            multiprocess_mode="livemin",
        )
        self._accepted = _Children(
            Counter(
                "tidings_accepted", "Notifications accepted, and requests refused", ["result"], registry=self._registry
            )
        )
        self._add_roles()
        self._add_accounting()
        self._add_canary()
        self._add_retention()
        self._add_depths()

    def _add_roles(self) -> None:
        self._roles = Gauge(
            "tidings_process_role",
            "Processes that run this role (the words of tidings run --role)",
            ["role"],
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def _add_depths(self) -> None:
        self._waiting = Gauge(
            "tidings_queue_items",
            "Items that wait in a queue of the flow, claimed ones included",
            ["topic"],
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )
        self._oldest = Gauge(
            "tidings_queue_oldest_seconds",
            "How long the oldest item in a queue of the flow has waited at least",
            ["topic"],
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )

    def _add_retention(self) -> None:
        self._archived_rows = Counter(
            "tidings_archived_rows", "Rows of the history that went into the archive", registry=self._registry
        )
        self._archived_bytes = Counter(
            "tidings_archived_bytes", "Size of the archive's new objects, in bytes", registry=self._registry
        )
        self._unarchived = Counter(
            "tidings_unarchived_days", "Times that an old day could not be archived yet", registry=self._registry
        )

    def _add_accounting(self) -> None:
        self._looked = Counter(
            "tidings_accounting_notifications",
            "Notifications by their state when the audit looked at them, a minute after they were accepted",
            ["tenant", "state"],
            registry=self._registry,
        )
        self._counted = Counter(
            "tidings_accounting_accepted",
            "Notifications accepted in the minutes that the audit looked at",
            ["tenant"],
            registry=self._registry,
        )
        self._missing = Gauge(
            "tidings_accounting_missing",
            "Accepted notifications that are neither recorded nor in any queue: they are lost",
            ["tenant"],
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )
        self._stuck = Gauge(
            "tidings_stuck",
            "Deliveries behind others in a queue for over a minute (backlog); items put aside as unreadable (aside)",
            ["kind"],
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )
        self._swept = Counter(
            "tidings_swept",
            "Deliveries that were lost on their way and put back into their queue (requeued), or given up (dead)",
            ["result"],
            registry=self._registry,
        )
        self._audited = Gauge(
            "tidings_audit_timestamp_seconds",
            "When the last round of the audit ended, in seconds since the epoch",
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )
        self._missed: set[str] = set()

    def _add_canary(self) -> None:
        self._canary = Histogram(
            "tidings_canary_seconds",
            "Time from sending the canary to its delivery",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._canary_failures = Counter(
            "tidings_canary_failures",
            "Canaries that were not accepted or did not arrive in time",
            registry=self._registry,
        )
        self._canary_arrived = Gauge(
            "tidings_canary_timestamp_seconds",
            "When the last canary arrived, in seconds since the epoch",
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )

    def runs(self, roles: Iterable[str]) -> None:
        """This process runs these roles."""
        for role in roles:
            self._roles.labels(role).set(1)

    def batch(self, stage: str, topic: str, items: int, seconds: float) -> None:
        """See ports/meter.py."""
        self._items[stage, topic].inc(items)
        self._batches[stage, topic].observe(seconds)

    def failure(self, stage: str, topic: str, kind: str) -> None:
        """See ports/meter.py."""
        self._failures.labels(stage, topic, kind).inc()

    def unrecorded(self, reason: str, count: int) -> None:
        """See ports/meter.py."""
        self._unrecorded.labels(reason).inc(count)

    def results(self, provider: str, result: str, count: int, seconds: float) -> None:
        """See ports/meter.py."""
        self._results[provider, result].inc(count)
        self._calls[provider,].observe(seconds)

    def health(self, provider: str, share: float) -> None:
        """See ports/meter.py."""
        self._health.labels(provider).set(share)

    def accepted(self, result: str, count: int = 1) -> None:
        """The API took (`accepted`) or refused (`refused`, `unavailable`) this many."""
        self._accepted[result,].inc(count)

    def looked(self, tenant: str, state: State, count: int) -> None:
        """See ports/meter.py."""
        self._looked.labels(tenant, state.value).inc(count)

    def accepted_in(self, tenant: str, count: int) -> None:
        """See ports/meter.py."""
        self._counted.labels(tenant).inc(count)

    def swept(self, requeued: int, ended: int) -> None:
        """See ports/meter.py."""
        self._swept.labels("requeued").inc(requeued)
        self._swept.labels("dead").inc(ended)

    def found(self, missing: Mapping[str, int], stuck: Mapping[str, int], now: int) -> None:
        """See ports/meter.py."""
        self._missed |= missing.keys()
        for tenant in self._missed:
            self._missing.labels(tenant).set(missing.get(tenant, 0))
        for kind, count in stuck.items():
            self._stuck.labels(kind).set(count)
        self._audited.set(now / 1000)

    def stand_by(self) -> None:
        """See ports/meter.py. If processes show their sum, gauges show the most recent value of any process anyway."""
        if _MULTIPROCESS not in os.environ:
            self._missing.clear()
            self._stuck.clear()

    def waiting(self, looked: Mapping[str, tuple[int, float]] | None) -> None:
        """See ports/meter.py."""
        if looked is None:
            if _MULTIPROCESS not in os.environ:
                self._waiting.clear()
                self._oldest.clear()
            return
        for topic, (count, oldest_s) in looked.items():
            self._waiting.labels(topic).set(count)
            self._oldest.labels(topic).set(oldest_s)

    def archived(self, rows: int, size: int) -> None:
        """See ports/meter.py."""
        self._archived_rows.inc(rows)
        self._archived_bytes.inc(size)

    def unarchived(self, day: str) -> None:
        """See ports/meter.py."""
        self._unarchived.inc()

    def canary(self, seconds: float, now: int) -> None:
        """See ports/meter.py."""
        self._canary.observe(seconds)
        self._canary_arrived.set(now / 1000)

    def canary_failed(self) -> None:
        """See ports/meter.py."""
        self._canary_failures.inc()

    def value(self, name: str, labels: Mapping[str, str]) -> float | None:
        """This process's own value of a series, by its full name; None if there is none."""
        return self._registry.get_sample_value(name, dict(labels))

    def exposition(self) -> bytes:
        """All metrics as text."""
        if _MULTIPROCESS not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]  # no hints in the library
        return generate_latest(together)


def forget_child(pid: int) -> None:
    """`forget` for an ended child of this process, if they share a metrics folder."""
    if _MULTIPROCESS in os.environ:
        forget(Path(os.environ[_MULTIPROCESS]), pid)


def forget(folder: Path, pid: int) -> None:
    """Drop the gauges in `folder` of a process that has ended. Its counters stay in the sums."""
    multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]  # no hints in the library
