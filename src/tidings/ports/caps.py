"""Counts what passes under caps, for all processes together.

Promises, checked on every adapter by tests/conformance/test_caps.py:

- However many processes call `take` at once, no more passes in a scope than the caps of the requests allow.
- An id that is taken again counts once, as of the latest instant: it passes while it still counts, and later if there
  is room.
- A request passes in all of its counts, or it is counted in none.
- When `take` returns, the new counts are durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tidings.policy.caps import Count, Over


class Caps(Protocol):
    """The counts of all scopes."""

    async def take(self, requests: Sequence[Sequence[Count]], now: int) -> Sequence[Over | None]:
        """For each request None if it passes, else the count that is over its cap.

        policy/caps.py judges the requests, in order. `now` is in milliseconds since the epoch.

        Raises:
            Unavailable: the requests may or may not be counted. Calling again with the same ids is harmless.
        """
        ...

    async def prune(self, now: int) -> int:
        """Delete the scopes in which nothing counts any more; returns how many."""
        ...
