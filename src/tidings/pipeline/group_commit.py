"""Concurrent puts share one commit.

While a put is under way the next ones gather; when it ends they go together. So a lone request waits for nobody and a
busy process commits as seldom as it can, without a timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tidings.ports.queue import Item, Queue

MOST_UNDER_WAY = 2
MOST_ITEMS = 2_000


class GroupCommit:
    """Puts into one queue for many concurrent callers."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._waiting: list[tuple[Sequence[Item], asyncio.Future[None]]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def put(self, items: Sequence[Item]) -> None:
        """Return when `items` are durable. Raises what `Queue.put` raises."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, durable))
        if len(self._under_way) < MOST_UNDER_WAY:
            flushing = asyncio.create_task(self._flush())
            self._under_way.add(flushing)
            flushing.add_done_callback(self._under_way.discard)
        await durable

    async def _flush(self) -> None:
        while self._waiting:
            together = self._take()
            batch = [item for items, _ in together for item in items]
            try:
                await self._queue.put(batch)
            except BaseException as error:
                for _, durable in together:
                    if not durable.done():
                        durable.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                if not isinstance(error, Exception):
                    raise
            else:
                for _, durable in together:
                    if not durable.done():
                        durable.set_result(None)

    def _take(self) -> list[tuple[Sequence[Item], asyncio.Future[None]]]:
        size = 0
        for count, (items, _) in enumerate(self._waiting, 1):
            size += len(items)
            if size >= MOST_ITEMS:
                taken, self._waiting = self._waiting[:count], self._waiting[count:]
                return taken
        taken, self._waiting = self._waiting, []
        return taken
