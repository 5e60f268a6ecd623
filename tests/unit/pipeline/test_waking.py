"""The loop that moves due rows: when it looks, how much it moves at once, and what it does after an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from tidings.backends.memory.clock import VirtualClock
from tidings.model.errors import LeaseLost, Unavailable
from tidings.pipeline.schedule.waking import LEASED_BY_OTHERS_S, LONGEST_SLEEP_S, MOST_AT_ONCE, Lease, keep_moving
from tidings.telemetry.metrics import Metrics

BATCH = 10


class Rows:
    """Rows that fall due at `due`. A move has the next of `results` (0 after them), `takes_s` later unless it fails."""

    def __init__(self) -> None:
        self.clock, self.metrics = VirtualClock(), Metrics()
        self.due: int | None = None
        self.results: list[int | Exception] = []
        self.takes_s = 0.0
        self.looks = 0
        self.moves: list[int] = []
        """When each move began, in milliseconds."""
        self.ended = 0
        self._start = self.clock.now()

    async def next_due(self) -> int | None:
        self.looks += 1
        return self.due

    async def move(self) -> int:
        self.moves.append(self.clock.now() - self._start)
        result = self.results.pop(0) if self.results else 0
        if isinstance(result, Exception):
            raise result
        if self.takes_s:
            await self.clock.sleep(self.takes_s)
        self.ended += 1
        if not self.results:
            self.due = None
        return result

    def put(self, *results: int | Exception, after_ms: int = 0) -> None:
        self.due, self.results = self.clock.now() + after_ms, list(results)

    def failures(self, kind: str) -> float:
        labels = {"stage": "rows", "topic": "", "kind": kind}
        return self.metrics.value("tidings_stage_failures_total", labels) or 0.0

    @asynccontextmanager
    async def moving(self) -> AsyncIterator[asyncio.Event]:
        stopping = asyncio.Event()
        loop = keep_moving("rows", self.move, self.next_due, BATCH, self.clock, self.metrics, stopping)
        running = asyncio.create_task(loop)
        await self.clock.settle()
        try:
            yield stopping
            assert not running.done()
            stopping.set()
            await self.clock.settle()
            assert running.done(), "it ends at once"
        finally:
            running.cancel()
            await asyncio.wait({running})


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """Nothing is logged: a traceback with all variables would take a second."""
    with capture_logs():
        yield


@pytest.fixture
def rows() -> Rows:
    return Rows()


async def test_while_nothing_is_due_it_only_looks_once_a_second(rows: Rows) -> None:
    async with rows.moving():
        assert rows.looks == 1
        await rows.clock.advance(LONGEST_SLEEP_S - 0.1)
        assert rows.looks == 1
        await rows.clock.advance(0.1)
        assert rows.looks == 2
    assert rows.moves == []


@pytest.mark.parametrize("after_ms", [0, 1, 300, 999, 1_000, 2_500])
async def test_a_row_moves_at_its_instant(rows: Rows, after_ms: int) -> None:
    rows.put(1, after_ms=after_ms)
    async with rows.moving():
        await rows.clock.advance(5)
    assert rows.moves == [after_ms]


async def test_a_row_that_another_process_writes_is_noticed_within_a_second(rows: Rows) -> None:
    rows.due = rows.clock.now() + 60_000
    async with rows.moving():
        await rows.clock.advance(0.1)
        rows.put(1)
        await rows.clock.advance(LONGEST_SLEEP_S)
    assert len(rows.moves) == 1


async def test_only_after_a_full_batch_several_move_at_once(rows: Rows) -> None:
    rows.takes_s = 0.1
    rows.put(BATCH - 1, BATCH, 4, 3, 3, 1)
    async with rows.moving():
        await rows.clock.advance(2)
    assert MOST_AT_ONCE == 3
    assert rows.moves == [0, 100, 200, 200, 200, 300, 300, 300], "4 + 3 + 3 are a full batch too"


async def test_after_a_rest_one_batch_moves_alone_again(rows: Rows) -> None:
    rows.put(BATCH)
    async with rows.moving():
        await rows.clock.advance(0.5)
        rows.put(1)
        await rows.clock.advance(LONGEST_SLEEP_S)
    assert len(rows.moves) == 2


async def test_while_others_hold_all_due_rows_it_tries_again_soon(rows: Rows) -> None:
    rows.put(0, 0, 1)
    async with rows.moving():
        await rows.clock.advance(1)
    assert rows.moves == [0, 20, 40]
    assert LEASED_BY_OTHERS_S == 0.02


async def test_a_lost_lease_is_counted_and_the_next_try_comes_soon(rows: Rows) -> None:
    rows.put(LeaseLost("late"), LeaseLost("late"), 1)
    async with rows.moving():
        await rows.clock.advance(1)
    assert rows.moves == [0, 20, 40]
    assert (rows.failures("lease_lost"), rows.failures("error")) == (2, 0)


async def test_pauses_grow_with_each_failure_until_a_success(rows: Rows) -> None:
    rows.put(Unavailable("away"), ZeroDivisionError(), 1, Unavailable("away"), 1)
    async with rows.moving():
        await rows.clock.advance(5)
    assert rows.moves == [0, 500, 1500, 1500, 2000]
    assert (rows.failures("unavailable"), rows.failures("error")) == (2, 1)


async def test_a_failed_move_is_raised_once_the_others_beside_it_have_ended(rows: Rows) -> None:
    rows.takes_s = 0.1
    rows.put(BATCH, 2, LeaseLost("late"), 3, 1)
    async with rows.moving():
        await rows.clock.advance(0.15)
        assert (len(rows.moves), rows.ended, rows.failures("lease_lost")) == (4, 1, 0)
        await rows.clock.advance(0.05)
        assert (rows.ended, rows.failures("lease_lost")) == (3, 1)
        await rows.clock.advance(1)
    assert rows.moves[4] == 220


class TwoClocks(VirtualClock):
    """A clock whose `elapsed` goes its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.slept = 0

    def elapsed(self) -> int:
        return super().elapsed() // 7 + self.slept


@pytest.mark.parametrize(
    ("wall_s", "elapsed_ms", "is_safe"),
    [(0.0, 0, True), (14.999, 0, True), (15.0, 0, False), (0.0, 14_999, True), (0.0, 15_000, False), (-60.0, 1, True)],
)
async def test_a_lease_is_measured_with_both_clocks(wall_s: float, elapsed_ms: int, is_safe: bool) -> None:
    clock = TwoClocks()
    lease = Lease(30.0, clock)
    clock._now += round(wall_s * 1000)
    clock.slept = elapsed_ms
    if is_safe:
        lease.check()
    else:
        with pytest.raises(LeaseLost):
            lease.check()
