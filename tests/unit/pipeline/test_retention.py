"""Retention: old days go into the archive and leave the store only when every object of them is proven."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tidings.backends.memory.accounts import MemoryRounds
from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.objects import MemoryObjects
from tidings.model.days import DAY_MS, ArchivedDay, DayState, Part, day_text
from tidings.model.errors import Unreadable
from tidings.pipeline.rounds.retention import EVERY_S, FIRST_AFTER_S, LEASE_S, ROUND, Retention
from tidings.policy.days import QUIET_DAYS
from tidings.ports.days import EVENTS, NOTIFICATIONS, Slice
from tidings.telemetry.metrics import Metrics

TODAY = 1_700_000_000_000 // DAY_MS
KEPT = 5
OLD = TODAY - 8
FIRST, LAST = ("bank", UUID(int=1)), ("shop", UUID(int=2))
OTHER = UUID(int=9)
"""Another process."""
Rows = tuple[str, int]


def text(number: int) -> str:
    return day_text(OLD + number)


def named(number: int, kind: str, place: int, passes: int = 0) -> str:
    return f"archive/{text(number)}/{kind}-{passes}-{place:05}.files"


class Written(MemoryObjects):
    """Objects that may come back otherwise than they were written."""

    def __init__(self) -> None:
        super().__init__()
        self.damage: dict[str, bytes | None] = {}

    async def get(self, name: str) -> bytes | None:
        return self.damage[name] if name in self.damage else await super().get(name)

    async def names(self) -> list[str]:
        return [name async for name in self.list("")]


class Files:
    """Archive files that are the slice's file with a head. The rows found in them are those written, or `found`."""

    suffix = ".files"

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, int] | Exception] = {}

    async def write(self, kind: str, rows: Path, file: Path) -> None:
        file.write_bytes(kind.encode() + b":" + rows.read_bytes())

    async def check(self, kind: str, file: Path) -> tuple[int, int]:
        what, _, text = file.read_text().partition(":")
        assert what == kind
        day, rows = text.split()
        found = self.found.get(day, (int(rows), 7))
        if isinstance(found, Exception):
            raise found
        return found


class Days:
    """Days with slices of so many rows. Notes what is done to them."""

    def __init__(self) -> None:
        self.stored: dict[int, list[Rows]] = {}
        self.carried: dict[int, list[Rows]] = {}
        self.refused: dict[int, str] = {}
        self.written_to: set[int] = set()
        self.passes = 0
        self.sealed: dict[int, list[Part]] = {}
        self.sealed_carried: list[tuple[int, Part]] | None = None
        self.can_seal_carried = True
        self.rolled: list[int] = []
        self.quiet_since: list[int] = []
        self.begun: list[int] = []
        self.cleared: list[int] = []
        self.takes: Any = None

    async def clear(self) -> int:
        self.cleared.append(len(self.sealed))
        return 0

    async def roll(self, now: int) -> int:
        self.rolled.append(now)
        return 0

    async def closed(self, before: int) -> Sequence[int]:
        assert before == TODAY
        return sorted(self.stored, reverse=True)

    async def begin(self, day: int, now: int) -> str | None:
        assert now // DAY_MS == TODAY
        self.begun.append(day)
        return self.refused.get(day)

    async def states(self, first: int, last: int) -> Sequence[DayState]:
        assert first == last
        return [DayState(first, passes=self.passes)]

    async def slices(self, day: int, folder: Path) -> AsyncIterator[Slice]:
        for kind, rows in (self.stored | self.carried)[day]:
            assert not list(folder.iterdir()), "the files of the slice before it are gone"
            if self.takes is not None:
                await self.takes(day)
            file = folder / "slice.csv"
            file.write_text(f"{day} {rows}")
            yield Slice(day, kind, file, rows, 7, FIRST, LAST)

    async def seal(self, day: int, parts: Sequence[Part], now: int) -> bool:
        assert now // DAY_MS == TODAY
        if day in self.written_to:
            return False
        self.sealed[day] = list(parts)
        return True

    async def begin_carried(self, quiet_since: int) -> Sequence[int]:
        self.quiet_since.append(quiet_since)
        return list(self.carried)

    async def seal_carried(self, parts: Sequence[tuple[int, Part]], now: int) -> bool:
        assert now // DAY_MS == TODAY
        if self.can_seal_carried:
            self.sealed_carried = list(parts)
        return self.can_seal_carried

    async def archived(self, first: int, last: int) -> Sequence[ArchivedDay]:
        assert first == last
        return [ArchivedDay(first, 0, tuple(self.sealed[first]))]


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock(TODAY * DAY_MS + 1)
        self.rounds = MemoryRounds(self.clock.now)
        self.days, self.objects, self.files, self.metrics = Days(), Written(), Files(), Metrics()

    def retention(self, kept: int = KEPT) -> Retention:
        directory: Any = SimpleNamespace(rounds=self.rounds)
        shard: Any = SimpleNamespace(days=self.days)
        files: Any = self.files
        return Retention(directory, shard, self.objects, files, self.clock, self.metrics, kept)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.value(name, labels) or 0.0

    @property
    def unproven(self) -> float:
        return self.value("tidings_stage_failures_total", stage=ROUND, topic="", kind="unproven")

    @property
    def rows(self) -> float:
        return self.value("tidings_archived_rows_total")


@pytest.fixture
def world() -> World:
    return World()


async def test_old_days_go_into_the_archive_oldest_first_and_young_ones_stay(world: World) -> None:
    world.days.stored = {
        OLD: [(NOTIFICATIONS, 2), (EVENTS, 3)],
        OLD + 1: [(NOTIFICATIONS, 1)],
        TODAY - KEPT: [(NOTIFICATIONS, 9)],
    }
    assert await world.retention().once()
    assert world.days.begun == [OLD, OLD + 1]
    assert list(world.days.sealed) == [OLD, OLD + 1]
    assert world.days.rolled == [world.clock.now()]
    assert world.rows == 6
    stored = [await world.objects.get(named(0, NOTIFICATIONS, 1)), await world.objects.get(named(0, EVENTS, 2))]
    assert stored == [b"notifications:%d 2" % OLD, b"events:%d 3" % OLD]
    sizes = [len(body or b"") for body in stored]
    assert world.value("tidings_archived_bytes_total") == sum(sizes) + len(b"notifications:%d 1" % OLD)
    digests = [hashlib.sha256(body or b"").hexdigest() for body in stored]
    assert world.days.sealed[OLD] == [
        Part(named(0, NOTIFICATIONS, 1), NOTIFICATIONS, 2, sizes[0], digests[0], *FIRST, *LAST),
        Part(named(0, EVENTS, 2), EVENTS, 3, sizes[1], digests[1], *FIRST, *LAST),
    ]


async def test_a_manifest_beside_the_objects_tells_what_is_in_them(world: World) -> None:
    world.days.stored, world.days.passes = {OLD: [(NOTIFICATIONS, 2), (EVENTS, 3)]}, 4
    await world.retention().once()
    manifest = await world.objects.get(f"archive/{text(0)}/manifest-4.json")
    assert msgspec.json.decode(manifest or b"", type=list[Part]) == world.days.sealed[OLD]
    assert [part.name for part in world.days.sealed[OLD]] == [named(0, NOTIFICATIONS, 1, 4), named(0, EVENTS, 2, 4)]


async def test_slices_without_rows_become_no_objects_and_a_day_without_any_no_manifest(world: World) -> None:
    world.days.stored = {OLD: [(NOTIFICATIONS, 0), (EVENTS, 2)], OLD + 1: [(NOTIFICATIONS, 0)], OLD + 2: []}
    await world.retention().once()
    assert await world.objects.names() == [named(0, EVENTS, 1), f"archive/{text(0)}/manifest-0.json"]
    assert [len(parts) for parts in world.days.sealed.values()] == [1, 0, 0]


async def test_tables_of_sealed_days_are_dropped_before_the_next_day_and_at_both_ends(world: World) -> None:
    world.days.stored = {OLD: [(NOTIFICATIONS, 1)], OLD + 1: [(NOTIFICATIONS, 1)]}
    await world.retention().once()
    assert world.days.cleared == [0, 1, 2, 2]


async def test_if_all_days_are_kept_they_are_only_summed_up(world: World) -> None:
    world.days.stored = world.days.carried = {OLD: [(NOTIFICATIONS, 2)]}
    assert await world.retention(0).once()
    assert (world.days.begun, world.days.quiet_since, world.days.sealed_carried) == ([], [], None)
    assert len(world.days.rolled) == 1


async def test_a_day_that_cannot_be_archived_yet_is_told_and_stops_no_other(world: World) -> None:
    world.days.stored = {OLD: [(NOTIFICATIONS, 2)], OLD + 1: [(NOTIFICATIONS, 1)]}
    world.days.refused = {OLD: "some of its minutes have a gap"}
    assert await world.retention().once()
    assert list(world.days.sealed) == [OLD + 1]
    assert world.value("tidings_unarchived_days_total") == 1
    assert not [name for name in await world.objects.names() if text(0) in name]


@pytest.mark.parametrize("back", [None, b"", b"notifications:x 2"])
async def test_a_day_stays_if_an_object_comes_back_otherwise(world: World, back: bytes | None) -> None:
    world.days.stored = {OLD: [(NOTIFICATIONS, 2)], OLD + 1: [(NOTIFICATIONS, 1)]}
    world.objects.damage = {named(0, NOTIFICATIONS, 1): back}
    assert await world.retention().once()
    assert list(world.days.sealed) == [OLD + 1]
    assert (world.unproven, world.rows) == (1, 1)


@pytest.mark.parametrize("found", [(1, 7), (2, 8), (3, 7), Unreadable("damaged")])
async def test_a_day_stays_if_other_rows_are_read_back(world: World, found: tuple[int, int] | Exception) -> None:
    world.days.stored = {OLD: [(NOTIFICATIONS, 2)], OLD + 1: [(NOTIFICATIONS, 1)]}
    world.files.found = {str(OLD): found}
    assert await world.retention().once()
    assert list(world.days.sealed) == [OLD + 1]
    assert (world.unproven, world.rows) == (1, 1)


async def test_a_day_that_was_written_to_meanwhile_waits_for_the_next_round(world: World) -> None:
    world.days.stored = {OLD: [(NOTIFICATIONS, 2)], OLD + 1: [(NOTIFICATIONS, 1)]}
    world.days.written_to = {OLD}
    one = world.retention()
    assert await one.once()
    assert list(world.days.sealed) == [OLD + 1]
    assert (world.unproven, world.rows) == (0, 1)
    world.days.written_to.clear()
    assert await one.once()
    assert OLD in world.days.sealed


async def test_what_a_broken_off_attempt_left_is_deleted_and_nothing_else(world: World) -> None:
    left, others = named(0, NOTIFICATIONS, 2), [named(1, NOTIFICATIONS, 2), f"archive/{text(0)}/note.txt", "x/y.files"]
    for name in (left, *others):
        await world.objects.put(name, b"")
    world.days.stored = {OLD: [(NOTIFICATIONS, 2)]}
    await world.retention().once()
    kept = [named(0, NOTIFICATIONS, 1), f"archive/{text(0)}/manifest-0.json"]
    assert await world.objects.names() == sorted([*kept, *others])


async def test_carried_notifications_follow_once_they_have_been_quiet(world: World) -> None:
    world.days.carried = {OLD + 2: [], OLD: [(NOTIFICATIONS, 2), (EVENTS, 4)], OLD + 1: [(NOTIFICATIONS, 1)]}
    assert await world.retention().once()
    assert world.days.quiet_since == [world.clock.now() - QUIET_DAYS * DAY_MS]
    assert [(day, part.name) for day, part in world.days.sealed_carried or []] == [
        (OLD, named(0, NOTIFICATIONS, 1)),
        (OLD, named(0, EVENTS, 2)),
        (OLD + 1, named(1, NOTIFICATIONS, 1)),
    ]
    assert world.rows == 7


async def test_if_one_carried_object_is_not_proven_all_of_them_stay(world: World) -> None:
    world.days.carried = {OLD: [(NOTIFICATIONS, 2)], OLD + 1: [(NOTIFICATIONS, 1)]}
    world.files.found = {str(OLD + 1): (1, 8)}
    assert await world.retention().once()
    assert world.days.sealed_carried is None
    assert (world.unproven, world.rows) == (1, 0)


async def test_carried_notifications_that_were_written_to_are_not_told_as_archived(world: World) -> None:
    world.days.carried, world.days.can_seal_carried = {OLD: [(NOTIFICATIONS, 2)]}, False
    assert await world.retention().once()
    assert world.rows == 0


async def test_one_process_at_a_time_makes_the_rounds(world: World) -> None:
    await world.rounds.begin(ROUND, OTHER, LEASE_S)
    world.days.stored = {OLD: [(NOTIFICATIONS, 2)]}
    assert not await world.retention().once()
    assert (world.days.cleared, world.days.rolled, world.days.begun) == ([], [], [])


async def test_each_slice_renews_the_lease(world: World) -> None:
    async def takes(_day: int) -> None:
        await world.clock.advance(LEASE_S - 1)
        assert await world.rounds.begin(ROUND, OTHER, LEASE_S) is None

    world.days.stored, world.days.takes = {OLD: [(NOTIFICATIONS, 2)] * 3}, takes
    assert await world.retention().once()
    assert list(world.days.sealed) == [OLD]


async def test_a_process_that_lost_the_round_seals_nothing_more(world: World) -> None:
    async def takes(day: int) -> None:
        if day == OLD + 1:
            await world.clock.advance(LEASE_S)
            assert await world.rounds.begin(ROUND, OTHER, LEASE_S) is not None

    world.days.stored = {OLD + number: [(NOTIFICATIONS, 2)] for number in range(3)}
    world.days.takes = takes
    assert not await world.retention().once()
    assert list(world.days.sealed) == [OLD]
    assert world.days.begun == [OLD, OLD + 1]


async def test_the_first_round_waits_the_next_follow_and_a_process_that_stops_leaves_them(world: World) -> None:
    stopping = asyncio.Event()
    running = asyncio.create_task(world.retention(0).run(stopping))
    await world.clock.advance(FIRST_AFTER_S - 1)
    assert world.days.rolled == []
    await world.clock.advance(1)
    assert len(world.days.rolled) == 1
    await world.clock.advance(EVERY_S)
    assert len(world.days.rolled) == 2
    stopping.set()
    await world.clock.settle()
    assert running.done()
    assert await world.rounds.begin(ROUND, OTHER, LEASE_S) is not None
