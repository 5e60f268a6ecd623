"""Counting, once per batch."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """What the stages tell about their work."""

    def batch(self, stage: str, topic: str, items: int, seconds: float) -> None:
        """A stage finished a batch of `items` in `seconds`."""
        ...

    def failure(self, stage: str, topic: str, kind: str) -> None:
        """A batch was given back (`unavailable`, `lease_lost`, `error`), or an item set `aside`."""
        ...

    def results(self, provider: str, result: str, count: int, seconds: float) -> None:
        """A provider call of `seconds` gave `count` results of this kind (`sent`, `retry`, `rejected`, `uncertain`)."""
        ...

    def health(self, provider: str, share: float) -> None:
        """The provider gets this share of its usual traffic now: 0 is none (its breaker is open), 1 is all."""
        ...
