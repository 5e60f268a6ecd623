"""Look-ups of attempts in the history: whether they are over, and at which step they go on after a wait."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID


class Attempting(Protocol):
    """A part of `History`."""

    async def attempted(self, attempts: Sequence[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
        """Those of these `(delivery id, attempt)` that are over: their result is recorded, or they will not be made."""
        ...

    async def waited(self, attempts: Sequence[tuple[UUID, int]]) -> Mapping[tuple[UUID, int], int]:
        """The step at which each of these `(delivery id, attempt)` goes on after its wait. Others are absent.

        If an attempt has waited several times, its highest step counts. A wait for the next attempt does not count.
        """
        ...

    async def arrived(self, delivery_ids: Collection[UUID]) -> set[UUID]:
        """Those of these deliveries that a receipt reported as delivered, in any attempt, and that did not bounce."""
        ...
