"""Turns on the event loop: long work runs in slices, so that other work runs in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import TypeVar
from weakref import WeakValueDictionary

from tidings.ports.clock import Clock

T = TypeVar("T")
SLICE_MS = 5
"""Milliseconds of work after which other work gets the event loop."""


def in_turn(items: Sequence[T], owner: Callable[[T], str], had_turn: Callable[[str], int] = lambda _: 0) -> Sequence[T]:
    """The first item of each owner, then the second of each, and so on.

    Owners are ordered by `had_turn`, lowest first.
    """
    queues: dict[str, list[T]] = {}
    for item in items:
        queues.setdefault(owner(item), []).append(item)
    if len(queues) <= 1:
        return items
    ordered = [queues[name] for name in sorted(queues, key=had_turn)]
    return [item for row in zip_longest(*ordered, fillvalue=None) for item in row if item is not None]


class Turn:
    """A caller's turn, which began when this was made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.elapsed()

    async def pause(self) -> None:
        """Let other work run if a slice has passed since the turn began or last paused."""
        if self._clock.elapsed() - self._began >= SLICE_MS:
            await asyncio.sleep(0)
            self._began = self._clock.elapsed()


class Turns:
    """Gives turns by name, one caller of a name at a time, first come first served.

    However many callers one name has, the others wait for no more than one slice of it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[Turn]:
        """Wait for the caller's turn under `name`, and hold it within the context."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        async with lock:
            yield Turn(self._clock)
