"""Metrics, counted once per batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tidings.model.vocabulary import State


class Meter(Protocol):
    """Metrics of the stages."""

    def batch(self, stage: str, topic: str, items: int, seconds: float) -> None:
        """A stage finished a batch of `items` in `seconds`."""
        ...

    def failure(self, stage: str, topic: str, kind: str) -> None:
        """A batch was released (kind `unavailable`, `lease_lost` or `error`), or an item was set aside (`aside`)."""
        ...

    def unrecorded(self, reason: str, count: int) -> None:
        """`count` outcomes were not recorded because of `reason`: `archived`, `too_old`, `too_far` (History.append)."""
        ...

    def results(self, provider: str, result: str, count: int, seconds: float) -> None:
        """A provider call of `seconds` gave `count` results `result` (`sent`, `retry`, `rejected`, `uncertain`)."""
        ...

    def health(self, provider: str, share: float) -> None:
        """The provider now gets this share of its usual traffic: 0 none (its circuit breaker is open), 1 all."""
        ...


class AuditMeter(Meter, Protocol):
    """Metrics of the audit."""

    def looked(self, tenant: str, state: State, count: int) -> None:
        """`count` of the tenant's notifications were in `state` when the audit looked, a minute after accept."""
        ...

    def accepted_in(self, tenant: str, count: int) -> None:
        """The tenant had `count` notifications accepted in the minute that the audit looked at."""
        ...

    def swept(self, requeued: int, ended: int) -> None:
        """`requeued` lost deliveries went back into their queues, and `ended` became dead letters."""
        ...

    def found(self, missing: Mapping[str, int], stuck: Mapping[str, int], now: int) -> None:
        """At the end of a round: missing notifications by tenant, and stuck ones by kind.

        `now` is in milliseconds since the epoch.
        """
        ...

    def stand_by(self) -> None:
        """Another process makes the rounds and reports their results."""
        ...


class DepthMeter(Meter, Protocol):
    """Metrics of the queues."""

    def waiting(self, looked: Mapping[str, tuple[int, float]] | None) -> None:
        """How many items wait, and how many seconds the oldest has waited at least, by topic.

        None: another process looks.
        """
        ...


class RetentionMeter(Meter, Protocol):
    """Metrics of the retention."""

    def archived(self, rows: int, size: int) -> None:
        """`rows` rows went into the archive, in objects of `size` bytes in total."""
        ...

    def unarchived(self, day: str) -> None:
        """A day is old enough to be archived but cannot be archived yet."""
        ...


class CanaryMeter(Meter, Protocol):
    """Metrics of the canary."""

    def canary(self, seconds: float, now: int) -> None:
        """The canary arrived after `seconds`, at the instant `now` (milliseconds since the epoch)."""
        ...

    def canary_failed(self) -> None:
        """The canary was not accepted, or did not arrive in time."""
        ...
