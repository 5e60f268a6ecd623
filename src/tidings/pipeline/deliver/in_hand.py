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

    A copy that meets its original here is not sent: the original's claim ends in facts, or it comes back. What
    comes back while the claim that lost it is not through with it is no copy, and must not be dropped: it has to wait.

    A dropped copy may have gone further than its original. Then the original goes on from the copy's step: with its own
    step, its next wait could be the very fact that led to the copy, which is recorded once and leads nowhere again.
    """

    def __init__(self, clock: Clock, remembered: float) -> None:
        self._clock = clock
        self._remembered = round(remembered * 1000)
        self._under_way: dict[Attempt, int] = {}
        self._furthest: dict[Attempt, int] = {}
        self._ended: set[Attempt] = set()
        self._ended_before: set[Attempt] = set()
        self._turned_at = clock.elapsed()

    def take(self, attempt: Attempt, step: int) -> bool:
        """It is about to be handed over; False when it is in hand already."""
        self._forget()
        if attempt in self._under_way:
            self._furthest[attempt] = max(step, self._furthest.get(attempt, 0))
            return False
        if attempt in self._ended or attempt in self._ended_before:
            return False
        self._under_way[attempt] = step
        return True

    def is_itself(self, attempt: Attempt, step: int) -> bool:
        """Whether what is under way is the same item, by an earlier claim."""
        return self._under_way.get(attempt) == step

    def step_of(self, attempt: Attempt, step: int) -> int:
        """The step from which what is under way goes on: its own `step`, or that of a copy dropped for it."""
        return max(step, self._furthest.get(attempt, 0))

    def give_back(self, attempts: Iterable[Attempt]) -> None:
        """They were not begun after all."""
        for attempt in attempts:
            self._under_way.pop(attempt, None)
            self._furthest.pop(attempt, None)

    def end(self, attempts: Iterable[Attempt]) -> None:
        """What came of them is about to be put."""
        self._forget()
        for attempt in attempts:
            self._under_way.pop(attempt, None)
            self._furthest.pop(attempt, None)
            self._ended.add(attempt)

    def _forget(self) -> None:
        now = self._clock.elapsed()
        since = now - self._turned_at
        if since >= self._remembered:
            self._ended_before = self._ended if since < 2 * self._remembered else set()
            self._ended = set()
            self._turned_at = now
