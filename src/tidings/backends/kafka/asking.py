"""What claimers ask of a lane's thread: items, and a commit of what they announce. The lane's lock guards it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection

from tidings.backends.kafka.ledger import Batch, Ledger
from tidings.model.errors import Unavailable

CONFIRMED_WITHIN = 10.0
"""Seconds that an announcement waits for the confirmation of its commit."""
_SOON, _SOON_FOR = 0.005, 0.25
"""Seconds between two looks for announcements while some are expected, and how long they are after the last one."""
_LATER = 0.025
"""The same while leased batches merely wait."""


class Request:
    """A claimer that waits for items. `batch` is set when they are on their way to it."""

    def __init__(self, max_items: int, lease: float | None) -> None:
        self.max_items = max_items
        self.lease = lease
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Batch] = self.loop.create_future()
        self.abandoned = False
        self.taken = False


class Announcement:
    """A claimer that waits until it is committed what is about to be done with its batch. The answer: whether it is."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[bool] = self._loop.create_future()

    async def is_confirmed(self) -> bool:
        """Wait for the answer, within bounds."""
        await asyncio.wait([self._answer], timeout=CONFIRMED_WITHIN)
        return self._answer.done() and self._answer.result()

    def tell(self, *, confirmed: bool) -> None:
        """Answer; called by the lane's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolve, confirmed)

    def _resolve(self, confirmed: bool) -> None:
        if not self._answer.done():
            self._answer.set_result(confirmed)


class Announcements:
    """Those of one lane that wait for the next commit, `changed` being the lane's lock.

    Over partitions that are `leaving` nothing new is begun.
    """

    def __init__(self, name: str, ledger: Ledger, changed: threading.Condition) -> None:
        self.leaving: frozenset[int] = frozenset()
        self._name = name
        self._ledger = ledger
        self._changed = changed
        self._waiting: list[Announcement] = []
        self._expected_until = 0.0
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def begin(self, batch: Batch, places: Collection[int]) -> None:
        """Return when it is committed that these places are begun. Raises LeaseLost and Unavailable."""
        await self._announce(batch, places, put=False)

    async def put(self, batch: Batch, places: Collection[int]) -> None:
        """Return when it is committed that outputs for these places may be there. Raises LeaseLost and Unavailable."""
        await self._announce(batch, places, put=True)

    def take(self) -> list[Announcement]:
        """All of them, for the lane's thread."""
        with self._changed:
            taken, self._waiting = self._waiting, []
            # Another commit may have said so already; that is not known to be confirmed.
            self._ledger.soil({partition.number for one in taken for partition in one.batch.partitions})
        return taken

    def close(self) -> None:
        """From now on nobody confirms anything; called under the lock."""
        self._closed = True

    def expect(self) -> None:
        """More are to be expected: a batch was handed out, or somebody has just announced something."""
        self._expected_until = time.monotonic() + _SOON_FOR

    def tick(self) -> float:
        """Seconds for which the thread may be deaf while leased batches are open."""
        return _SOON if time.monotonic() < self._expected_until else _LATER

    async def _announce(self, batch: Batch, places: Collection[int], *, put: bool) -> None:
        one = Announcement(batch)
        with self._changed:
            if self._closed:
                raise Unavailable("this client of the queue is closed")
            now = time.monotonic()
            if put:
                self._ledger.put(batch, places, now)
            elif any(partition.number in self.leaving for partition in batch.partitions):
                raise Unavailable(f"a partition of {self._name} is about to move to another client")
            else:
                self._ledger.begin(batch, places, now)
            self._waiting.append(one)
            self.expect()
            self._changed.notify()
        confirmed = False
        try:
            confirmed = await one.is_confirmed()
        finally:
            if not confirmed:
                with self._changed:
                    self._ledger.take_back(batch, places, put=put)
                    if one in self._waiting:
                        self._waiting.remove(one)
        if not confirmed:
            raise Unavailable(f"Kafka did not confirm what is about to be done with items of {self._name}")
        with self._changed:
            self._ledger.check(batch, time.monotonic())
