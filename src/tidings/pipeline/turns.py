"""Turns on the event loop: long work goes in slices, and everybody else comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from tidings.ports.clock import Clock

SLICE = 5
"""Milliseconds of work before the others have their turn."""


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
