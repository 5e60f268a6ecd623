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

    A copy that meets its original here is dropped: the original's claim ends in facts, or the original comes back. Two
    kinds are not dropped but wait: the same item, come back while the claim that lost it is not through with it; and a
    copy with a further step, because the wait of the one in hand may be the fact that led to this step, and would then
    be recorded once and lead nowhere.
    """

    def __init__(self, clock: Clock, remembered: float) -> None:
        self._clock = clock
        self._remembered = round(remembered * 1000)
        self._under_way: dict[Attempt, int] = {}
        self._ended: dict[Attempt, int] = {}
        self._ended_before: dict[Attempt, int] = {}
        self._turned_at = clock.elapsed()

    def take(self, attempt: Attempt, step: int) -> bool:
        """It is about to be handed over; False when it is in hand already."""
        self._forget()
        if attempt in self._under_way or attempt in self._ended or attempt in self._ended_before:
            return False
        self._under_way[attempt] = step
        return True

    def makes_wait(self, attempt: Attempt, step: int) -> bool:
        """Whether an item that could not be taken has to come back later, rather than be dropped."""
        under_way = self._under_way.get(attempt)
        if under_way is not None:
            return under_way <= step
        return self._ended.get(attempt, self._ended_before.get(attempt, step)) < step

    def give_back(self, attempts: Iterable[Attempt]) -> None:
        """They were not begun after all."""
        for attempt in attempts:
            self._under_way.pop(attempt, None)

    def end(self, attempts: Iterable[Attempt]) -> None:
        """What came of them is about to be put."""
        self._forget()
        for attempt in attempts:
            self._ended[attempt] = self._under_way.pop(attempt, 0)

    def _forget(self) -> None:
        now = self._clock.elapsed()
        since = now - self._turned_at
        if since >= self._remembered:
            self._ended_before = self._ended if since < 2 * self._remembered else {}
            self._ended = {}
            self._turned_at = now
