"""Recurrences that are due together: which are put together, into which lane, and what becomes of one that fails."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from support.flow import TENANT, Flow
from tidings.model.recurrence import Recurrence
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.schedule import recur
from tidings.pipeline.schedule.recur import LEASE_S, MOST_COMPUTING_MS, Recur
from tidings.policy import recurring
from tidings.policy.recurring import occurrence_id
from tidings.policy.shares import ShareRules, Shares
from tidings.ports.queue import Item
from tidings.services.recurrences import Recurrences

REQUEST = {"to": {"phone": "+4915123456789"}, "content": {"sms": {"text": "Hello"}}}


class Due:
    """Five recurrences that are due now, the stage that moves them, and what it puts and counts."""

    def __init__(self, flow: Flow, monkeypatch: pytest.MonkeyPatch, shares: Shares | None = None) -> None:
        self.flow = flow
        self.made: list[Recurrence] = []
        self.puts: list[list[str]] = []
        self.counted: list[UUID] = []
        self.revisited: list[UUID] = []
        self.refuses: UUID | None = None
        self.reported: list[tuple[str, str, str]] = []
        monkeypatch.setattr(flow.metrics, "failure", lambda *failure: self.reported.append(failure))
        self._put = flow.queue.put
        monkeypatch.setattr(flow.queue, "put", self._noted)
        self.recur = Recur(
            flow.store.recurrences,
            flow.store.users,
            Composer(flow.renderer, random.Random(1).getrandbits),
            flow.queue,
            flow.clock,
            flow.metrics,
            lambda _, ids: self.counted.extend(ids),
            shares=shares,
            revisit=lambda _, ids: self.revisited.extend(ids),
        )

    async def start(self, rrule: str = "FREQ=DAILY") -> Due:
        bits = random.Random(7).getrandbits
        composer = Composer(self.flow.renderer, bits)
        service = Recurrences(self.flow.store.recurrences, self.flow.store.users, composer, self.flow.clock, bits)
        body = {"rrule": rrule, "start": "2023-11-15T09:00", "timezone": "UTC", "request": REQUEST}
        self.made = [await service.create(TENANT, json.dumps(body).encode()) for _ in range(5)]
        due = self.made[0].progress.due
        assert due is not None
        await self.flow.clock.advance((due - self.flow.clock.now()) / 1000)
        return self

    async def _noted(self, items: Sequence[Item]) -> None:
        if self.refuses is not None and any(str(self.refuses).encode() in item.body for item in items):
            raise ValueError("too large")
        self.puts.append([item.topic for item in items])
        await self._put(items)

    def ids(self) -> set[UUID]:
        return {occurrence_id(one) for one in self.made}

    async def skipped(self) -> list[tuple[int, bool]]:
        """Of each recurrence: how many occurrences were skipped, and whether it has a problem."""
        seen = [await self.flow.store.recurrences.get(TENANT, one.id) for one in self.made]
        return [(one.progress.skipped, bool(one.progress.problem)) for one in seen if one is not None]


@pytest.mark.parametrize(
    ("cost_ms", "together"),
    [
        (0, [5]),
        (MOST_COMPUTING_MS // 5, [5]),
        (MOST_COMPUTING_MS // 2, [2, 2, 1]),
        (MOST_COMPUTING_MS - 1, [2, 2, 1]),
        (MOST_COMPUTING_MS, [1] * 5),
    ],
)
async def test_as_many_are_put_together_as_can_be_computed_in_one_slice(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, cost_ms: int, together: list[int]
) -> None:
    due = await Due(flow, monkeypatch).start()
    costly = recurring.step

    def slow(*arguments: Any, **options: Any) -> Any:
        flow.clock._now += cost_ms
        return costly(*arguments, **options)

    monkeypatch.setattr(recur, "step", slow)
    assert await due.recur.once() == 5
    assert [len(put) for put in due.puts] == together
    assert (set(due.counted), len(due.counted), due.revisited) == (due.ids(), 5, [])
    assert await due.recur.once() == 0


async def test_what_exceeds_the_tenants_share_is_surplus(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    due = await Due(flow, monkeypatch, Shares(ShareRules(per_second=1.0, burst=2))).start()
    await due.recur.once()
    assert due.puts == [["requests.normal"] * 2 + ["requests.normal.surplus"] * 3]


@pytest.mark.parametrize("what", ["compose", "put"])
@pytest.mark.parametrize("place", [0, 4])
async def test_one_that_fails_has_a_second_chance_and_is_then_skipped_alone(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, what: str, place: int
) -> None:
    compose, bad = Composer.compose, UUID(int=0)

    async def breaks(self: Composer, *arguments: Any, **options: Any) -> Any:
        composed = await compose(self, *arguments, **options)
        if what == "compose" and composed.id == bad:
            raise OverflowError("out of range")
        return composed

    monkeypatch.setattr(Composer, "compose", breaks)
    due = await Due(flow, monkeypatch).start()
    bad = occurrence_id(due.made[place])
    if what == "put":
        due.refuses = bad
    await due.recur.once()
    assert set(due.counted) == due.ids() - {bad}
    assert await due.skipped() == [(0, False)] * 5
    await flow.clock.advance(LEASE_S)
    assert await due.recur.once() == 1
    assert await due.skipped() == [(1, True) if at == place else (0, False) for at in range(5)]
    assert (len(due.counted), due.revisited) == (4, [])
    assert due.reported == [("recur", "", "skipped")]
    due.refuses, bad = None, UUID(int=0)
    await flow.clock.advance(24 * 3600 - LEASE_S)
    assert await due.recur.once() == 5
    assert await due.skipped() == [(int(at == place), False) for at in range(5)]
    assert (len(due.counted), len(due.reported)) == (9, 1)


async def test_what_comes_back_after_a_crash_is_not_counted_as_new(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    due = await Due(flow, monkeypatch).start()
    assert len(await flow.store.recurrences.due(flow.clock.now(), 10, LEASE_S)) == 5, "a process that dies here"
    await flow.clock.advance(LEASE_S)
    assert await due.recur.once() == 5
    assert (due.counted, set(due.revisited)) == ([], due.ids())
    assert await due.skipped() == [(0, False)] * 5


@pytest.mark.parametrize("fails", [False, True])
async def test_the_end_of_a_recurrence_is_reported_only_if_a_problem_ended_it(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    due = await Due(flow, monkeypatch).start("FREQ=DAILY;COUNT=1")
    if fails:
        monkeypatch.setattr(recur, "step", lambda *_, **__: 1 // 0)
    assert await due.recur.once() == 5
    assert len(due.counted) == (0 if fails else 5)
    assert due.reported == [("recur", "", "skipped")] * (5 if fails else 0)
    assert await due.skipped() == [(0, fails)] * 5
    assert await flow.store.recurrences.next_due() is None


async def test_a_recurrence_that_the_next_version_stored_goes_on(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = {**REQUEST, "content": {"sms": {"text": "Hello", "novelty": 1}}, "novelty": {}}
    monkeypatch.setattr(Recurrence, "request", json.dumps(newer).encode())
    due = await Due(flow, monkeypatch).start()
    assert await due.recur.once() == 5
    assert set(due.counted) == due.ids()
    assert await due.skipped() == [(0, False)] * 5
