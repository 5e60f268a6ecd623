"""Rounds: when they repeat, when another process may make them, and how the canary's arrival is found out."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from support.stores import notification
from tidings.backends.memory.accounts import MemoryRounds
from tidings.backends.memory.clock import VirtualClock
from tidings.model.errors import Invalid, Unavailable
from tidings.model.history import Event, NotificationRecord
from tidings.model.ids import delivery_id
from tidings.model.tenant import CANARY_TENANT
from tidings.model.vocabulary import State
from tidings.pipeline.rounds.canary import FIRST_LOOK_S, LONGEST_LOOK_S, ROUND, USER, Canary
from tidings.pipeline.rounds.rounds import ROUNDS_MISSED, leave, repeat
from tidings.telemetry.metrics import Metrics

OTHER = UUID(int=9)
EVERY_S, DEADLINE_S = 30.0, 10.0
NOTE = notification(CANARY_TENANT, 0, USER)
ACCEPTED = Event(NOTE.id, 0, State.PENDING)
ROUTED = Event(delivery_id(NOTE.id, 3), 0, State.PENDING)
ARRIVED = Event(delivery_id(NOTE.id, 3), 0, State.DELIVERED)
WHOLE = Event(NOTE.id, 0, State.DELIVERED)


async def test_after_a_failure_a_short_round_waits_longer_and_a_long_one_as_ever() -> None:
    for every_s, expected in ((0.1, [0, 500, 1500, 1600]), (3.0, [0, 3000, 6000, 9000])):
        clock, stopping, made = VirtualClock(0), asyncio.Event(), list[int]()

        async def once(clock: VirtualClock = clock, made: list[int] = made) -> None:
            made.append(clock.now())
            if len(made) < 3:
                raise Unavailable("away")

        running = asyncio.create_task(repeat("test", once, every_s, stopping, clock, Metrics()))
        while len(made) < 4:
            await clock.advance(0.1)
        assert made == expected
        stopping.set()
        await clock.settle()
        assert running.done()


@pytest.mark.parametrize("error", [None, Unavailable("away")])
async def test_a_process_that_leaves_hands_the_round_over_if_it_can(error: Exception | None) -> None:
    released: list[tuple[str, UUID]] = []

    async def release(name: str, holder: UUID) -> None:
        released.append((name, holder))
        if error is not None:
            raise error

    rounds: Any = SimpleNamespace(release=release)
    await leave(rounds, "test", OTHER)
    assert released == [("test", OTHER)]


async def test_other_errors_of_leaving_pass() -> None:
    async def release(*_: object) -> None:
        raise ZeroDivisionError

    rounds: Any = SimpleNamespace(release=release)
    with pytest.raises(ZeroDivisionError):
        await leave(rounds, "test", OTHER)


class World:
    """A canary, and what is read of its notification at each look."""

    def __init__(self, *events: tuple[Event, ...]) -> None:
        self.clock, self.metrics = VirtualClock(), Metrics()
        self.start = self.clock.now()
        self.rounds = MemoryRounds(self.clock.now)
        self.events = list(events)
        self.looks: list[int] = []
        self.known: list[Any] = []
        self.removed: list[tuple[Any, ...]] = []
        self.result: Any = NOTE.id
        directory: Any = SimpleNamespace(rounds=self.rounds, tenants=self)
        shard: Any = SimpleNamespace(history=self, inbox=self, users=self)
        self.canary = Canary(self.accept, directory, shard, self.clock, self.metrics, EVERY_S, DEADLINE_S)

    async def accept(self, tenant: str, body: bytes) -> Any:
        assert (tenant, b'"user_id":"canary"' in body, b'"inapp"' in body) == (CANARY_TENANT, True, True)
        return SimpleNamespace(results=[self.result])

    async def add(self, tenant: Any) -> None:
        self.known.append(tenant.id)

    async def upsert(self, tenant: str, users: list[Any], now: int) -> None:
        assert now == self.start
        self.known.append((tenant, users[0][0]))

    async def get(self, tenant: str, id: UUID) -> NotificationRecord | None:
        assert (tenant, id) == (CANARY_TENANT, NOTE.id)
        self.looks.append(self.clock.now() - self.start)
        events = self.events.pop(0) if len(self.events) > 1 else self.events[0]
        return NotificationRecord(NOTE, events) if events else None

    async def remove(self, *what: Any) -> None:
        self.removed.append(what)

    async def fly(self, seconds: float) -> bool:
        with capture_logs():
            flying = asyncio.create_task(self.canary.once())
            await self.clock.advance(seconds)
            assert flying.done()
            return await flying

    @property
    def told(self) -> list[float]:
        """How many arrived, in how many seconds in total, and how many failed."""
        names = ("tidings_canary_seconds_count", "tidings_canary_seconds_sum", "tidings_canary_failures_total")
        return [self.metrics.value(name, {}) or 0.0 for name in names]


async def test_looks_are_frequent_at_first_and_then_four_a_second() -> None:
    world = World(())
    await world.fly(DEADLINE_S + LONGEST_LOOK_S)
    pauses = [later - earlier for earlier, later in zip([0, *world.looks], world.looks, strict=False)]
    assert pauses[:4] == [20, 30, 45, 68]
    assert pauses[8:] == [250] * len(pauses[8:])
    assert (FIRST_LOOK_S, LONGEST_LOOK_S) == (0.02, 0.25)
    assert DEADLINE_S * 1000 <= world.looks[-1] < (DEADLINE_S + LONGEST_LOOK_S) * 1000
    assert world.told == [0, 0, 1]
    assert world.removed == []


async def test_it_has_arrived_once_a_delivery_is_delivered() -> None:
    world = World((), (ACCEPTED,), (ACCEPTED, ROUTED, WHOLE), (ACCEPTED, ROUTED, ARRIVED))
    assert await world.fly(1)
    assert world.looks == [20, 50, 95, 163]
    assert world.told == [1, 0.163, 0]
    at = world.start + 163
    assert world.metrics.value("tidings_canary_timestamp_seconds", {}) == at / 1000
    assert world.removed == [(CANARY_TENANT, USER, at + 1)], "its item too, which was made at this instant"


async def test_its_tenant_and_user_are_made_once() -> None:
    world = World((ARRIVED,))
    for _ in range(2):
        await world.fly(1)
        world.start = world.clock.now()
    assert world.known == [CANARY_TENANT, (CANARY_TENANT, USER)]


async def test_one_that_is_not_valid_is_told_as_failed_and_raised() -> None:
    world = World(())
    world.result = Invalid("wrong", "not valid")
    with pytest.raises(Invalid):
        await world.fly(1)
    assert world.told == [0, 0, 1]


async def test_another_process_waits_until_one_can_have_ended_and_missed_some_rounds() -> None:
    world = World((ARRIVED,))
    await world.fly(0.02)
    await world.clock.advance(ROUNDS_MISSED * EVERY_S + DEADLINE_S - 0.021)
    assert await world.rounds.begin(ROUND, OTHER, 1.0) is None
    await world.clock.advance(0.001)
    assert await world.rounds.begin(ROUND, OTHER, 1.0) is not None
    assert not await world.canary.once()
    assert world.told[0] == 1


async def test_canaries_follow_each_other_until_the_process_stops() -> None:
    world, stopping = World((ARRIVED,)), asyncio.Event()
    running = asyncio.create_task(world.canary.run(stopping))
    await world.clock.advance(0.1)
    assert world.told[0] == 1
    await world.clock.advance(EVERY_S)
    assert world.told[0] == 2
    stopping.set()
    await world.clock.settle()
    assert running.done()
    assert await world.rounds.begin(ROUND, OTHER, 1.0) is not None
