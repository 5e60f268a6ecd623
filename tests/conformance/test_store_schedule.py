"""The promises of ports/schedule.py, on every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from support.stores import NOW, accepted, fact, notification, turn
from tidings.model.outcome import Wait
from tidings.model.vocabulary import State
from tidings.ports.schedule import Scheduled
from tidings.ports.store import Store


async def wait_for(store: Store, tenant: str, *dues: int) -> None:
    """Write a row for each instant, with the instant as its body."""
    outcomes = []
    for due in dues:
        sent = notification(tenant)
        outcomes += [accepted(sent), fact(sent, State.DEFERRED, wait=Wait(due, "topic", "key", b"%d" % due))]
    await store.history.append(outcomes)


async def due(store: Store, now: int, limit: int, lease_s: float) -> Sequence[Scheduled]:
    """The due rows, for a caller with a right clock."""
    await turn(store, now)
    return await store.schedule.due(now, limit, lease_s)


async def test_due_rows_come_earliest_first_and_at_most_limit(store: Store, tenant: str) -> None:
    await wait_for(store, tenant, NOW + 30, NOW + 10, NOW + 20, NOW + 40)
    first = await due(store, NOW + 30, 2, 30.0)
    assert [int(row.item.body) for row in first] == [NOW + 10, NOW + 20]
    assert [int(row.item.body) for row in await due(store, NOW + 30, 5, 30.0)] == [NOW + 30]
    assert not any(row.repeated for row in first)


async def test_a_leased_row_is_not_handed_out(store: Store, tenant: str) -> None:
    await wait_for(store, tenant, NOW)
    assert len(await due(store, NOW, 10, 30.0)) == 1
    assert await due(store, NOW + 29_000, 10, 30.0) == []


async def test_an_unsettled_row_comes_again_marked(store: Store, tenant: str) -> None:
    await wait_for(store, tenant, NOW)
    (first,) = await due(store, NOW, 10, 30.0)
    (again,) = await due(store, NOW + 31_000, 10, 30.0)
    assert not first.repeated
    assert again.repeated
    assert (again.id, again.item) == (first.id, first.item)


async def test_a_settled_row_is_gone(store: Store, tenant: str) -> None:
    await wait_for(store, tenant, NOW, NOW + 1)
    rows = await due(store, NOW + 1, 10, 30.0)
    await store.schedule.settle([rows[0].id])
    await store.schedule.settle([rows[0].id])
    assert [row.id for row in await due(store, NOW + 60_000, 10, 30.0)] == [rows[1].id]
    await store.schedule.settle([])


async def test_next_due(store: Store, tenant: str) -> None:
    assert await store.schedule.next_due() is None
    await wait_for(store, tenant, NOW + 9000, NOW + 4000)
    assert await store.schedule.next_due() == NOW + 4000
    (row,) = await due(store, NOW + 4000, 10, 2.0)
    assert await store.schedule.next_due() == NOW + 6000
    await store.schedule.settle([row.id])
    assert await store.schedule.next_due() == NOW + 9000


async def hold(store: Store, tenant: str, topic: str, *dues: int) -> None:
    """Write a row that waits for a provider for each instant, with the instant as its body."""
    outcomes = []
    for due in dues:
        sent = notification(tenant)
        wait = Wait(due, topic, "key", b"%d" % due, held=True)
        outcomes += [accepted(sent), fact(sent, State.DEFERRED, wait=wait)]
    await store.history.append(outcomes)


async def test_rows_held_for_a_provider_are_counted_by_topic_up_to_a_limit(store: Store, tenant: str) -> None:
    assert await store.schedule.held(100) == {}
    await wait_for(store, tenant, NOW + 1, NOW + 2)
    await hold(store, tenant, "one", NOW + 1, NOW + 2, NOW + 3)
    await hold(store, tenant, "two", NOW + 1)
    assert await store.schedule.held(100) == {"one": 3, "two": 1}
    assert sum((await store.schedule.held(2)).values()) == 2
    (row, *_) = await store.schedule.due(NOW + 1, 10, 30.0)
    await store.schedule.settle([row.id])
    assert sum((await store.schedule.held(100)).values()) in {3, 4}


async def test_only_rows_held_for_a_provider_are_brought_forward(store: Store, tenant: str) -> None:
    await wait_for(store, tenant, NOW + 50_000)
    await hold(store, tenant, "one", NOW + 30_000, NOW + 10_000, NOW + 20_000)
    await hold(store, tenant, "two", NOW + 5_000)
    await store.schedule.bring_forward("one", 2, NOW)
    assert await store.schedule.next_due() == NOW
    brought = await store.schedule.due(NOW, 10, 30.0)
    assert sorted(int(row.item.body) for row in brought) == [NOW + 10_000, NOW + 20_000]
    assert not any(row.repeated for row in brought)


async def test_a_leased_row_is_not_brought_forward(store: Store, tenant: str) -> None:
    await hold(store, tenant, "one", NOW)
    await store.schedule.due(NOW, 10, 30.0)
    await store.schedule.bring_forward("one", 10, NOW + 1_000)
    assert await store.schedule.due(NOW + 1_000, 10, 30.0) == []


async def test_concurrent_callers_never_share_a_row(store: Store, tenant: str) -> None:
    await wait_for(store, tenant, *range(NOW, NOW + 300))
    await turn(store, NOW + 1000)
    answers = await asyncio.gather(*(due(store, NOW + 1000, 40, 30.0) for _ in range(12)))
    taken = [row.id for answer in answers for row in answer]
    while more := await due(store, NOW + 1000, 40, 30.0):
        taken += [row.id for row in more]
    assert len(taken) == len(set(taken)) == 300


async def test_a_callers_wrong_clock_neither_ends_nor_extends_a_lease(store: Store, tenant: str) -> None:
    """The caller's clock decides when a row is due; the store's clock decides when a lease ends."""
    await wait_for(store, tenant, NOW)
    await turn(store, NOW)
    hour = 3_600_000
    (ahead,) = await store.schedule.due(NOW + hour, 10, 30.0)
    assert not ahead.repeated
    assert await store.schedule.due(NOW + 2 * hour, 10, 30.0) == [], "only the store's clock ends a lease"
    await turn(store, NOW + 29_999)
    assert await store.schedule.due(NOW + 2 * hour, 10, 30.0) == []
    await turn(store, NOW + 30_000)
    (again,) = await store.schedule.due(NOW - hour, 10, 30.0)  # nor does a slow clock of the caller extend it
    assert again.repeated


async def test_the_shortest_time_of_a_wait_runs_by_the_stores_clock_from_its_recording(
    store: Store, tenant: str
) -> None:
    """Neither the clock of the process that asked for the wait, nor the caller's, nor a cancellation shortens it."""
    await turn(store, NOW)
    hour = 3_600_000
    early, cancelled = notification(tenant), notification(tenant)
    for sent in (early, cancelled):
        wait = Wait(NOW - hour, "topic", "key", b"%d" % NOW, at_least_ms=16_000)
        await store.history.append([accepted(sent), fact(sent, State.PENDING, wait=wait, step=2)])
    await store.cancellations.cancel(tenant, cancelled.id, NOW)
    assert await store.schedule.next_due() == NOW + 16_000
    await turn(store, NOW + 15_999)
    assert await store.schedule.due(NOW + hour, 10, 30.0) == []
    await turn(store, NOW + 16_000)
    rows = await store.schedule.due(NOW - hour, 10, 30.0)
    assert len(rows) == 2
    assert not any(row.repeated for row in rows)
    await turn(store, NOW + 46_000)
    assert all(row.repeated for row in await store.schedule.due(NOW - hour, 10, 30.0))
