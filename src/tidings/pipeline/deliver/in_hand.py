"""The attempts that this process works on, and those whose facts the history may not have yet."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import TypeAlias
from uuid import UUID

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
    """Drop the item: it is a copy of what is in hand or has gone further."""
    WAIT = auto()
    """Let the copy wait until the history has the original's facts: it may have to go on in the original's place."""


class InHand:
    """The attempts under way, and those that ended less than `remembered_s` to twice `remembered_s` seconds ago.

    A copy may have a higher step than the one in hand, because another process took it further. It waits, and is not
    dropped: the claim of the one in hand may be lost, and then that one neither records anything nor is given back.
    """

    def __init__(self, clock: Clock, remembered_s: float) -> None:
        self._clock = clock
        self._remembered_ms = round(remembered_s * 1000)
        self._under_way: dict[Attempt, int] = {}
        self._ended: dict[Attempt, int] = {}
        self._ended_before: dict[Attempt, int] = {}
        self._turned_at = clock.elapsed()

    def take(self, attempt: Attempt, step: int) -> Turn:
        """Take the attempt in hand unless it is already; what to do with the item, which has this step."""
        self._forget()
        under_way = self._under_way.get(attempt)
        in_hand = self._ended.get(attempt, self._ended_before.get(attempt)) if under_way is None else under_way
        if in_hand is None:
            self._under_way[attempt] = step
            return Turn.GO
        if step == under_way:
            return Turn.GIVE_BACK
        return Turn.WAIT if step > in_hand else Turn.DROP

    def give_back(self, attempts: Iterable[Attempt]) -> None:
        """Forget attempts that were not begun after all."""
        for attempt in attempts:
            self._under_way.pop(attempt, None)

    def end(self, attempts: Iterable[Attempt]) -> None:
        """Note that the facts of these attempts are about to be put."""
        self._forget()
        for attempt in attempts:
            self._ended[attempt] = self._under_way.pop(attempt, 0)

    def _forget(self) -> None:
        now = self._clock.elapsed()
        since = now - self._turned_at
        if since >= self._remembered_ms:
            self._ended_before = self._ended if since < 2 * self._remembered_ms else {}
            self._ended = {}
            self._turned_at = now
