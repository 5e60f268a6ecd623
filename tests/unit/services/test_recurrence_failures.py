"""Recurrences through the whole flow, while processes die and stand still, and puts and rules fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from support.flow import TENANT, Flow
from support.queues import depth
from support.recurrences import (
    HOUR,
    advance_to,
    change,
    counted,
    create,
    create_many,
    history,
    sent,
    service,
    start,
    utc,
)
from tidings.model import topics
from tidings.model.errors import Conflict, LeaseLost, Unavailable
from tidings.model.recurrence import Recurrence
from tidings.model.vocabulary import Priority
from tidings.model.wire import encode
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.schedule import recur
from tidings.policy import recurring
from tidings.policy.recurring import occurrence_id
from tidings.ports.queue import Item
from tidings.ports.recurrences import Moved


@pytest.mark.parametrize("crash", ["before the put", "between put and settle"])
async def test_a_crash_gives_the_same_notification_again_and_never_a_second(
    flow: Flow, crash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(flow)
    await create(flow)
    await flow.clock.advance((utc("2026-03-27T08:00") - flow.clock.now()) / 1000)

    async def dies(*_: object) -> None:
        raise Unavailable("killed here")

    with monkeypatch.context() as patch:
        if crash == "before the put":
            patch.setattr(flow.queue, "put", dies)
        else:
            patch.setattr(flow.store.recurrences, "settle", dies)
        with pytest.raises(Unavailable):
            await flow.settle()
    await flow.settle()
    assert sent(flow) == (0 if crash == "before the put" else 1)
    await flow.advance(31)  # the lease ends, and the occurrence that comes back may be a copy
    await flow.advance(HOUR)
    assert sent(flow) == 1
    await flow.advance(HOUR)
    assert sent(flow) == 1
    page = await history(flow)
    assert len(page) == 1
    # A repeated notification may have been counted already: counting too few is safe.
    assert await counted(flow) == (0 if crash == "before the put" else 1)


async def test_a_change_while_it_is_being_sent_sends_it_once(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    await start(flow)
    made = await create(flow)
    settle = flow.store.recurrences.settle

    async def changed_first(moved: list[Moved]) -> None:
        await change(flow, made, name="changed meanwhile")
        await settle(moved)

    monkeypatch.setattr(flow.store.recurrences, "settle", changed_first)
    await advance_to(flow, "2026-03-27T09:00")
    assert sent(flow) == 1
    known = await service(flow).get(TENANT, made.id)
    assert (known.name, known.progress.due) == ("changed meanwhile", utc("2026-03-28T08:00"))


async def test_a_change_that_always_comes_too_late_is_a_conflict(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    await start(flow)
    made = await create(flow)

    async def never(*_: object, **__: object) -> bool:
        return False

    monkeypatch.setattr(flow.store.recurrences, "replace", never)
    with pytest.raises(Conflict, match="at the same time"):
        await change(flow, made, name="x")


@pytest.mark.parametrize("what", ["step", "compose", "put", "settle"])
async def test_a_recurrence_that_fails_does_not_affect_others(
    flow: Flow, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(flow)
    made = await create_many(flow, 5)
    bad = made[2]
    step, put, settle = recurring.step, flow.queue.put, flow.store.recurrences.settle

    def breaks(recurrence: Recurrence, *arguments: Any, **options: Any) -> Any:
        if recurrence.id == bad.id:
            raise OverflowError("date value out of range \ud800")
        return step(recurrence, *arguments, **options)

    async def refuses(items: Sequence[Item]) -> None:
        if any(item.body == bodies[bad.id] for item in items):
            raise ValueError("too large")
        await put(items)

    async def stays(moved: Sequence[Moved]) -> None:
        if any(move.id == bad.id for move in moved):
            raise ValueError("out of range")
        await settle(moved)

    bodies = {bad.id: b""}
    compose = Composer.compose

    async def noting(self: Composer, *arguments: Any, **options: Any) -> Any:
        composed = await compose(self, *arguments, **options)
        if composed.id == occurrence_id(bad):
            if what == "compose":
                raise OverflowError("date value out of range \ud800")
            bodies[bad.id] = encode(composed)
        return composed

    monkeypatch.setattr(Composer, "compose", noting)
    if what == "step":
        monkeypatch.setattr(recur, "step", breaks)
    elif what == "put":
        monkeypatch.setattr(flow.queue, "put", refuses)
    elif what == "settle":
        monkeypatch.setattr(flow.store.recurrences, "settle", stays)
    await advance_to(flow, "2026-03-27T08:00:01")
    assert sent(flow) == (5 if what == "settle" else 4)
    for recurrence in made:
        seen = await flow.store.recurrences.get(TENANT, recurrence.id)
        assert seen is not None
        if recurrence.id != bad.id:
            assert seen.progress.due == utc("2026-03-28T08:00")
        elif what == "step":
            assert (seen.progress.due, seen.progress.problem != "") == (None, True)
            seen.progress.problem.encode()
        else:
            assert seen.progress == recurrence.progress, "its lease brings it again, as a copy"


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("what", ["compose", "put"])
async def test_an_occurrence_that_fails_twice_is_skipped_and_the_next_one_comes(
    flow: Flow, what: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(flow)
    made = await create(flow)
    put, compose = flow.queue.put, Composer.compose
    failed: list[int] = []

    def fails() -> bool:
        """True when the occurrence is due, and again after its lease. A refused put is tried alone as well."""
        if len(set(failed)) < times or flow.clock.now() in failed:
            failed.append(flow.clock.now())
            return True
        return False

    async def refuses(items: Sequence[Item]) -> None:
        if what == "put" and any(item.topic.startswith("requests") for item in items) and fails():
            raise ValueError("too large")
        await put(items)

    async def breaks(self: Composer, *arguments: Any, **options: Any) -> Any:
        if what == "compose" and fails():
            raise OverflowError("date value out of range \ud800")
        return await compose(self, *arguments, **options)

    monkeypatch.setattr(flow.queue, "put", refuses)
    monkeypatch.setattr(Composer, "compose", breaks)
    await advance_to(flow, "2026-03-27T08:00:01")
    assert sent(flow) == 0
    assert await flow.store.recurrences.get(TENANT, made.id) == made, "it has a second chance"
    for _ in range(120):  # a copy waits for its original, which another worker may have
        await flow.advance(1)
    seen = await flow.store.recurrences.get(TENANT, made.id)
    assert seen is not None
    assert (sent(flow), seen.progress.skipped) == ((1, 0) if times == 1 else (0, 1))
    assert (seen.progress.problem == "") == (times == 1)
    seen.progress.problem.encode()
    assert seen.progress.due == utc("2026-03-28T08:00")
    await advance_to(flow, "2026-03-28T08:00:01")
    assert sent(flow) == (2 if times == 1 else 1)
    seen = await flow.store.recurrences.get(TENANT, made.id)
    assert seen is not None
    assert (seen.progress.problem, seen.progress.skipped) == ("", times - 1)


async def test_a_process_that_stood_still_past_its_lease_sends_no_occurrence(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(flow)
    await create(flow)
    due = flow.store.recurrences.due

    async def then_stands_still(now: int, limit: int, lease_s: float) -> Any:
        claimed = await due(now, limit, lease_s)
        if claimed:
            await flow.clock.advance(recur.LEASE_S)
        return claimed

    await flow.clock.advance((utc("2026-03-27T08:00") - flow.clock.now()) / 1000)
    with monkeypatch.context() as patch:
        patch.setattr(flow.store.recurrences, "due", then_stands_still)
        with pytest.raises(LeaseLost):
            await flow.settle()
    assert await depth(flow.queue, topics.requests(Priority.NORMAL), topics.ROUTE) == 0
    await flow.settle()
    for _ in range(80):
        await flow.advance(1)
    assert sent(flow) == 1
