"""What this process has handed to a provider and what history cannot tell yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias
from uuid import UUID

from tidings.ports.clock import Clock

Attempt: TypeAlias = tuple[UUID, int]
"""A delivery's id and the number of its attempt."""


class InHand:
    """The attempts under way, and those whose facts were put less than `remembered` seconds ago (or twice as long).

    A copy that meets its original here is not sent: the original's claim ends in facts, or the original comes back as
    begun, which goes on in any case.
    """

    def __init__(self, clock: Clock, remembered: float) -> None:
        self._clock = clock
        self._remembered = round(remembered * 1000)
        self._under_way: set[Attempt] = set()
        self._ended: set[Attempt] = set()
        self._ended_before: set[Attempt] = set()
        self._turned_at = clock.elapsed()

    def take(self, attempt: Attempt) -> bool:
        """It is about to be handed over; False when it is in hand already."""
        self._forget()
        if attempt in self._under_way or attempt in self._ended or attempt in self._ended_before:
            return False
        self._under_way.add(attempt)
        return True

    def give_back(self, attempts: Iterable[Attempt]) -> None:
        """They were not begun after all."""
        self._under_way.difference_update(attempts)

    def end(self, attempts: Iterable[Attempt]) -> None:
        """What came of them is about to be put."""
        self._forget()
        for attempt in attempts:
            self._under_way.discard(attempt)
            self._ended.add(attempt)

    def _forget(self) -> None:
        now = self._clock.elapsed()
        since = now - self._turned_at
        if since >= self._remembered:
            self._ended_before = self._ended if since < 2 * self._remembered else set()
            self._ended = set()
            self._turned_at = now
