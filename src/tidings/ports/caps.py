"""Counting what passes under caps, for all processes together.

Promises, checked on every adapter by tests/conformance/test_caps.py:

- However many processes take at once, what passes in a scope never exceeds the caps that were asked with.
- An id that comes again is counted once, from then on: while it counts it passes, later where there is room.
- A request passes in all of its counts or is counted in none.
- What passed is durable when `take` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tidings.policy.caps import Count, Over


class Caps(Protocol):
    """The counts of all scopes."""

    async def take(self, requests: Sequence[Sequence[Count]], now: int) -> Sequence[Over | None]:
        """Let each request pass (None) or say which of its counts is over. Judged in order, by policy/caps.py.

        Raises:
            Unavailable: it is not known whether they count; asking again with the same ids is harmless.
        """
        ...

    async def sweep(self, now: int) -> int:
        """Forget the scopes in which nothing counts any more; how many."""
        ...
