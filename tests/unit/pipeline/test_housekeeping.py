"""Housekeeping: one worker at a time deletes what is old, and nothing that is young."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.objects import MemoryObjects
from tidings.backends.memory.store import MemoryStore
from tidings.backends.objects.folder import Folder
from tidings.model.accounting import MINUTE_MS, AcceptedCount, Gap
from tidings.model.days import DAY_MS
from tidings.model.errors import Unavailable
from tidings.model.history import InboxItem
from tidings.model.ids import new_id
from tidings.pipeline.rounds import housekeeping
from tidings.pipeline.rounds.housekeeping import Housekeeping
from tidings.policy.idempotency import KEPT_MS
from tidings.policy.keeping import Keeping
from tidings.sections import KeepSettings
from tidings.telemetry.metrics import Metrics

HOUR = 3_600_000


def item(number: int, at: int) -> InboxItem:
    return InboxItem(new_id(at, 1, number), "ann", "title", "body", None, "news", at)


class World:
    def __init__(self, folder: Path, keeping: Keeping | None = None) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(self.clock.now)
        self.objects = Folder(folder)
        self.keeping = keeping or KeepSettings().rules()

    def worker(self) -> Housekeeping:
        return Housekeeping(self.store, self.store, self.objects, self.clock, Metrics(), self.keeping)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_settings_are_the_policys_defaults() -> None:
    assert KeepSettings().rules() == Keeping()
    assert KeepSettings(inbox_days=0).rules().before(0, 5 * DAY_MS) == 0


async def test_each_kind_is_deleted_after_its_own_time(world: World) -> None:
    store, now = world.store, world.clock.now()
    await store.inbox.add("t", [item(1, now), item(2, now + 60 * DAY_MS)])
    await store.cancellations.cancel("t", new_id(now, 1, 1), now)
    await store.accounts.mark_gaps([Gap("t", now // 60_000, 3, confirmed=True)])
    await store.idempotency.reserve("t", "k", b"", UUID(int=1), 30.0)
    for at in (now, now + 60 * DAY_MS):
        await world.objects.put(f"aside/outcomes/{at}-ab.bin", b"x")
        await world.objects.put(f"aside/outcomes/{at}-ab.txt", b"why")
    await world.worker().once()
    assert len(await store.accounts.gaps()) == 1
    await world.clock.advance(KEPT_MS / 1000 + 1)
    await world.worker().once()
    assert (await store.idempotency.reserve("t", "k", b"", UUID(int=2), 30.0)).seed == UUID(int=2)
    await world.clock.advance(91 * 86_400)
    await world.worker().once()
    items = await store.inbox.list("t", "ann", None, 9, archived=True, unread_only=False)
    assert [one.created_at for one in items] == [now + 60 * DAY_MS]
    assert await store.accounts.gaps() == []
    assert [name async for name in world.objects.list("aside/")] == [
        f"aside/outcomes/{now + 60 * DAY_MS}-ab.bin", f"aside/outcomes/{now + 60 * DAY_MS}-ab.txt",
    ]  # fmt: skip
    assert (await store.standings.look_up(notifications=[new_id(now, 1, 1)])).cancelled
    await world.clock.advance(400 * 86_400)
    await world.worker().once()
    assert not (await store.standings.look_up(notifications=[new_id(now, 1, 1)])).cancelled


async def test_an_inbox_keeps_its_newest(tmp_path: Path) -> None:
    world = World(tmp_path, Keeping(inbox_items=3))
    now = world.clock.now()
    await world.store.inbox.add("t", [item(number, now - number * 1000) for number in range(10)])
    await world.clock.advance(3600)
    await world.worker().once()
    items = await world.store.inbox.list("t", "ann", None, 99, archived=True, unread_only=False)
    assert [one.created_at for one in items] == [now, now - 1000, now - 2000]


async def test_nothing_is_deleted_if_everything_is_kept(tmp_path: Path) -> None:
    world = World(tmp_path, Keeping(inbox_ms=0, inbox_items=0, cancellations_ms=0, gaps_ms=0, replays_ms=0, aside_ms=0))
    now = world.clock.now()
    await world.store.inbox.add("t", [item(number, now) for number in range(10)])
    await world.store.accounts.mark_gaps([Gap("t", now // 60_000, 3, confirmed=True)])
    await world.objects.put(f"aside/outcomes/{now}-ab.bin", b"x")
    await world.clock.advance(4000 * 86_400)
    await world.worker().once()
    assert len(await world.store.inbox.list("t", "ann", None, 99, archived=True, unread_only=False)) == 10
    assert len(await world.store.accounts.gaps()) == 1
    assert len([name async for name in world.objects.list("aside/")]) == 1


async def test_one_worker_at_a_time_sweeps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are small, and between two of them another worker may take over."""
    monkeypatch.setattr(housekeeping, "BATCH", 2)
    first, pruned = world.worker(), 0

    async def prune(_age: int, most: int) -> int:
        nonlocal pruned
        pruned += 1
        if pruned == 1:
            await world.worker().once()  # another worker comes while this one deletes
        elif pruned == 3:
            await world.clock.advance(housekeeping.LEASE_S + 1)
            assert await world.store.rounds.begin(housekeeping.ROUND, UUID(int=9), 60) is not None
        return most

    monkeypatch.setattr(world.store.idempotency, "prune", prune)
    await first.once()
    assert pruned == 3, "it stopped when it had lost the round, and the other one never began"


async def test_a_worker_that_does_not_hold_the_round_makes_partitions_and_deletes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    async def maintain(now: int) -> None:
        made.append(now)

    monkeypatch.setattr(world.store.history, "maintain", maintain)
    await world.store.accounts.count(UUID(int=1), [AcceptedCount("t", 0, 1)])
    assert await world.store.rounds.begin(housekeeping.ROUND, UUID(int=9), 60) is not None
    await world.worker().once()
    assert made == [world.clock.now()]
    assert len(await world.store.accounts.accepted(0, 1)) == 1
    await world.store.rounds.release(housekeeping.ROUND, UUID(int=9))
    await world.worker().once()
    await world.worker().once()
    assert len(made) == 3
    assert await world.store.accounts.accepted(0, 1) == [], "each worker left the round to the next"


async def test_accepted_counts_are_kept_for_so_many_minutes(world: World) -> None:
    oldest = world.clock.now() // MINUTE_MS - housekeeping.KEEP_COUNTS_MINUTES
    await world.store.accounts.count(UUID(int=1), [AcceptedCount("t", oldest + more, 1) for more in (-1, 0)])
    await world.worker().once()
    assert [one.minute for one in await world.store.accounts.accepted(0, 2**40)] == [oldest]


async def test_each_kind_is_swept_in_batches_of_what_is_older_than_its_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages = Keeping(inbox_ms=1 * HOUR, cancellations_ms=2 * HOUR, gaps_ms=3 * HOUR, replays_ms=4 * HOUR)
    world, pruned = World(tmp_path, ages), dict[str, tuple[int, int]]()
    kinds: list[tuple[Any, str]] = [
        (world.store.inbox, "prune"),
        (world.store.cancellations, "prune"),
        (world.store.accounts, "prune_gaps"),
        (world.store.replays, "prune"),
        (world.store.idempotency, "prune"),
    ]
    names = ("inbox", "cancellations", "gaps", "replays", "keys")
    for name, (part, method) in zip(names, kinds, strict=True):

        async def prune(before: int, most: int, name: str = name) -> int:
            pruned[name] = before, most
            return 0

        monkeypatch.setattr(part, method, prune)
    await world.worker().once()
    now, most = world.clock.now(), housekeeping.BATCH
    assert pruned == {
        "inbox": (now - 1 * HOUR, most),
        "cancellations": (now - 2 * HOUR, most),
        "gaps": ((now - 3 * HOUR) // MINUTE_MS, most),
        "replays": (now - 4 * HOUR, most),
        "keys": (KEPT_MS, most),
    }


@pytest.mark.parametrize(("deleted", "batches"), [([5, 5, 4, 5], 3), ([5] * 9, 6), ([0], 1)])
async def test_batches_follow_while_they_are_full_but_not_without_end(
    world: World, deleted: list[int], batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 5)
    monkeypatch.setattr(housekeeping, "MOST_BATCHES", 6)
    left = list(deleted)

    async def prune(*_: object) -> int:
        return left.pop(0)

    assert await world.worker()._prune(prune) == sum(deleted[:batches])
    assert len(left) == len(deleted) - batches


class Trims:
    """Notes which stretches of time are trimmed."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.spans: list[tuple[int, int]] = []
        self.lost_at = 10**9
        monkeypatch.setattr(world.store.inbox, "trim", self.trim)

    async def trim(self, since: int, until: int, keep: int, most: int) -> int:
        assert (keep, most) == (self.world.keeping.inbox_items, housekeeping.BATCH)
        self.spans.append((since, until))
        if len(self.spans) == self.lost_at:
            await self.world.clock.advance(housekeeping.LEASE_S + 1)
            assert await self.world.store.rounds.begin(housekeeping.TRIMMED, UUID(int=9), 60) is not None
        return 1


async def test_inboxes_are_trimmed_from_two_hours_back_and_then_from_where_the_last_round_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims, end = Trims(world, monkeypatch), world.clock.now() // MINUTE_MS
    worker = world.worker()
    assert await worker._trim(world.clock.now()) == 24
    assert trims.spans[0] == ((end - 120) * MINUTE_MS, (end - 115) * MINUTE_MS)
    assert trims.spans[-1] == ((end - 5) * MINUTE_MS, end * MINUTE_MS)
    assert all(until == since for (_, until), (since, _) in pairwise(trims.spans))
    trims.spans.clear()
    await world.clock.advance(7 * 60)
    assert await world.worker()._trim(world.clock.now()) == 2
    assert trims.spans == [
        (end * MINUTE_MS, (end + 5) * MINUTE_MS),
        ((end + 5) * MINUTE_MS, (end + 7) * MINUTE_MS),
    ]
    assert await world.worker()._trim(world.clock.now()) == 0


async def test_a_worker_that_lost_the_trimming_stops_after_that_slice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims = Trims(world, monkeypatch)
    trims.lost_at = 3
    assert await world.worker()._trim(world.clock.now()) == 3
    trims.spans.clear()
    assert await world.worker()._trim(world.clock.now()) == 0
    assert trims.spans == [], "the other one holds it"


async def test_only_objects_aside_with_an_old_time_in_their_name_are_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 3)
    young = ["aside/1-a/5000-a.bin", "aside/x/5000-a.bin", "aside/x/note.txt", "aside/x/y-1.bin", "other/1-a.bin"]
    old = ["aside/x/10-a.bin", "aside/x/4999-a.bin", "aside/x/4999-a.txt", "aside/x.y/7-1-2.bin"]
    for name in (*young, *old):
        await world.objects.put(name, b"")
    worker = world.worker()
    assert await worker._prune_aside(0) == 0
    assert await worker._prune_aside(5000) == 3, "a batch"
    assert await worker._prune_aside(5000) == 1
    assert [name async for name in world.objects.list("")] == sorted(young)


async def test_a_round_comes_every_hour_until_the_worker_stops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    async def maintain(now: int) -> None:
        made.append(now)
        if len(made) == 2:
            raise Unavailable("away")

    monkeypatch.setattr(world.store.history, "maintain", maintain)
    monkeypatch.setattr(world, "objects", MemoryObjects())
    stopping = asyncio.Event()
    running = asyncio.create_task(world.worker().run(stopping))
    await world.clock.settle()
    begun = world.clock.now()
    for _ in range(3):
        await world.clock.advance(housekeeping.EVERY_S)
    assert [at - begun for at in made] == [0, HOUR, 2 * HOUR, 3 * HOUR]
    stopping.set()
    async with asyncio.timeout(5):
        await running
