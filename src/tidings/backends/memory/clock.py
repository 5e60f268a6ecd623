"""Clocks: the machine's, and a virtual one for tests and simulation."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import TypeAlias

_TURNS = 50
"""The turns of the event loop that `settle` gives to woken code before time goes on."""


Now: TypeAlias = Callable[[], int]
"""Returns milliseconds since the epoch: the clock of a store in memory."""


class SystemClock:
    """The machine's time."""

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000

    def elapsed(self) -> int:
        """Milliseconds of the machine's monotonic clock."""
        return time.monotonic_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)


class VirtualClock:
    """A clock that stands still until `advance`. The same calls wake sleepers in the same order in every run.

    `start` is in milliseconds since the epoch.
    """

    def __init__(self, start: int = 1_700_000_000_000) -> None:
        self._now = start
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return self._now

    def elapsed(self) -> int:
        """The same as `now`, because this clock never goes back."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been advanced by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + max(1, round(seconds * 1000)), next(self._order), awake))
        await awake

    @property
    def next_waking(self) -> int | None:
        """When the next sleeper wakes (milliseconds since the epoch); None if none sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Sleepers wake instant by instant, and their code runs before the next instant."""
        end = self._now + round(seconds * 1000)
        await self.settle()
        while (waking := self.next_waking) is not None and waking <= end:
            self._now = max(self._now, waking)
            while self._sleepers and self._sleepers[0][0] <= self._now:
                _, _, awake = heapq.heappop(self._sleepers)
                if not awake.done():
                    awake.set_result(None)
            await self.settle()
        self._now = end
        await self.settle()

    async def settle(self) -> None:
        """Run all code that can run without time passing."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
