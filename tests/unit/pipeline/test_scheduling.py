"""Rows of the schedule that are due: what is put, what goes aside, and which rows are settled."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest

from support.flow import Flow
from tidings.model.errors import LeaseLost, Unavailable
from tidings.pipeline.runtime.reader import REPEATED
from tidings.pipeline.schedule.stage import LEASE_S, Schedule
from tidings.pipeline.schedule.waking import SAFE
from tidings.ports.queue import Item
from tidings.ports.schedule import Scheduled


class Rows:
    """Rows that are due, a queue that refuses some of them, and an object store that cannot hold some of those."""

    def __init__(self, flow: Flow, *rows: Scheduled) -> None:
        self.rows = list(rows)
        self.settled: list[UUID] = []
        self.puts: list[list[Item]] = []
        self.refused: dict[bytes, Exception] = {}
        self.kept: set[bytes] = set()
        self.takes_s = 0.0
        self._clock = flow.clock
        self.schedule = Schedule(self, self, self, flow.clock, flow.metrics, flow.shares)  # type: ignore[arg-type]

    async def due(self, *_: object) -> Sequence[Scheduled]:
        await self._clock.advance(self.takes_s)
        return self.rows

    async def settle(self, ids: Sequence[UUID]) -> None:
        self.settled += ids

    async def put(self, what: Sequence[Item] | str, body: bytes = b"") -> None:
        if isinstance(what, str):
            if body in self.kept:
                raise Unavailable("full")
            return
        for item in what:
            if item.body in self.refused:
                raise self.refused[item.body]
        self.puts.append(list(what))


def row(number: int, *, repeated: bool = False) -> Scheduled:
    return Scheduled(UUID(int=number), Item("requests.normal", "shop/ada", b"%d" % number, {"a": "b"}), repeated)


async def test_all_rows_are_put_together_and_settled(flow: Flow) -> None:
    rows = Rows(flow, row(1), row(2, repeated=True))
    assert await rows.schedule.once() == 2
    [[first, second]] = rows.puts
    assert (first.headers, second.headers) == ({"a": "b"}, {"a": "b", REPEATED: "1"})
    assert rows.settled == [UUID(int=1), UUID(int=2)]
    rows.rows = []
    assert await rows.schedule.once() == 0


async def test_a_refused_row_goes_aside_or_stays_and_the_others_are_put(flow: Flow) -> None:
    rows = Rows(flow, *map(row, range(6)))
    rows.refused = {b"1": ValueError("too large"), b"3": ValueError("too large")}
    rows.kept = {b"1"}
    assert await rows.schedule.once() == 6
    assert [item.body for put in rows.puts for item in put] == [b"0", b"2", b"4", b"5"]
    assert rows.settled == [UUID(int=number) for number in (0, 2, 3, 4, 5)]


async def test_rows_stay_while_the_queue_is_away(flow: Flow) -> None:
    rows = Rows(flow, *map(row, range(3)))
    rows.refused = {b"1": Unavailable("away")}
    with pytest.raises(Unavailable):
        await rows.schedule.once()
    assert (rows.puts, rows.settled) == ([], [])


@pytest.mark.parametrize(("part", "is_safe"), [(0.0, True), (SAFE - 0.001, True), (SAFE, False), (1.0, False)])
async def test_rows_whose_lease_may_end_soon_are_left_to_other_processes(
    flow: Flow, part: float, is_safe: bool
) -> None:
    rows = Rows(flow, row(1))
    rows.takes_s = part * LEASE_S
    if is_safe:
        assert await rows.schedule.once() == 1
    else:
        with pytest.raises(LeaseLost):
            await rows.schedule.once()
    assert len(rows.puts) == len(rows.settled) == int(is_safe)
