"""Housekeeping: one worker at a time deletes what is old, and nothing that is young."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.store import MemoryStore
from tidings.backends.objects.folder import Folder
from tidings.model.accounting import Gap
from tidings.model.days import DAY_MS
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
    first, swept = world.worker(), 0

    async def sweep(_age: int, most: int) -> int:
        nonlocal swept
        swept += 1
        if swept == 1:
            await world.worker().once()  # another worker comes while this one deletes
        elif swept == 3:
            await world.clock.advance(housekeeping.LEASE_S + 1)
            assert await world.store.rounds.begin(housekeeping.ROUND, UUID(int=9), 60) is not None
        return most

    monkeypatch.setattr(world.store.idempotency, "sweep", sweep)
    await first.once()
    assert swept == 3, "it stopped when it had lost the round, and the other one never began"
