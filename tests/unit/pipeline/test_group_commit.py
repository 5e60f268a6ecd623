"""Concurrent puts share commits, and nobody waits long for a silent queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from support import eventually
from tidings.model.errors import Unavailable
from tidings.pipeline.accept.group_commit import MOST_ITEMS, MOST_UNDER_WAY, GroupCommit
from tidings.ports.queue import Item


class SlowQueue:
    """A queue that stores when the test lets it."""

    def __init__(self) -> None:
        self.put_together: list[int] = []
        self.stored: list[Item] = []
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def put(self, items: Sequence[Item]) -> None:
        self.put_together.append(len(items))
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        self.stored.extend(items)


def commits(queue: Any, within_s: float = 60.0) -> GroupCommit:
    return GroupCommit(queue, within_s)


def item(number: int) -> Item:
    return Item("requests.normal", "k", str(number).encode())


async def one_by_one(queue: SlowQueue, together: GroupCommit) -> list[asyncio.Task[None]]:
    """As many puts as may be under way at once."""
    puts: list[asyncio.Task[None]] = []
    for number in range(MOST_UNDER_WAY):
        puts.append(asyncio.create_task(together.put([item(number)])))
        await eventually(lambda: len(queue.put_together) == len(puts))
    return puts


async def test_puts_that_come_during_a_commit_share_the_next() -> None:
    queue = SlowQueue()
    together = commits(queue)
    puts = [*await one_by_one(queue, together), *(asyncio.create_task(together.put([item(at)])) for at in range(20))]
    await eventually(lambda: together.held == len(puts))
    assert together.lag >= 0.0
    queue.go_on.set()
    await asyncio.gather(*puts)
    assert queue.put_together == [*[1] * MOST_UNDER_WAY, 20]
    assert (together.held, together.lag) == (0, 0.0)


async def test_a_failed_commit_fails_all_of_its_puts_and_no_others() -> None:
    queue = SlowQueue()
    together = commits(queue)
    queue.error = Unavailable("gone")
    queue.go_on.set()
    with pytest.raises(Unavailable, match="gone"):
        await together.put([item(1)])
    queue.error = None
    await together.put([item(2)])
    assert together.held == 0


async def test_nobody_waits_long_for_a_silent_queue() -> None:
    queue = SlowQueue()
    together = commits(queue, within_s=0.1)
    puts = await one_by_one(queue, together)
    late = [asyncio.create_task(together.put([item(number)])) for number in range(10, 15)]
    results = await asyncio.gather(*puts, *late, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert "Idempotency-Key" in str(results[0])
    queue.go_on.set()
    await eventually(lambda: together.held == 0)
    stored = {one.body for one in queue.stored}
    for number, result in zip(range(10, 15), results[MOST_UNDER_WAY:], strict=True):
        assert "nothing was stored" in str(result)
        assert item(number).body not in stored
    await together.put([item(99)])
    assert queue.stored[-1] == item(99)


async def test_a_cancelled_caller_does_not_affect_the_others() -> None:
    queue = SlowQueue()
    together = commits(queue)
    leaving, staying = (asyncio.create_task(together.put([item(number)])) for number in range(2))
    await eventually(lambda: together.held == 2)
    leaving.cancel()
    queue.go_on.set()
    await staying
    assert len(queue.stored) == 2


async def test_no_commit_is_larger_than_needed_to_reach_the_most() -> None:
    queue = SlowQueue()
    together = commits(queue)
    puts = await one_by_one(queue, together)
    for size in (MOST_ITEMS - 1, 1, 5, MOST_ITEMS, 1, MOST_ITEMS - 1, 2, 3):
        puts.append(asyncio.create_task(together.put([item(0)] * size)))
    await eventually(lambda: together.held == MOST_UNDER_WAY + 3 * MOST_ITEMS + 10)
    queue.go_on.set()
    await asyncio.gather(*puts)
    assert queue.put_together[MOST_UNDER_WAY:] == [MOST_ITEMS, MOST_ITEMS + 5, MOST_ITEMS, 5]


async def test_what_waits_behind_a_failed_commit_is_stored() -> None:
    queue = SlowQueue()
    together = commits(queue)
    failing = await one_by_one(queue, together)
    waiting = asyncio.create_task(together.put([item(7)]))
    await eventually(lambda: together.held == MOST_UNDER_WAY + 1)
    queue.error = Unavailable("gone")
    queue.go_on.set()
    assert [type(one) for one in await asyncio.gather(*failing, return_exceptions=True)] == [Unavailable] * len(failing)
    queue.error = None
    with suppress(Unavailable):
        await asyncio.wait_for(waiting, 10)
    assert len(queue.put_together) == MOST_UNDER_WAY + 1


async def test_a_commit_that_is_cancelled_cancels_its_puts() -> None:
    queue = SlowQueue()
    together = commits(queue)
    puts = await one_by_one(queue, together)
    for storing in together._storing:
        storing.cancel()
    assert [type(one) for one in await asyncio.gather(*puts, return_exceptions=True)] == [asyncio.CancelledError] * 2
    assert together.held == 0


async def test_a_put_that_is_alone_does_not_wait_long_either_and_nor_does_the_next() -> None:
    queue = SlowQueue()
    together = commits(queue, within_s=0.02)
    for _ in range(2):
        queue.go_on.clear()
        with pytest.raises(Unavailable, match="Idempotency-Key"):
            await asyncio.wait_for(together.put([item(1)]), 10)
        queue.go_on.set()
        await eventually(lambda: together.held == 0 and together._next_check is None)


async def test_it_checks_several_times_within_the_time_that_a_caller_waits_and_fails_nobody_before() -> None:
    queue = SlowQueue()
    together = commits(queue)
    puts = await one_by_one(queue, together)
    puts.append(asyncio.create_task(together.put([item(7)])))
    await eventually(lambda: together.held == MOST_UNDER_WAY + 1)
    loop = asyncio.get_running_loop()
    for _ in range(2):
        assert together._next_check is not None
        assert 0 < together._next_check.when() - loop.time() <= 60.0 / 2
        together._next_check.cancel()
        together._fail_late_puts()
    assert not any(put.done() for put in puts)
    queue.go_on.set()
    await asyncio.gather(*puts)
