"""Admission: which lanes are let in between two looks at the queues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.queue import MemoryBroker, MemoryQueue
from tidings.model import topics
from tidings.model.errors import Overloaded, Unavailable
from tidings.model.vocabulary import Channel, Lane
from tidings.pipeline.accept.admission import LATEST_S, SOONEST_S, Admission, Commits
from tidings.policy.admission import AdmissionRules
from tidings.ports.queue import Item

RULES = AdmissionRules(in_memory=100, lag_s=600, backlog=1_000)


class StuckQueue(MemoryQueue):
    """A queue that stores nothing until the test lets it."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def put(self, items: Sequence[Item]) -> None:
        await self.go_on.wait()
        await super().put(items)


class Gate:
    """An admission with its queue, commits and clock."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.queue = StuckQueue(MemoryBroker(self.clock))
        self.commits = Commits(self.queue, within_s=60)
        self.admission = Admission(self.queue, self.commits, self.clock, RULES, lambda: 0.5)

    def let_in(self, lane: Lane, most: int) -> int:
        """How many of `most` notifications in a row are let in."""
        for number in range(most):
            try:
                self.admission.admit(lane)
                self.admission.count(lane, 1)
            except Overloaded:
                return number
        return most

    async def wait(self, topic: str, count: int) -> None:
        """Put so many items into a queue."""
        await self.queue.put([Item(topic, "k", b"") for _ in range(count)])

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look at the queues within the context."""
        stopping = asyncio.Event()
        watching = asyncio.create_task(self.admission.watch(stopping))
        try:
            yield
        finally:
            stopping.set()
            await self.clock.advance(10)
            await watching


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def test_no_more_than_the_backlog_is_let_in_between_two_looks_at_the_queues(gate: Gate) -> None:
    assert gate.let_in(Lane.BULK, 2_000) == RULES.backlog // 2 + 1
    assert gate.let_in(Lane.NORMAL, 2_000) == RULES.backlog + 1
    assert gate.let_in(Lane.CRITICAL, 2_000) == 2_000


async def test_a_look_counts_the_items_of_every_channel_that_are_not_done(gate: Gate) -> None:
    gate.let_in(Lane.BULK, 2_000)
    async with gate.watched():
        await gate.clock.advance(1.5)
        assert gate.let_in(Lane.BULK, 1) == 1
        await gate.wait(topics.requests(Lane.BULK), 200)
        for channel in Channel:
            await gate.wait(topics.deliveries(channel, Lane.BULK), 100)
        await gate.clock.advance(1.5)
        assert gate.let_in(Lane.BULK, 1) == 0
        assert gate.let_in(Lane.NORMAL, 1) == 1, "what bulk leaves lying does not touch the others"


async def test_items_held_in_memory_are_bounded_in_every_lane(gate: Gate) -> None:
    gate.queue.go_on.clear()
    puts: list[asyncio.Task[None]] = []

    async def fill(lane: Lane) -> None:
        while gate.let_in(lane, 1):
            puts.append(asyncio.create_task(gate.commits.of(lane).put([Item(topics.requests(lane), "k", b"")])))
            await gate.clock.settle()

    for lane, most in zip(reversed(Lane), (40, 50, 60, 80, 90, 100), strict=True):
        await fill(lane)
        assert gate.commits.held == most
    gate.queue.go_on.set()
    await asyncio.gather(*puts)
    assert [gate.let_in(lane, 1) for lane in Lane] == [1] * 6


async def test_refusals_spread_retry_after_and_share_a_log_line(gate: Gate) -> None:
    gate.let_in(Lane.BULK, 2_000)
    with pytest.raises(Overloaded) as refused:
        gate.admission.admit(Lane.BULK)
    assert refused.value.retry_after_s == (SOONEST_S + LATEST_S) / 2
    with capture_logs() as lines:
        async with gate.watched():
            await gate.clock.advance(3)
    [line] = [line for line in lines if line["event"] == "overloaded"]
    assert (line["lane"], line["turned_away"]) == ("bulk", 2)


async def test_held_deliveries_count_as_load(gate: Gate) -> None:
    """They are in no queue, but all of them come back with the provider."""
    held = {topics.deliveries(Channel.SMS, Lane.NORMAL): 0, "of a later version": 10**6}
    asked: list[int] = []

    async def waiting(most: int) -> dict[str, int]:
        asked.append(most)
        return held

    gate.admission = Admission(gate.queue, gate.commits, gate.clock, RULES, lambda: 0.5, waiting)
    async with gate.watched():
        assert gate.let_in(Lane.NORMAL, 1) == 1
        held[topics.deliveries(Channel.SMS, Lane.NORMAL)] = RULES.backlog + 1
        await gate.clock.advance(2)
        assert gate.let_in(Lane.NORMAL_SURPLUS, 5) == 0
        assert gate.let_in(Lane.NORMAL, 5) == 5, "who is within the share is not refused for what others have waiting"
        held[topics.deliveries(Channel.SMS, Lane.NORMAL)] = 2 * RULES.backlog
        await gate.clock.advance(2)
        assert gate.let_in(Lane.NORMAL, 5) == 0, "up to a bound"
        assert gate.let_in(Lane.CRITICAL, 5) == 5
        held[topics.deliveries(Channel.SMS, Lane.NORMAL)] = 0
        await gate.clock.advance(2)
        assert gate.let_in(Lane.NORMAL, 5) == 5
    assert set(asked) == {2 * RULES.backlog}, "counting is bounded"


async def test_the_queues_are_looked_at_only_while_requests_come(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.clock = VirtualClock(0)
    gate.admission = Admission(gate.queue, gate.commits, gate.clock, RULES, lambda: 0.5)
    looks: list[int] = []
    depths = gate.queue.depths

    async def noted(pairs: Sequence[tuple[str, str]]) -> Sequence[int]:
        looks.append(gate.clock.elapsed())
        return await depths(pairs)

    monkeypatch.setattr(gate.queue, "depths", noted)
    async with gate.watched():
        await gate.clock.advance(10)
        assert looks == [], "nobody has asked yet"
        gate.let_in(Lane.BULK, 1)
        await gate.clock.advance(10)
        assert looks == [11_000, 12_000, 13_000, 14_000]


async def test_what_is_let_in_while_the_queues_are_looked_at_counts_once(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = asyncio.Event()

    async def slow(pairs: Sequence[tuple[str, str]]) -> Sequence[int]:
        await answer.wait()
        return [100 if topic == topics.requests(Lane.BULK) else 0 for topic, _ in pairs]

    monkeypatch.setattr(gate.queue, "depths", slow)
    gate.let_in(Lane.BULK, 50)
    async with gate.watched():
        await gate.clock.settle()
        gate.let_in(Lane.BULK, 30)
        answer.set()
        await gate.clock.settle()
        assert gate.let_in(Lane.BULK, 2_000) == RULES.backlog // 2 + 1 - 130


async def test_queues_that_cannot_be_looked_at_are_looked_at_again(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    began = gate.clock.elapsed()

    async def away(_: object) -> Sequence[int]:
        looks.append(gate.clock.elapsed() - began)
        raise Unavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(gate.queue, "depths", away)
        gate.let_in(Lane.BULK, 2_000)
        async with gate.watched():
            for _ in range(5):
                await gate.clock.advance(1)
                gate.let_in(Lane.BULK, 1)
            assert looks == [0, 1_000, 2_000, 4_000]
            patch.undo()
            await gate.clock.advance(4)
            assert gate.let_in(Lane.BULK, 1) == 1
            patch.setattr(gate.queue, "depths", away)
            looks.clear()
            await gate.clock.advance(2.5)
            assert looks == [10_000, 11_000], "the pauses begin anew"


async def test_a_commit_that_takes_long_refuses_its_own_lanes_only(gate: Gate) -> None:
    gate.admission = Admission(gate.queue, gate.commits, gate.clock, AdmissionRules(lag_s=0.0), lambda: 0.5)
    gate.queue.go_on.clear()
    put = asyncio.create_task(gate.commits.of(Lane.NORMAL).put([Item(topics.requests(Lane.NORMAL), "k", b"")]))
    await gate.clock.settle()
    assert [gate.admission.takes(lane) for lane in Lane] == [True, True, False, True, False, True]
    gate.queue.go_on.set()
    await put


def test_each_kind_of_lane_has_a_commit_of_its_own(gate: Gate) -> None:
    commits = gate.commits
    expected = [commits.critical, commits.critical_surplus, *[commits.others, commits.others_surplus] * 2]
    assert [commits.of(lane) for lane in Lane] == expected
    assert len(set(expected)) == 4


async def test_every_lane_is_open_exactly_if_the_surplus_of_bulk_is(gate: Gate) -> None:
    assert gate.admission.is_open()
    gate.let_in(Lane.NORMAL_SURPLUS, RULES.backlog // 2 + 1)
    assert not gate.admission.is_open()
    assert gate.let_in(Lane.NORMAL_SURPLUS, 1) == 1


@pytest.mark.parametrize(
    ("lane", "held", "left"),
    [
        (Lane.NORMAL_SURPLUS, {"deliveries.sms.normal": 400}, 1_000 - 50 - 20 - 400),
        (Lane.NORMAL_SURPLUS, {"deliveries.sms.normal.surplus": 400}, 1_000 - 50 - 20 - 400),
        (Lane.NORMAL_SURPLUS, {"deliveries.sms.normal.surplus": 510}, 1_000 - 50 - 20 - 510 - 10),
        (Lane.NORMAL_SURPLUS, {"deliveries.sms.normal": 300, "later": 1, "deliveries.push.normal": 300}, 330),
        (Lane.NORMAL, {"deliveries.sms.normal": 500, "deliveries.push.normal": 500}, 1_000 - 50),
        (Lane.NORMAL, {"deliveries.sms.normal": 600, "deliveries.push.normal": 700}, 1_000 - 50 - 100 - 200),
        (Lane.NORMAL, {"deliveries.sms.normal.surplus": 5_000}, 1_000 - 50),
    ],
)
async def test_held_deliveries_count_beside_what_is_queued(
    gate: Gate, lane: Lane, held: dict[str, int], left: int
) -> None:
    async def waiting(_: int) -> dict[str, int]:
        return held

    gate.admission = Admission(gate.queue, gate.commits, gate.clock, RULES, lambda: 0.5, waiting)
    await gate.wait(topics.requests(Lane.NORMAL), 50)
    await gate.wait(topics.requests(Lane.NORMAL_SURPLUS), 20)
    gate.let_in(Lane.CRITICAL, 1)  # so that somebody looks
    async with gate.watched():
        await gate.clock.settle()
        assert gate.let_in(lane, 2_000) == left + 1
