"""The attempts that this process works on, and those whose facts the history may not have yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias
from uuid import UUID

from tidings.ports.clock import Clock

Attempt: TypeAlias = tuple[UUID, int]
"""A delivery's id and the number of its attempt."""


class InHand:
    """The attempts under way, and those that ended less than `remembered_s` to twice `remembered_s` seconds ago.

    A copy whose original is in here is dropped: either the original's facts get recorded, or its claim gives it back.
    An item that comes back while the claim that lost it still works on it is no copy (`is_itself`): it waits, and is
    not dropped.

    A dropped copy may have a higher step than its original. Then the original goes on from the copy's step (`step_of`).
    With its own step, its next wait could be the very fact that led to the copy: that fact is recorded already, so
    nothing would put the delivery back.
    """

    def __init__(self, clock: Clock, remembered_s: float) -> None:
        self._clock = clock
        self._remembered_ms = round(remembered_s * 1000)
        self._under_way: dict[Attempt, int] = {}
        self._furthest: dict[Attempt, int] = {}
        self._ended: set[Attempt] = set()
        self._ended_before: set[Attempt] = set()
        self._turned_at = clock.elapsed()

    def take(self, attempt: Attempt, step: int) -> bool:
        """Note that an attempt is about to be handed over; False if it is in here already."""
        self._forget()
        if attempt in self._under_way:
            self._furthest[attempt] = max(step, self._furthest.get(attempt, 0))
            return False
        if attempt in self._ended or attempt in self._ended_before:
            return False
        self._under_way[attempt] = step
        return True

    def is_itself(self, attempt: Attempt, step: int) -> bool:
        """Whether the attempt under way is this very item, claimed earlier, and no copy of it."""
        return self._under_way.get(attempt) == step

    def step_of(self, attempt: Attempt, step: int) -> int:
        """The step from which the attempt under way goes on: its own `step`, or the higher one of a dropped copy."""
        return max(step, self._furthest.get(attempt, 0))

    def give_back(self, attempts: Iterable[Attempt]) -> None:
        """Forget attempts that were not begun after all."""
        for attempt in attempts:
            self._under_way.pop(attempt, None)
            self._furthest.pop(attempt, None)

    def end(self, attempts: Iterable[Attempt]) -> None:
        """Note that the facts of these attempts are about to be put."""
        self._forget()
        for attempt in attempts:
            self._under_way.pop(attempt, None)
            self._furthest.pop(attempt, None)
            self._ended.add(attempt)

    def _forget(self) -> None:
        now = self._clock.elapsed()
        since = now - self._turned_at
        if since >= self._remembered_ms:
            self._ended_before = self._ended if since < 2 * self._remembered_ms else set()
            self._ended = set()
            self._turned_at = now
