"""The promises of ports/recurrences.py, on every adapter."""

from __future__ import annotations

import asyncio
from uuid import UUID

from msgspec.structs import replace

from support import unique
from support.stores import NOW, turn
from tidings.model.ids import new_id
from tidings.model.recurrence import Progress, Recurrence
from tidings.ports.recurrences import Moved
from tidings.ports.store import Store

MINUTE = 60_000
_made = iter(range(1, 1_000_000))


def recurrence(tenant: str, due: int | None = NOW, at: int = NOW) -> Recurrence:
    """A recurrence whose next occurrence is at `due`."""
    progress = Progress(None if due is None else f"local {due}", due)
    id = new_id(at, 5, next(_made))
    return Recurrence(id, tenant, "name", "FREQ=DAILY", "2026-01-01T09:00:00", "UTC", b'{"a":1}', progress=progress)


async def added(store: Store, tenant: str, *dues: int | None) -> list[Recurrence]:
    made = [recurrence(tenant, due) for due in dues]
    for each in made:
        await store.recurrences.add(each)
    return made


def after(of: Recurrence, due: int | None, **more: int | str) -> Moved:
    """The change of progress to the occurrence at `due`."""
    then = Progress(None if due is None else f"local {due}", due, of.progress.due)
    return Moved(of.id, of.progress, replace(then, **more))


async def ready(store: Store, now: int) -> list[tuple[UUID, bool]]:
    """The due recurrences, for a caller with a right clock."""
    await turn(store, now)
    return [(row.recurrence.id, row.repeated) for row in await store.recurrences.due(now, 100, 30.0)]


async def test_what_was_stored_is_read_back(store: Store, tenant: str) -> None:
    (made,) = await added(store, tenant, NOW)
    assert await store.recurrences.get(tenant, made.id) == made
    assert await store.recurrences.get(unique("tenant"), made.id) is None


async def test_the_list_is_newest_first_and_goes_on(store: Store, tenant: str) -> None:
    made = [recurrence(tenant, None, NOW + number) for number in range(5)]
    for each in made:
        await store.recurrences.add(each)
    first = await store.recurrences.list(tenant, None, 3)
    assert [each.id for each in first] == [each.id for each in reversed(made)][:3]
    rest = await store.recurrences.list(tenant, first[-1].id, 3)
    assert [each.id for each in rest] == [made[1].id, made[0].id]
    assert await store.recurrences.list(unique("tenant"), None, 3) == []


async def test_due_ones_come_earliest_first_and_are_leased(store: Store, tenant: str) -> None:
    late, early, never, future = await added(store, tenant, NOW + 2, NOW + 1, None, NOW + MINUTE)
    await turn(store, NOW + 2)
    rows = await store.recurrences.due(NOW + 2, 1, 30.0)
    assert [row.recurrence for row in rows] == [early]
    assert await ready(store, NOW + 2) == [(late.id, False)]
    assert await ready(store, NOW + 2) == []
    assert await ready(store, NOW + 31_000) == [(early.id, True), (late.id, True)]
    assert never.progress.due is None
    assert future.id not in dict(await ready(store, NOW + 31_000))


async def test_settling_moves_it_to_its_next_occurrence(store: Store, tenant: str) -> None:
    one, two = await added(store, tenant, NOW, NOW)
    await ready(store, NOW)
    moves = [after(one, NOW + MINUTE, skipped=3, problem="x"), after(two, None)]
    await store.recurrences.settle(moves)
    await store.recurrences.settle([])
    moved, ended = await store.recurrences.get(tenant, one.id), await store.recurrences.get(tenant, two.id)
    assert moved is not None
    assert ended is not None
    assert moved.progress == Progress(f"local {NOW + MINUTE}", NOW + MINUTE, NOW, 3, "x")
    assert ended.progress == Progress(None, None, NOW)
    assert await ready(store, NOW + MINUTE) == [(one.id, False)]


async def test_a_change_keeps_the_occurrence_under_way(store: Store, tenant: str) -> None:
    (made,) = await added(store, tenant, NOW)
    await ready(store, NOW)
    named = replace(made, name="new", revision=2, progress=Progress("elsewhere", 1))
    assert await store.recurrences.replace(named)
    assert await ready(store, NOW) == []  # the lease stays
    assert await ready(store, NOW + 31_000) == [(made.id, True)]
    await store.recurrences.settle([after(made, NOW + MINUTE)])
    known = await store.recurrences.get(tenant, made.id)
    assert known is not None
    assert (known.name, known.revision, known.progress.due) == ("new", 2, NOW + MINUTE)


async def test_a_change_of_the_time_wins_over_settling_the_old_time(store: Store, tenant: str) -> None:
    (made,) = await added(store, tenant, NOW)
    await ready(store, NOW)
    paused = replace(made, paused=True, revision=2, progress=Progress())
    assert await store.recurrences.replace(paused, moved_from=made.progress)
    await store.recurrences.settle([after(made, NOW + MINUTE)])
    assert await store.recurrences.get(tenant, made.id) == paused
    assert await ready(store, NOW + 10 * MINUTE) == []
    resumed = replace(made, revision=3, progress=Progress("later", NOW + 5 * MINUTE))
    assert await store.recurrences.replace(resumed, moved_from=Progress())
    assert await ready(store, NOW + 5 * MINUTE) == [(made.id, False)]


async def test_a_change_of_the_time_fails_if_the_occurrence_was_settled_meanwhile(store: Store, tenant: str) -> None:
    (made,) = await added(store, tenant, NOW)
    await ready(store, NOW)
    await store.recurrences.settle([after(made, NOW + MINUTE)])
    stale = replace(made, rrule="FREQ=WEEKLY", revision=2)
    assert not await store.recurrences.replace(stale, moved_from=made.progress)
    assert await ready(store, NOW) == []


async def test_an_occurrence_under_way_that_stays_next_comes_again_marked(store: Store, tenant: str) -> None:
    (made,) = await added(store, tenant, NOW)
    await ready(store, NOW)
    same = replace(made, rrule="FREQ=WEEKLY", revision=2)
    assert await store.recurrences.replace(same, moved_from=made.progress)
    assert await ready(store, NOW) == []
    assert await ready(store, NOW + 31_000) == [(made.id, True)]


async def test_of_two_changes_of_one_revision_one_wins(store: Store, tenant: str) -> None:
    (made,) = await added(store, tenant, NOW)
    changes = [replace(made, name=f"name {number}", revision=2) for number in range(5)]
    done = await asyncio.gather(
        *(
            store.recurrences.replace(each, moved_from=made.progress if i % 2 else None)
            for i, each in enumerate(changes)
        )
    )
    assert done.count(True) == 1
    known = await store.recurrences.get(tenant, made.id)
    assert known is not None
    assert known.name == changes[done.index(True)].name


async def test_what_was_deleted_is_gone(store: Store, tenant: str) -> None:
    (made,) = await added(store, tenant, NOW)
    assert not await store.recurrences.delete(unique("tenant"), made.id)
    await ready(store, NOW)
    assert await store.recurrences.delete(tenant, made.id)
    assert not await store.recurrences.delete(tenant, made.id)
    await store.recurrences.settle([after(made, NOW + MINUTE)])
    assert await store.recurrences.get(tenant, made.id) is None
    assert not await store.recurrences.replace(replace(made, revision=2), moved_from=made.progress)


async def test_next_due(store: Store, tenant: str) -> None:
    assert await store.recurrences.next_due() is None
    await added(store, tenant, NOW + 9000, NOW + 4000, None)
    assert await store.recurrences.next_due() == NOW + 4000
    await ready(store, NOW + 4000)
    assert await store.recurrences.next_due() == NOW + 9000


async def test_concurrent_callers_never_share_one(store: Store, tenant: str) -> None:
    made = await added(store, tenant, *range(NOW, NOW + 60))
    answers = await asyncio.gather(*(store.recurrences.due(NOW + 100, 10, 30.0) for _ in range(8)))
    taken = [row.recurrence.id for answer in answers for row in answer]
    taken += [row.recurrence.id for row in await store.recurrences.due(NOW + 100, 100, 30.0)]
    assert len(taken) == len(set(taken)) == len(made)


async def test_a_callers_wrong_clock_neither_ends_nor_extends_a_lease(store: Store, tenant: str) -> None:
    (made,) = await added(store, tenant, NOW)
    await turn(store, NOW)
    assert len(await store.recurrences.due(NOW + 60 * MINUTE, 10, 30.0)) == 1
    assert await store.recurrences.due(NOW + 90 * MINUTE, 10, 30.0) == []
    await turn(store, NOW + 30_000)
    (again,) = await store.recurrences.due(NOW - 60 * MINUTE, 10, 30.0)
    assert (again.recurrence.id, again.repeated) == (made.id, True)
