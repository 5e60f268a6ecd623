"""Putting due items one by one after the queue refused them together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.queue import MemoryBroker, MemoryQueue
from tidings.model.errors import LeaseLost, Unavailable
from tidings.model.vocabulary import Priority
from tidings.pipeline.runtime.reader import REPEATED
from tidings.pipeline.schedule.putting import put_each
from tidings.pipeline.schedule.waking import Lease
from tidings.policy.shares import ShareRules, Shares
from tidings.ports.queue import Item

ITEMS = [Item("requests.normal", "shop/ann", body) for body in (b"first", b"bad", b"last")]


class Refusing(MemoryQueue):
    """Raises `error` for every put with an item `bad`, and notes all other items."""

    def __init__(self, error: Exception) -> None:
        super().__init__(MemoryBroker())
        self.error = error
        self.came: list[tuple[bytes, bool]] = []

    async def put(self, items: Sequence[Item]) -> None:
        if any(item.body == b"bad" for item in items):
            raise self.error
        self.came += [(item.body, REPEATED in item.headers) for item in items]


async def put(queue: Refusing, clock: VirtualClock, items: Sequence[Item] = ITEMS) -> list[str | None]:
    return await put_each(items, queue, Shares(ShareRules()), clock, Lease(30.0, clock))


async def test_items_that_the_queue_takes_together_are_not_marked() -> None:
    queue = Refusing(ValueError("too large"))
    assert await put(queue, VirtualClock(), [ITEMS[0], ITEMS[2]]) == [None, None]
    assert queue.came == [(b"first", False), (b"last", False)]


async def test_a_refused_item_stops_no_other() -> None:
    """ValueError says that nothing was put, so the others are no copies, and nothing delays them."""
    queue = Refusing(ValueError("too large"))
    assert await put(queue, VirtualClock()) == [None, "ValueError('too large')", None]
    assert queue.came == [(b"first", False), (b"last", False)]


async def test_an_item_counts_against_its_tenants_share_once() -> None:
    queue, clock = Refusing(ValueError("too large")), VirtualClock()
    shares = Shares(ShareRules(per_second=1.0, burst=4))
    await put_each(ITEMS, queue, shares, clock, Lease(30.0, clock))
    assert shares.take("shop", Priority.NORMAL, 2, clock.elapsed()) == 1


async def test_after_an_error_that_may_have_come_late_the_items_are_possible_copies() -> None:
    queue = Refusing(OSError("no answer"))
    assert await put(queue, VirtualClock()) == [None, "OSError('no answer')", None]
    assert queue.came == [(b"first", True), (b"last", True)]


async def test_a_queue_that_is_away_ends_it() -> None:
    queue = Refusing(Unavailable("away"))
    with pytest.raises(Unavailable, match="away"):
        await put(queue, VirtualClock())
    assert queue.came == []


async def test_items_of_a_lost_lease_are_left_to_others() -> None:
    clock = VirtualClock()
    lease = Lease(30.0, clock)
    await clock.advance(29.0)
    queue = Refusing(ValueError("too large"))
    with pytest.raises(LeaseLost):
        await put_each(ITEMS, queue, Shares(ShareRules()), clock, lease)
    assert queue.came == []
