"""Turns on the event loop: long work goes in slices, and everybody else comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import TypeVar
from weakref import WeakValueDictionary

from tidings.ports.clock import Clock

T = TypeVar("T")
SLICE = 5
"""Milliseconds of work before the others have their turn."""


def in_turn(items: Sequence[T], owner: Callable[[T], str], had_turn: Callable[[str], int] = lambda _: 0) -> Sequence[T]:
    """The first of each owner, then the second of each, and so on; the owners as they had their last turn."""
    queues: dict[str, list[T]] = {}
    for item in items:
        queues.setdefault(owner(item), []).append(item)
    if len(queues) <= 1:
        return items
    ordered = [queues[name] for name in sorted(queues, key=had_turn)]
    return [item for row in zip_longest(*ordered, fillvalue=None) for item in row if item is not None]


class Turn:
    """The turn of one caller."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.elapsed()

    async def pause(self) -> None:
        """Let everybody else come in between if this has lasted for a slice."""
        if self._clock.elapsed() - self._began >= SLICE:
            await asyncio.sleep(0)
            self._began = self._clock.elapsed()


class Turns:
    """Gives turns by name: of those who work under one name only one works at a time, in the order of their coming.

    So however many they are, nobody else waits for more than a slice of theirs.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[Turn]:
        """The turn of the caller, when it has come."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        async with lock:
            yield Turn(self._clock)
