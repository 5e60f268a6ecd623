"""Requests of claimers to a reader's thread: for items and for commits. The reader's lock guards them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection

from tidings.backends.kafka.ledger import Batch, Ledger
from tidings.model.errors import Unavailable

CONFIRMED_WITHIN_S = 10.0
"""The most seconds that an announcement waits for the confirmation of its commit."""
_SOON_TICK_S, _SOON_FOR_S = 0.005, 0.25
"""Seconds between two looks for announcements while more are expected, and how long after the last one they are."""
_LATER_TICK_S = 0.025
"""Seconds between two looks while leased batches are open and no announcement is expected."""


class Request:
    """A claimer that waits for items. `taken` is True once a batch is on its way to it."""

    def __init__(self, max_items: int, lease_s: float | None) -> None:
        self.max_items = max_items
        self.lease_s = lease_s
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Batch] = self.loop.create_future()
        self.abandoned = False
        self.taken = False


class Announcement:
    """A claimer that waits until Kafka has committed what it announced about its batch. The answer: whether it has."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[bool] = self._loop.create_future()

    async def is_confirmed(self) -> bool:
        """Wait for the answer for at most CONFIRMED_WITHIN_S. False also means that there was none."""
        await asyncio.wait([self._answer], timeout=CONFIRMED_WITHIN_S)
        return self._answer.done() and self._answer.result()

    def tell(self, *, confirmed: bool) -> None:
        """Give the answer. The reader's thread calls this."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolve, confirmed)

    def _resolve(self, confirmed: bool) -> None:
        if not self._answer.done():
            self._answer.set_result(confirmed)


class Announcements:
    """The announcements of one reader that wait for the next commit. `changed` is the reader's lock.

    Nothing is begun in partitions that are `leaving`.
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
        """Return once Kafka has committed that these items are begun. Raises LeaseLost and Unavailable."""
        await self._announce(batch, places, put=False)

    async def put(self, batch: Batch, places: Collection[int]) -> None:
        """Return once Kafka has committed that outputs for these items may exist. Raises LeaseLost and Unavailable."""
        await self._announce(batch, places, put=True)

    def take(self) -> list[Announcement]:
        """Remove and return all announcements. The reader's thread calls this."""
        with self._changed:
            taken, self._waiting = self._waiting, []
            # Commit these partitions again: an earlier commit may include the announcement but be unconfirmed.
            self._ledger.mark_dirty({partition.number for one in taken for partition in one.batch.partitions})
        return taken

    def close(self) -> None:
        """Refuse announcements from now on. Call it with the lock held."""
        self._closed = True

    def expect(self) -> None:
        """Expect announcements soon, because a batch was handed out or an announcement was made."""
        self._expected_until = time.monotonic() + _SOON_FOR_S

    def tick(self) -> float:
        """Seconds until the thread must look for announcements again, while leased batches are open."""
        return _SOON_TICK_S if time.monotonic() < self._expected_until else _LATER_TICK_S

    async def _announce(self, batch: Batch, places: Collection[int], *, put: bool) -> None:
        one = Announcement(batch)
        with self._changed:
            if self._closed:
                raise Unavailable("this client of the queue is closed")
            now = time.monotonic()
            if put:
                self._ledger.put(batch, places, now)
            elif any(partition.number in self.leaving for partition in batch.partitions):
                raise Unavailable(f"a partition of {self._name} is moving to another client")
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
            raise Unavailable(f"Kafka did not confirm a commit for {self._name}")
        with self._changed:
            self._ledger.check(batch, time.monotonic())
