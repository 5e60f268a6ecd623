"""What history tells of attempts: whether one is over, and how far those who wait to make it have come."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID


class Attempting(Protocol):
    """See `History`, whose part this is."""

    async def attempted(self, attempts: Sequence[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
        """Those of `(delivery id, attempt)` that are over: with a recorded result, or not to be made."""
        ...

    async def waited(self, attempts: Sequence[tuple[UUID, int]]) -> Mapping[tuple[UUID, int], int]:
        """For each of `(delivery id, attempt)` that was told to wait: the step with which it goes on after its wait.

        Where it was told so more than once it is the furthest of these steps. A wait for the next attempt is none of
        this one.
        """
        ...

    async def arrived(self, delivery_ids: Collection[UUID]) -> set[UUID]:
        """Those of which a receipt said that they were delivered, whatever the attempt, and that did not come back."""
        ...
