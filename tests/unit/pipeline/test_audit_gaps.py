"""Gaps of the audit: minutes with less recorded than accepted, by tenant, and when each is looked at again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from support.flow import Flow
from support.stores import accepted, fact, notification
from tidings.backends.memory.objects import MemoryObjects
from tidings.model.accounting import MINUTE_MS, AcceptedCount, Gap
from tidings.model.days import DAY_MINUTES, DayState
from tidings.model.vocabulary import State
from tidings.pipeline.rounds import audit as module
from tidings.pipeline.rounds.audit import COUNT_MANY_EVERY_MS, FIRST_MINUTES, MOST_MINUTES, ROUND, Audit
from tidings.policy.stuck import STUCK_AFTER_MS
from tidings.ports.queue import Item
from tidings.roles.worker import audit

OTHER = UUID(int=9)
"""Another process."""


class Books:
    """What is accepted and recorded, minute by minute, and the audit that compares it."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.store = flow.store
        self.objects = MemoryObjects()
        flow.objects = self.objects  # type: ignore[assignment]  # no threads: the clock need not wait for them
        self.minute = flow.clock.now() // MINUTE_MS
        self.audit: Audit = audit(flow.parts(), flow.clock)
        self.folded: list[set[int]] = []
        """The folded days at each look; the last set stays."""

    async def count(self, tenant: str, number: int, minute: int = 0) -> None:
        await self.store.accounts.count(UUID(int=1), [AcceptedCount(tenant, self.minute + minute, number)])

    async def record(self, tenant: str, number: int, minute: int = 0) -> None:
        at = (self.minute + minute) * MINUTE_MS
        sent = [notification(tenant, at + place) for place in range(number)]
        await self.store.history.append([x for one in sent for x in (accepted(one), fact(one, State.SENT))])

    async def round(self, seconds: float = 0) -> dict[tuple[str, int], Gap]:
        """Let time pass and make a round; the gaps after it by tenant and minute, counted from the first."""
        await self.flow.clock.advance(seconds)
        assert await self.audit.once()
        return {(gap.tenant, gap.minute - self.minute): gap for gap in await self.store.accounts.gaps()}

    async def position(self) -> int | None:
        """The minute, counted from the first, where the next round begins."""
        position = await self.store.rounds.begin(ROUND, self.audit._holder, 60.0)
        return None if position is None else position - self.minute

    def missing(self, tenant: str) -> float:
        return self.flow.metrics.value("tidings_accounting_missing", {"tenant": tenant}) or 0.0

    async def states(self, first: int, last: int) -> Sequence[DayState]:
        folded = self.folded.pop(0) if len(self.folded) > 1 else self.folded[0]
        return [DayState(day, folded=day in folded) for day in range(first, last + 1)]


@pytest.fixture
async def books(flow: Flow) -> Books:
    return Books(flow)


async def test_each_tenants_minutes_are_counted_apart(books: Books) -> None:
    for tenant, number in (("shop", 1), ("bank", 2), ("post", 0)):
        await books.count(tenant, 5 + number)
        await books.record(tenant, 5)
        await books.count(tenant, 3, minute=1)
        await books.record(tenant, 3, minute=1)
    gaps = await books.round(200)
    assert {key: (gap.missing, gap.confirmed) for key, gap in gaps.items()} == {
        ("shop", 0): (1, True),
        ("bank", 0): (2, True),
    }
    assert [books.missing(tenant) for tenant in ("shop", "bank", "post")] == [1, 2, 0]


async def test_the_gaps_of_several_minutes_add_up(books: Books) -> None:
    for minute in range(3):
        await books.count("shop", minute + 1, minute)
    await books.round(300)
    assert books.missing("shop") == 6


async def test_what_is_recorded_and_not_counted_is_told_as_accepted(books: Books) -> None:
    """A counter that died before it wrote."""
    await books.record("shop", 4)
    await books.count("shop", 3)
    await books.count("bank", 2)
    assert set(await books.round(200)) == {("bank", 0)}
    told = [books.flow.metrics.value("tidings_accounting_accepted_total", {"tenant": one}) for one in ("shop", "bank")]
    assert told == [4, 2]


@pytest.mark.parametrize("found", [0, 2])
async def test_a_gap_that_is_counted_anew_and_closed_is_none_any_more(books: Books, found: int) -> None:
    """Whether its minute is still counted (`found`) or not."""
    await books.store.accounts.mark_gaps([Gap("shop", books.minute, 3)])
    await books.count("shop", found)
    await books.record("shop", found)
    await books.round(70)
    assert await books.store.accounts.gaps() == []


async def test_a_confirmed_gap_is_counted_anew_after_a_while_and_no_sooner(books: Books) -> None:
    await books.count("shop", 3)
    await books.round(180)
    await books.record("shop", 2)
    pause_s = max(STUCK_AFTER_MS, (books.flow.clock.now() - books.minute * MINUTE_MS) // 2) / 1000
    assert (await books.round(pause_s - 0.001))["shop", 0].missing == 3
    assert (await books.round(0.001))["shop", 0].missing == 1
    assert books.missing("shop") == 1


@pytest.mark.parametrize(("recorded", "errors"), [(0, 1), (1, 0)])
async def test_what_is_missing_is_told_once_and_what_came_after_all_never(
    books: Books, recorded: int, errors: int
) -> None:
    await books.store.accounts.mark_gaps([Gap("shop", books.minute, 1)])
    await books.count("shop", 1)
    await books.record("shop", recorded)
    with capture_logs() as told:
        for _ in range(3):
            await books.round(300)
    assert [(one["tenant"], one["missing"]) for one in told if one["log_level"] == "error"] == [("shop", 1)] * errors


async def test_a_gap_waits_until_what_is_queued_has_arrived(books: Books) -> None:
    await books.flow.queue.put([Item("requests.normal", "shop/ada", b"x")])
    await books.count("shop", 3)
    gap = (await books.round(180))["shop", 0]
    assert (gap.missing, gap.confirmed, books.missing("shop")) == (3, False, 0)
    claim = await books.flow.queue.claim("requests.normal", "route", 10, 0.0)
    assert claim is not None
    assert not (await books.round())["shop", 0].confirmed
    await claim.done()
    assert (await books.round())["shop", 0].confirmed


async def test_items_that_follow_do_not_hide_a_gap(books: Books) -> None:
    """Its progress through the queues goes on from round to round."""
    await books.flow.queue.put([Item("requests.normal", "shop/ada", b"x")])
    await books.count("shop", 3)
    await books.round(180)
    claim = await books.flow.queue.claim("requests.normal", "route", 10, 0.0)
    assert claim is not None
    await claim.done()
    await books.flow.queue.put([Item("requests.normal", "shop/ada", b"y")])
    assert (await books.round())["shop", 0].confirmed


async def test_gaps_of_folded_days_stay_as_they_are_and_others_are_looked_at(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books.store.days, "states", books.states)
    day = books.minute // DAY_MINUTES
    books.folded = [{day - 2}]
    old = [Gap("shop", (day + ago) * DAY_MINUTES + 7, 3) for ago in (-2, -1)]
    await books.store.accounts.mark_gaps(old)
    await books.round()
    assert await books.store.accounts.gaps() == [old[0]], "that of the other day is closed"


@pytest.mark.parametrize("counted", [False, True])
async def test_a_gap_whose_day_is_folded_meanwhile_is_not_taken_for_closed(
    books: Books, counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The minute's counts went into the day's, unless they are still there."""
    monkeypatch.setattr(books.store.days, "states", books.states)
    books.folded = [set(), {books.minute // DAY_MINUTES}]
    gap = Gap("shop", books.minute, 3)
    await books.store.accounts.mark_gaps([gap])
    await books.count("shop", 2 if counted else 0)
    monkeypatch.setattr(books.audit, "_walk", _nothing_to_walk)
    if not counted:
        monkeypatch.setattr(books.store.accounts, "accepted", _nothing)
    await books.round(180)
    assert await books.store.accounts.gaps() == ([Gap("shop", books.minute, 2, confirmed=True)] if counted else [gap])


async def _nothing_to_walk(*_: object) -> bool:
    return True


async def _nothing(*_: object) -> list[AcceptedCount]:
    return []


async def test_the_first_round_begins_an_hour_back_and_ends_before_young_minutes(books: Books) -> None:
    inside, outside = -FIRST_MINUTES + 1, -FIRST_MINUTES - 1
    await books.flow.clock.advance(60)
    await books.count("shop", 1, inside)
    await books.count("shop", 1, outside)
    gaps = await books.round()
    assert set(gaps) == {("shop", inside)}
    young = (books.flow.clock.now() - STUCK_AFTER_MS) // MINUTE_MS - books.minute
    assert await books.position() == young


async def test_after_a_long_stop_the_rounds_go_on_step_by_step(books: Books) -> None:
    await books.round()
    start = await books.position()
    assert start is not None
    await books.count("shop", 1, start + MOST_MINUTES - 1)
    await books.count("shop", 1, start + MOST_MINUTES)
    gaps = await books.round((MOST_MINUTES + 30) * 60)
    assert set(gaps) == {("shop", start + MOST_MINUTES - 1)}
    assert await books.position() == start + MOST_MINUTES
    assert set(await books.round()) == {("shop", start + MOST_MINUTES - 1), ("shop", start + MOST_MINUTES)}


async def test_a_process_that_lost_the_round_stops_at_that_minute(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    counts = books.store.accounts.accepted

    async def taken_over(since: int, until: int, *tenant: str) -> Sequence[AcceptedCount]:
        looked.append(since)
        await books.flow.clock.advance(600)
        assert await books.store.rounds.begin(ROUND, OTHER, 60.0) is not None
        return await counts(since, until, *tenant)

    monkeypatch.setattr(books.store.accounts, "accepted", taken_over)
    assert not await books.audit.once()
    assert len(looked) == 1


async def test_notifications_in_flight_are_watched_from_the_first_look_on(books: Books) -> None:
    flying = notification("shop", books.minute * MINUTE_MS)
    await books.store.history.append([accepted(flying), fact(flying, State.PENDING)])
    await books.record("shop", 1)
    await books.count("shop", 2)
    await books.flow.clock.advance(200)
    await books.audit._walk(books.minute, books.flow.clock.now())
    assert await books.store.watched.due(books.flow.clock.now(), 10) == [flying.id]


async def test_a_late_notification_in_flight_is_watched_once_its_gap_is_looked_at(books: Books) -> None:
    await books.count("shop", 3)
    await books.round(180)
    late = notification("shop", books.minute * MINUTE_MS)
    await books.store.history.append([accepted(late), fact(late, State.PENDING)])
    await books.audit._again(Gap("shop", books.minute, 3))
    assert await books.store.watched.due(books.flow.clock.now(), 10) == [late.id]


async def test_many_items_aside_are_counted_every_ten_minutes(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY_ASIDE", 2)
    objects = books.objects

    async def aside() -> float:
        await books.round()
        return books.flow.metrics.value("tidings_stuck", {"kind": "aside"}) or 0.0

    for number in range(2):
        await objects.put(f"aside/x/{number}.bin", b"")
        await objects.put(f"aside/x/{number}.txt", b"")
    assert await aside() == 2
    await objects.put("aside/x/2.bin", b"")
    assert await aside() == 3, "two are not many"
    await objects.put("aside/x/3.bin", b"")
    assert await aside() == 3
    await books.flow.clock.advance(COUNT_MANY_EVERY_MS / 1000 - 0.001)
    assert await aside() == 3
    await books.flow.clock.advance(0.001)
    assert await aside() == 4


async def test_a_process_that_stands_by_forgets_how_far_its_gaps_are(books: Books) -> None:
    await books.flow.queue.put([Item("requests.normal", "shop/ada", b"x")])
    await books.count("shop", 3)
    await books.round(180)
    await books.flow.clock.advance(600)
    assert await books.store.rounds.begin(ROUND, OTHER, 1.0) is not None
    assert not await books.audit.once()
    assert not books.audit._open
    assert books.flow.metrics.value("tidings_accounting_missing", {"tenant": "shop"}) is None


async def test_rounds_repeat_until_the_process_stops_and_leaves_them(books: Books) -> None:
    stopping, every_s = asyncio.Event(), books.flow.settings.audit.interval
    running = asyncio.create_task(books.audit.run(stopping))
    await books.flow.clock.settle()
    first = await books.position()
    assert first is not None
    for _ in range(round(120 / every_s)):
        await books.flow.clock.advance(every_s)
    assert (await books.position() or 0) > first
    stopping.set()
    async with asyncio.timeout(5):
        await running
    assert await books.store.rounds.begin(ROUND, OTHER, 1.0) is not None
