"""Group commit: concurrent puts share one commit.

While a put is under way, the next ones gather; when it ends, they go together. So a lone request never waits, and a
busy process commits as seldom as possible, without a timer. No caller waits longer than `within_s`: its client would
repeat the request anyway, and repeating it after a clear answer costs everybody less.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from tidings.model.errors import Unavailable
from tidings.ports.queue import Item, Queue

MOST_UNDER_WAY = 2
MOST_ITEMS = 2_000
_CHECKS = 4
"""How often within `within_s` it checks for callers that have waited too long."""


class _Put:
    """The items of one caller. `since`: when it called, in the event loop's time (seconds)."""

    __slots__ = ("durable", "items", "since")

    def __init__(self, items: Sequence[Item], durable: asyncio.Future[None], since: float) -> None:
        self.items = items
        self.durable = durable
        self.since = since


class GroupCommit:
    """Puts items into one queue for many concurrent callers. A caller waits for `within_s` seconds at most."""

    def __init__(self, queue: Queue, within_s: float = 0.9) -> None:
        self._queue = queue
        self._within_s = within_s
        self._waiting: deque[_Put] = deque()
        self._storing: dict[asyncio.Task[None], list[_Put]] = {}
        self._next_check: asyncio.TimerHandle | None = None
        self.held = 0
        """Items that are not known to be durable yet."""

    @property
    def lag(self) -> float:
        """Seconds that the oldest item without a commit has waited."""
        if not self.held:
            return 0.0
        oldest = min((puts[0].since for puts in self._storing.values() if puts), default=None)
        if oldest is None:
            oldest = self._waiting[0].since if self._waiting else None
        return 0.0 if oldest is None else asyncio.get_running_loop().time() - oldest

    async def put(self, items: Sequence[Item]) -> None:
        """Return when `items` are durable.

        Raises:
            Unavailable: the queue failed, or did not answer within `within_s`. The items may be durable all the same.
        """
        loop = asyncio.get_running_loop()
        one = _Put(items, loop.create_future(), loop.time())
        self._waiting.append(one)
        self.held += len(items)
        if len(self._storing) < MOST_UNDER_WAY:
            together: list[_Put] = []
            storing = asyncio.create_task(self._store(together))
            self._storing[storing] = together
            storing.add_done_callback(self._storing.pop)
        if self._next_check is None:
            self._next_check = loop.call_later(self._within_s / _CHECKS, self._fail_late_puts)
        await one.durable

    async def _store(self, together: list[_Put]) -> None:
        """Put what waits, again and again until nothing does. `together` receives the puts under way."""
        while self._waiting:
            together[:] = self._take()
            try:
                await self._queue.put([item for put in together for item in put.items])
            except BaseException as error:
                _resolve(together, error if isinstance(error, Exception) else asyncio.CancelledError())
                if not isinstance(error, Exception):
                    raise
            else:
                _resolve(together, None)
            finally:
                self.held -= sum(len(put.items) for put in together)
                together.clear()

    def _take(self) -> list[_Put]:
        together: list[_Put] = []
        size = 0
        while self._waiting and size < MOST_ITEMS:
            one = self._waiting.popleft()
            together.append(one)
            size += len(one.items)
        return together

    def _fail_late_puts(self) -> None:
        """Fail the puts that have waited too long. Those not begun are dropped; those under way may become durable."""
        self._next_check = None
        loop = asyncio.get_running_loop()
        too_old = loop.time() - self._within_s
        while self._waiting and self._waiting[0].since <= too_old:
            one = self._waiting.popleft()
            self.held -= len(one.items)
            _resolve([one], Unavailable("the queue is too busy; nothing was stored"))
        late = [one for puts in self._storing.values() for one in puts if one.since <= too_old]
        _resolve(late, Unavailable("the queue does not answer; send again with the same Idempotency-Key"))
        if self._waiting or self._storing:
            self._next_check = loop.call_later(self._within_s / _CHECKS, self._fail_late_puts)


def _resolve(puts: Sequence[_Put], error: BaseException | None) -> None:
    for one in puts:
        if not one.durable.done():
            if error is None:
                one.durable.set_result(None)
            else:
                one.durable.set_exception(error)
