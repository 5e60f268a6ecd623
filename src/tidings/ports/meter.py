"""Counting, once per batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tidings.model.vocabulary import State


class Meter(Protocol):
    """What the stages tell about their work."""

    def batch(self, stage: str, topic: str, items: int, seconds: float) -> None:
        """A stage finished a batch of `items` in `seconds`."""
        ...

    def failure(self, stage: str, topic: str, kind: str) -> None:
        """A batch was given back (`unavailable`, `lease_lost`, `error`), or an item set `aside`."""
        ...

    def unrecorded(self, reason: str, count: int) -> None:
        """So many facts were not recorded: `archived`, `too_old` or `too_far` (see History.append)."""
        ...

    def results(self, provider: str, result: str, count: int, seconds: float) -> None:
        """A provider call of `seconds` gave `count` results of this kind (`sent`, `retry`, `rejected`, `uncertain`)."""
        ...

    def health(self, provider: str, share: float) -> None:
        """The provider gets this share of its usual traffic now: 0 is none (its breaker is open), 1 is all."""
        ...


class AuditMeter(Meter, Protocol):
    """What the audit tells."""

    def looked(self, tenant: str, state: State, count: int) -> None:
        """So many of the tenant's notifications were in this state when they were looked at, a minute after accept."""
        ...

    def accepted_in(self, tenant: str, count: int) -> None:
        """So many had been accepted in the minute that was looked at."""
        ...

    def swept(self, requeued: int, ended: int) -> None:
        """So many were lost and went back into their queues, so many ended as dead letters."""
        ...

    def found(self, missing: Mapping[str, int], stuck: Mapping[str, int], now: int) -> None:
        """At the end of a round: what is missing, by tenant, and how many are stuck, by kind."""
        ...

    def stand_by(self) -> None:
        """Another process makes the rounds and knows what is found."""
        ...


class DepthMeter(Meter, Protocol):
    """What waits in the queues."""

    def waiting(self, depths: Mapping[str, int] | None) -> None:
        """So many items wait, by topic. None: another process counts them."""
        ...


class RetentionMeter(Meter, Protocol):
    """What the retention tells."""

    def archived(self, rows: int, size: int) -> None:
        """So many rows went into the archive, in objects of `size` bytes together."""
        ...

    def unarchived(self, day: str) -> None:
        """A day that is old enough cannot be archived yet."""
        ...


class CanaryMeter(Meter, Protocol):
    """What the canary tells."""

    def canary(self, seconds: float, now: int) -> None:
        """It arrived after so many seconds, at the instant `now` (milliseconds since the epoch)."""
        ...

    def canary_failed(self) -> None:
        """It was not accepted, or did not arrive in time."""
        ...
