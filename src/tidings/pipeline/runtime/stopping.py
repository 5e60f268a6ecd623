"""Stopping: waits that end at once when the process is to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import structlog

from tidings.ports.clock import Clock

_log = structlog.get_logger("tidings.process")
T = TypeVar("T")


class Stopping:
    """Ends every wait that was begun through `ending`, now and later, as soon as it is set."""

    def __init__(self) -> None:
        self._waits: set[asyncio.Timeout] = set()
        self.is_set = False

    async def follow(self, stopping: asyncio.Event) -> None:
        """Wait for `stopping`, then end the waits."""
        await stopping.wait()
        self.set()

    def set(self) -> None:
        """End all waits, and every later one at once."""
        self.is_set = True
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)

    async def ending(self, waiting: Awaitable[T]) -> T | None:
        """The result of `waiting`, or None if it was cancelled because the process is to stop."""
        try:
            async with asyncio.timeout(0 if self.is_set else None) as wait:
                self._waits.add(wait)
                try:
                    return await waiting
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            if not wait.expired():
                raise
            return None


async def pause(seconds: float, stopping: asyncio.Event, clock: Clock) -> None:
    """Return after `seconds`, or as soon as `stopping` is set."""
    await first_of(clock.sleep(seconds), stopping.wait())


async def first_of(*awaited: Awaitable[object]) -> None:
    """Return as soon as one of these is over, however it ended. The others are cancelled."""
    waiting = [asyncio.ensure_future(one) for one in awaited]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in waiting:
            future.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*waiting, return_exceptions=True)


@asynccontextmanager
async def finishing(stopping: asyncio.Event, grace_s: float) -> AsyncIterator[asyncio.TaskGroup]:
    """A group of asyncio tasks that end by themselves once `stopping` is set.

    After `grace_s` more seconds the rest is cancelled: its work is left as a crash would leave it.
    """
    try:
        async with asyncio.timeout(None) as end, asyncio.TaskGroup() as group:
            yield group
            await stopping.wait()
            end.reschedule(asyncio.get_running_loop().time() + grace_s)
    except TimeoutError:
        if not end.expired():
            raise
        _log.warning("work under way was left to its lease", grace=grace_s)
