"""The counter of accepted notifications: which sums it writes, what it marks for the audit, and what errors leave."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from support import eventually
from tidings.backends.memory.clock import VirtualClock
from tidings.model.accounting import MINUTE_MS, AcceptedCount, Gap
from tidings.model.errors import Unavailable
from tidings.model.ids import new_id
from tidings.pipeline.accept import accepted
from tidings.pipeline.accept.accepted import NEW_COUNTER_AFTER_MS, AcceptedCounter
from tidings.policy.stuck import STUCK_AFTER_MS

Written = tuple[int, list[tuple[str, int, int]]]


class Accounts:
    """Keeps what is written. It is away, or refuses the sums of some tenants, if the test says so."""

    def __init__(self) -> None:
        self.written: list[Written] = []
        self.gaps: list[Gap] = []
        self.marked = 0
        self.tries = 0
        self.away = False
        self.cannot_mark = False
        self.refused: set[str] = set()

    async def count(self, counter: UUID, counts: Sequence[AcceptedCount]) -> None:
        self.tries += 1
        if self.away:
            raise Unavailable("away")
        if any(one.tenant in self.refused for one in counts):
            raise ValueError(f"refused: {counts[0].tenant}")
        self.written.append((counter.int, [(one.tenant, one.minute, one.count) for one in counts]))

    async def mark_gaps(self, gaps: Sequence[Gap]) -> None:
        if self.cannot_mark:
            raise Unavailable("away")
        self.marked += 1
        self.gaps += gaps


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.accounts = Accounts()
        self.counters = 0
        self.counter = AcceptedCounter(self.accounts, self.clock, self._new)  # type: ignore[arg-type]

    @property
    def minute(self) -> int:
        return self.clock.now() // MINUTE_MS

    def ids(self, count: int, minutes_ago: int = 0) -> list[UUID]:
        return [new_id(self.clock.now() - minutes_ago * MINUTE_MS, 0, number) for number in range(count)]

    def _new(self) -> UUID:
        self.counters += 1
        return UUID(int=self.counters)


@pytest.fixture
def world() -> World:
    return World()


async def test_sums_are_written_whole_by_tenant_and_minute_of_the_id_and_only_when_they_changed(world: World) -> None:
    world.counter.add("shop", world.ids(2))
    world.counter.add("bank", world.ids(1))
    world.counter.add("shop", world.ids(3, minutes_ago=1))
    await world.counter.write()
    now = world.minute
    assert world.accounts.written == [(1, [("bank", now, 1), ("shop", now - 1, 3), ("shop", now, 2)])]
    await world.counter.write()
    assert (len(world.accounts.written), world.accounts.marked) == (1, 1), "nothing has changed"
    world.counter.add("shop", world.ids(1))
    await world.counter.write()
    assert world.accounts.written[1:] == [(1, [("shop", now, 3)])]


@pytest.mark.parametrize("what", ["away", "cannot_mark"])
async def test_what_could_not_be_written_is_written_the_next_time(world: World, what: str) -> None:
    world.counter.add("shop", world.ids(2, minutes_ago=5))
    world.counter.revisit("bank", world.ids(1, minutes_ago=5))
    setattr(world.accounts, what, True)
    with pytest.raises(Unavailable):
        await world.counter.write()
    assert world.accounts.gaps == []
    world.counter.add("shop", world.ids(1, minutes_ago=5))
    setattr(world.accounts, what, False)
    await world.counter.write()
    minute = world.minute - 5
    assert world.accounts.written[-1] == (1, [("shop", minute, 3)])
    assert world.accounts.gaps == [Gap("bank", minute, 1), Gap("shop", minute, 3)]


async def test_what_is_added_during_a_write_that_fails_is_written_the_next_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = world.accounts.count

    async def fails(counter: UUID, counts: Sequence[AcceptedCount]) -> None:
        world.counter.add("bank", world.ids(1))
        world.counter.revisit("bank", world.ids(1, minutes_ago=9))
        raise Unavailable("away")

    world.counter.add("shop", world.ids(1))
    with monkeypatch.context() as patch:
        patch.setattr(world.accounts, "count", fails)
        with pytest.raises(Unavailable):
            await world.counter.write()
    assert world.accounts.count == count
    await world.counter.write()
    assert world.accounts.written == [(1, [("bank", world.minute, 1), ("shop", world.minute, 1)])]
    assert world.accounts.gaps == [Gap("bank", world.minute - 9, 1)]


async def test_minutes_that_the_audit_may_have_looked_at_are_marked_and_no_later_ones(world: World) -> None:
    await world.clock.advance((MINUTE_MS - world.clock.now() % MINUTE_MS) / 1000)  # a minute begins
    looked_at = (world.clock.now() - STUCK_AFTER_MS) // MINUTE_MS
    for minutes in range(4):
        world.counter.add("shop", world.ids(2, minutes_ago=minutes))
    await world.counter.write()
    assert {gap.minute for gap in world.accounts.gaps} == set(range(world.minute - 3, looked_at))
    assert {gap.missing for gap in world.accounts.gaps} == {2}


async def test_what_may_have_been_counted_before_is_looked_at_again_and_not_counted(world: World) -> None:
    world.counter.revisit("shop", world.ids(3, minutes_ago=9))
    world.counter.revisit("bank", world.ids(1, minutes_ago=8))
    await world.counter.write()
    assert world.accounts.written == []
    assert world.accounts.gaps == [Gap("bank", world.minute - 8, 1), Gap("shop", world.minute - 9, 1)]
    await world.counter.write()
    assert world.accounts.marked == 1


@pytest.mark.parametrize(("age_ms", "counter"), [(NEW_COUNTER_AFTER_MS - 1, 1), (NEW_COUNTER_AFTER_MS, 2)])
async def test_after_an_hour_a_new_counter_begins_at_nothing(world: World, age_ms: int, counter: int) -> None:
    world.counter.add("shop", world.ids(2))
    minute = world.minute
    await world.clock.advance(age_ms / 1000)
    await world.counter.write()
    world.counter.add("shop", [new_id(minute * MINUTE_MS, 0, 9)])
    await world.counter.write()
    assert world.accounts.written == [
        (1, [("shop", minute, 2)]),
        (counter, [("shop", minute, 3 if counter == 1 else 1)]),
    ]
    assert world.counters == counter
    await world.counter.write()
    assert world.counters == counter, "the new one is young"


async def test_a_counter_whose_sums_could_not_be_written_is_not_replaced(world: World) -> None:
    world.counter.add("shop", world.ids(2))
    await world.clock.advance(NEW_COUNTER_AFTER_MS / 1000)
    world.accounts.away = True
    with pytest.raises(Unavailable):
        await world.counter.write()
    world.accounts.away = False
    await world.counter.write()
    assert [(counter, counts[0][2]) for counter, counts in world.accounts.written] == [(1, 2)]


async def test_a_counter_goes_on_while_there_are_sums_to_write(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted during a write belongs to the old counter."""
    count = world.accounts.count

    async def meanwhile(counter: UUID, counts: Sequence[AcceptedCount]) -> None:
        if world.accounts.tries == 0:
            world.counter.add("shop", world.ids(1))
        await count(counter, counts)

    monkeypatch.setattr(world.accounts, "count", meanwhile)
    await world.clock.advance(NEW_COUNTER_AFTER_MS / 1000)
    world.counter.add("shop", world.ids(2))
    await world.counter.write()
    await world.counter.write()
    assert [(counter, counts[0][2]) for counter, counts in world.accounts.written] == [(1, 2), (1, 3)]


async def test_a_sum_that_is_refused_does_not_keep_the_others_from_being_written(world: World) -> None:
    for tenant in ("a", "bad", "c", "evil"):
        world.counter.add(tenant, world.ids(1))
    world.accounts.refused = {"bad", "evil"}
    with pytest.raises(ValueError, match="refused"):
        await world.counter.write()
    assert [counts[0][0] for _, counts in world.accounts.written] == ["a", "c"]
    assert {counter for counter, _ in world.accounts.written} == {1}
    world.accounts.refused = set()
    await world.counter.write()
    assert [one[0] for one in world.accounts.written[-1][1]] == ["a", "bad", "c", "evil"], "whole sums: twice is once"


async def test_a_lone_sum_is_not_tried_again_at_once(world: World) -> None:
    world.counter.add("bad", world.ids(1))
    world.accounts.refused = {"bad"}
    with pytest.raises(ValueError, match="refused"):
        await world.counter.write()
    assert world.accounts.tries == 1


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_sums_are_not_tried_one_by_one_when_the_store_is_away(
    world: World, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = world.accounts.count

    async def then_away(counter: UUID, counts: Sequence[AcceptedCount]) -> None:
        world.accounts.away = world.accounts.tries == after
        await count(counter, counts)

    monkeypatch.setattr(world.accounts, "count", then_away)
    for tenant in ("a", "b", "bad", "d"):
        world.counter.add(tenant, world.ids(1))
    world.accounts.refused = {"bad"}
    with pytest.raises(Unavailable):
        await world.counter.write()
    assert world.accounts.tries == after + 1


class TestRunning:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(accepted, "WRITE_EVERY_S", 0.001)

    async def test_it_writes_again_and_again_and_does_not_end(self, world: World) -> None:
        async def add_and_wait(number: int) -> None:
            world.counter.add("shop", world.ids(1))
            await eventually(lambda: len(world.accounts.written) == number)

        async with world.counter.running() as counter:
            assert counter is world.counter
            for number in range(1, 4):
                await add_and_wait(number)

    async def test_it_goes_on_after_errors(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tidings.pipeline.runtime.setbacks.SHORTEST_S", 0.001)
        world.accounts.away = True
        async with world.counter.running() as counter:
            counter.add("shop", world.ids(1))
            await eventually(lambda: world.accounts.tries >= 3)
            world.accounts.away = False
            await eventually(lambda: world.accounts.written)

    async def test_the_rest_is_written_at_its_end(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(accepted, "WRITE_EVERY_S", 3600.0)
        async with world.counter.running() as counter:
            await asyncio.sleep(0)
            counter.add("shop", world.ids(2))
        assert [counts[0][2] for _, counts in world.accounts.written] == [2]

    async def test_a_store_that_is_away_at_the_end_hides_no_error(self, world: World) -> None:
        world.accounts.away = True

        async def fails() -> None:
            async with world.counter.running() as counter:
                counter.add("shop", world.ids(2))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fails()
        async with world.counter.running():
            pass
        assert world.accounts.written == []
