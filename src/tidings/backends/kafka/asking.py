"""What claimers ask of a lane's thread: items, and a commit of what they announce. The lane's lock guards it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from tidings.backends.kafka.ledger import Batch

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
    """Those that wait for the next commit. Over partitions that are `leaving` nothing new is begun."""

    def __init__(self) -> None:
        self.leaving: frozenset[int] = frozenset()
        self._waiting: list[Announcement] = []
        self._expected_until = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, one: Announcement) -> None:
        """It goes with the next commit."""
        self._waiting.append(one)
        self.expect()

    def drop(self, one: Announcement) -> None:
        """Nobody waits for it any more."""
        if one in self._waiting:
            self._waiting.remove(one)

    def take(self) -> list[Announcement]:
        """All of them."""
        taken, self._waiting = self._waiting, []
        return taken

    def expect(self) -> None:
        """More are to be expected: a batch was handed out, or somebody has just announced something."""
        self._expected_until = time.monotonic() + _SOON_FOR

    def tick(self) -> float:
        """Seconds for which the thread may be deaf while leased batches are open."""
        return _SOON if time.monotonic() < self._expected_until else _LATER

    def move(self, batch: Batch) -> bool:
        """Whether a partition of the batch is about to move to another client."""
        return any(partition.number in self.leaving for partition in batch.partitions)


def partitions_of(announced: Iterable[Announcement]) -> set[int]:
    """The partitions that they are about."""
    return {partition.number for one in announced for partition in one.batch.partitions}
