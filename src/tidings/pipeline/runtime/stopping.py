"""Waits that an orderly stop ends at once."""

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
    """Ends every wait that was begun through it, and every later one, as soon as the process is to stop."""

    def __init__(self) -> None:
        self._waits: set[asyncio.Timeout] = set()
        self.is_set = False

    async def follow(self, stopping: asyncio.Event) -> None:
        """Return when `stopping` is set, after ending the waits."""
        await stopping.wait()
        self.set()

    def set(self) -> None:
        """End the waits."""
        self.is_set = True
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)

    async def ending(self, waiting: Awaitable[T]) -> T | None:
        """What `waiting` gives, or None when it was cancelled because the process is to stop."""
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
    """Return after `seconds`, or when `stopping` is set."""
    waiting = [asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(stopping.wait())]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*waiting, return_exceptions=True)


@asynccontextmanager
async def finishing(stopping: asyncio.Event, grace: float) -> AsyncIterator[asyncio.TaskGroup]:
    """A group whose tasks end by themselves when `stopping` is set; those that take longer than `grace` seconds do not.

    Their work is left as a crash would leave it.
    """
    try:
        async with asyncio.timeout(None) as end, asyncio.TaskGroup() as group:
            yield group
            await stopping.wait()
            end.reschedule(asyncio.get_running_loop().time() + grace)
    except TimeoutError:
        if not end.expired():
            raise
        _log.warning("work under way was left to its lease", grace=grace)
