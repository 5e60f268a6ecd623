"""The schedule: the promises of ports/store.py, on every adapter."""

from __future__ import annotations

import asyncio

from support_stores import NOW, accepted, fact, notification
from tidings.model.outcome import Wait
from tidings.model.vocabulary import State
from tidings.ports.store import Store


async def wait_for(store: Store, tenant: str, *dues: int) -> None:
    """Write a row for each instant; its body is the instant."""
    outcomes = []
    for due in dues:
        sent = notification(tenant)
        outcomes += [accepted(sent), fact(sent, State.DEFERRED, wait=Wait(due, "topic", "key", b"%d" % due))]
    await store.history.append(outcomes)


async def test_due_rows_come_earliest_first_and_at_most_limit(store: Store, tenant: str) -> None:
    await wait_for(store, tenant, NOW + 30, NOW + 10, NOW + 20, NOW + 40)
    first = await store.schedule.due(NOW + 30, 2, 30.0)
    assert [int(row.item.body) for row in first] == [NOW + 10, NOW + 20]
    assert [int(row.item.body) for row in await store.schedule.due(NOW + 30, 5, 30.0)] == [NOW + 30]
    assert not any(row.again for row in first)


async def test_a_leased_row_is_nobody_elses(store: Store, tenant: str) -> None:
    await wait_for(store, tenant, NOW)
    assert len(await store.schedule.due(NOW, 10, 30.0)) == 1
    assert await store.schedule.due(NOW + 29_000, 10, 30.0) == []


async def test_an_unsettled_row_comes_again_marked(store: Store, tenant: str) -> None:
    await wait_for(store, tenant, NOW)
    (first,) = await store.schedule.due(NOW, 10, 30.0)
    (again,) = await store.schedule.due(NOW + 31_000, 10, 30.0)
    assert not first.again
    assert again.again
    assert (again.id, again.item) == (first.id, first.item)


async def test_a_settled_row_is_gone(store: Store, tenant: str) -> None:
    await wait_for(store, tenant, NOW, NOW + 1)
    rows = await store.schedule.due(NOW + 1, 10, 30.0)
    await store.schedule.settle([rows[0].id])
    await store.schedule.settle([rows[0].id])
    assert [row.id for row in await store.schedule.due(NOW + 60_000, 10, 30.0)] == [rows[1].id]
    await store.schedule.settle([])


async def test_next_due(store: Store, tenant: str) -> None:
    assert await store.schedule.next_due() is None
    await wait_for(store, tenant, NOW + 9000, NOW + 4000)
    assert await store.schedule.next_due() == NOW + 4000
    (row,) = await store.schedule.due(NOW + 4000, 10, 2.0)
    assert await store.schedule.next_due() == NOW + 6000
    await store.schedule.settle([row.id])
    assert await store.schedule.next_due() == NOW + 9000


async def test_concurrent_callers_never_share_a_row(store: Store, tenant: str) -> None:
    await wait_for(store, tenant, *range(NOW, NOW + 300))
    answers = await asyncio.gather(*(store.schedule.due(NOW + 1000, 40, 30.0) for _ in range(12)))
    taken = [row.id for answer in answers for row in answer]
    while more := await store.schedule.due(NOW + 1000, 40, 30.0):
        taken += [row.id for row in more]
    assert len(taken) == len(set(taken)) == 300
