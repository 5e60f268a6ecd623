"""The attempts that this process works on, and those whose facts the history may not have yet."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct

from tidings.ports.clock import Clock

Attempt: TypeAlias = tuple[UUID, int]
"""A delivery's id and the number of its attempt."""


class Turn(Enum):
    """What to do with an item whose attempt is about to be made."""

    GO = auto()
    """Make the attempt: it is not in hand, and is now."""
    GIVE_BACK = auto()
    """Give the item back to its queue: an earlier claim of this very item is still making the attempt."""
    DROP = auto()
    """Drop the item: it is a copy, and its original goes on in its place."""
    WAIT = auto()
    """Let the copy wait until the history has the original's facts: it may have to go on in the original's place."""


class _Steps(Struct):
    """The step of an attempt under way, and the furthest step that it and its copies have reached."""

    own: int
    furthest: int


class InHand:
    """The attempts under way, and those that ended less than `remembered_s` to twice `remembered_s` seconds ago.

    A copy whose original is in here is dropped: either the original's facts get recorded, or its claim gives it back.

    A copy may have a higher step than its original. With its own step, the original's next wait could be the very fact
    that led to the copy: that fact is recorded already, so nothing would put the delivery back. While the original is
    under way, it therefore goes on from the copy's step (`step_of`). Once it has ended, the copy waits.
    """

    def __init__(self, clock: Clock, remembered_s: float) -> None:
        self._clock = clock
        self._remembered_ms = round(remembered_s * 1000)
        self._under_way: dict[Attempt, _Steps] = {}
        self._ended: dict[Attempt, int] = {}
        self._ended_before: dict[Attempt, int] = {}
        self._turned_at = clock.elapsed()

    def take(self, attempt: Attempt, step: int) -> Turn:
        """Take the attempt in hand unless it is already; what to do with the item, which has this step."""
        self._forget()
        under_way = self._under_way.get(attempt)
        if under_way is not None:
            under_way.furthest = max(step, under_way.furthest)
            return Turn.GIVE_BACK if under_way.own == step else Turn.DROP
        ended = self._ended.get(attempt, self._ended_before.get(attempt))
        if ended is not None:
            return Turn.WAIT if step > ended else Turn.DROP
        self._under_way[attempt] = _Steps(step, step)
        return Turn.GO

    def step_of(self, attempt: Attempt, step: int) -> int:
        """The step from which the attempt under way goes on: its own `step`, or the higher one of a dropped copy."""
        under_way = self._under_way.get(attempt)
        return step if under_way is None else max(step, under_way.furthest)

    def give_back(self, attempts: Iterable[Attempt]) -> None:
        """Forget attempts that were not begun after all."""
        for attempt in attempts:
            self._under_way.pop(attempt, None)

    def end(self, attempts: Iterable[Attempt]) -> None:
        """Note that the facts of these attempts are about to be put."""
        self._forget()
        for attempt in attempts:
            under_way = self._under_way.pop(attempt, None)
            self._ended[attempt] = 0 if under_way is None else under_way.furthest

    def _forget(self) -> None:
        now = self._clock.elapsed()
        since = now - self._turned_at
        if since >= self._remembered_ms:
            self._ended_before = self._ended if since < 2 * self._remembered_ms else {}
            self._ended = {}
            self._turned_at = now
