"""Precedence: batches of surplus are small while tenants within their share have work, and full afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tidings.backends.memory.clock import VirtualClock
from tidings.model.vocabulary import Lane, Priority
from tidings.pipeline.runtime import precedence as module
from tidings.pipeline.runtime.precedence import QUIET_AFTER_MS, SMALL_BATCH, Precedence

OWN, SURPLUS = Lane.of(Priority.NORMAL, surplus=False), Lane.of(Priority.NORMAL, surplus=True)
QUIET_S = QUIET_AFTER_MS / 1000


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock(0)
        self.precedence = Precedence(self.clock)
        self.came: list[tuple[Any, Any]] = []

    async def work(self, lane: Lane, *tenants: str) -> Any:
        async def stage(batch: Sequence[Any], begin: Any) -> Any:
            self.came.append((batch, begin))
            return ["done"]

        batch: Any = [SimpleNamespace(value=SimpleNamespace(tenant=tenant)) for tenant in tenants]
        begin: Any = object()
        result = await self.precedence.noting(lane, stage)(batch, begin)
        assert self.came[-1] == (batch, begin)
        return result

    def size(self, most: int = 1000) -> int:
        bounded = self.precedence.room(SURPLUS, most)
        assert bounded is not None
        return bounded()


@pytest.fixture
def world() -> World:
    return World()


async def test_the_stage_itself_works_as_without_it(world: World) -> None:
    assert await world.work(OWN, "shop") == ["done"]


def test_it_is_quiet_at_first(world: World) -> None:
    assert world.precedence.is_quiet()
    assert world.size() == 1000


async def test_it_is_quiet_once_nobody_within_a_share_had_work_for_a_while(world: World) -> None:
    await world.work(OWN, "shop")
    assert world.size() == SMALL_BATCH
    await world.clock.advance(QUIET_S - 0.001)
    assert not world.precedence.is_quiet()
    await world.clock.advance(0.001)
    assert world.precedence.is_quiet()
    assert world.size() == 1000


async def test_surplus_alone_leaves_it_quiet(world: World) -> None:
    await world.work(SURPLUS, "shop")
    assert world.precedence.is_quiet()


async def test_a_tenant_with_surplus_does_not_stand_in_its_own_way(world: World) -> None:
    await world.work(SURPLUS, "shop", "bank")
    await world.clock.advance(QUIET_S - 0.001)
    await world.work(OWN, "shop", "bank")
    assert world.precedence.is_quiet()
    await world.work(OWN, "shop", "post")
    assert not world.precedence.is_quiet(), "one of the two has no surplus"


async def test_a_tenant_whose_surplus_is_long_over_counts_as_another(world: World) -> None:
    await world.work(SURPLUS, "shop")
    await world.clock.advance(QUIET_S)
    await world.work(OWN, "shop")
    assert not world.precedence.is_quiet()


async def test_tenants_are_remembered_beside_each_other(world: World) -> None:
    await world.work(SURPLUS, "shop")
    await world.work(SURPLUS, "bank")
    await world.work(OWN, "shop")
    assert world.precedence.is_quiet()


async def test_only_so_many_tenants_are_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 2)
    for tenant in ("shop", "bank", "post"):
        await world.work(SURPLUS, tenant)
    await world.work(OWN, "post")
    assert world.precedence.is_quiet(), "the newest is known"
    await world.work(OWN, "shop")
    assert not world.precedence.is_quiet(), "the others were forgotten"


async def test_the_room_that_a_stage_has_bounds_its_surplus_too(world: World) -> None:
    room = [7]
    bounded = world.precedence.room(SURPLUS, 1000, lambda: room[0])
    assert bounded is not None
    assert bounded() == 7
    room[0] = 2000
    assert bounded() == 1000
    await world.work(OWN, "shop")
    assert (bounded(), world.size(most=5)) == (SMALL_BATCH, 5)
    room[0] = 50
    assert bounded() == 50


def test_work_within_the_shares_has_the_room_of_its_stage(world: World) -> None:
    def room() -> int:
        return 7

    assert world.precedence.room(OWN, 1000, room) is room
    assert world.precedence.room(OWN, 1000) is None
