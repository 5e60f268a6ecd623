"""How much one line takes, for which lane, and how long a send waits for its turn there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from support.flow import Recorder
from tidings.backends.memory.clock import VirtualClock
from tidings.model.notification import SmsContent
from tidings.model.sending import About, AnyDelivery, Retry, SendResult, Sent, SmsDelivery
from tidings.model.vocabulary import Channel, Lane
from tidings.pipeline.deliver.answers import is_unbegun
from tidings.pipeline.deliver.line import AHEAD_MS, Line
from tidings.pipeline.deliver.routed import Routed
from tidings.pipeline.deliver.switchboard import Switchboard
from tidings.policy.breaker import PROBES, BreakerRules
from tidings.telemetry.metrics import Metrics

RULES = BreakerRules()
CRITICAL, NORMAL, BULK = Lane.CRITICAL, Lane.NORMAL, Lane.BULK


class Vendor(Recorder):
    """A provider that answers after `takes_s`, on the virtual clock."""

    def __init__(self, name: str = "a", **more: object) -> None:
        super().__init__(name, Channel.SMS)
        self.clock = VirtualClock()
        self.batch_size, self.concurrency, self.timeout_s = 1, 100, 1_000.0
        self.takes_s = 0.0
        self.result: SendResult = Sent()
        for field, value in more.items():
            setattr(self, field, value)

    async def send(self, batch: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        self.sent.extend(batch)
        if self.takes_s:
            await self.clock.sleep(self.takes_s)
        return [self.result for _ in batch]


def line_of(vendor: Vendor, patience_s: float = 10.0, *, is_quiet: bool = True) -> Line:
    return Line(Routed(vendor, patience_s=patience_s), RULES, vendor.clock, Metrics(), lambda: is_quiet)


def texts(count: int) -> list[AnyDelivery]:
    content = SmsContent("x")
    return [SmsDelivery(UUID(int=at), "shop", "+49", str(at), content=content) for at in range(count)]


async def begun(vendor: Vendor, line: Line, count: int, lane: Lane = CRITICAL) -> asyncio.Task[Sequence[SendResult]]:
    """A call that has begun, or waits for its turn."""
    calling = asyncio.create_task(line.call(texts(count), lane))
    await vendor.clock.settle()
    return calling


async def ended(vendor: Vendor, *calls: asyncio.Task[Sequence[SendResult]]) -> list[SendResult]:
    for _ in range(2_000):
        if all(call.done() for call in calls):
            break
        await vendor.clock.advance(0.05)
    return [result for call in calls for result in call.result()]


@pytest.mark.parametrize(
    ("share", "is_quiet", "room"),
    [
        (1.0, True, [100, 100, 90, 90, 75, 75]),
        (1.0, False, [100, 95, 90, 80, 75, 65]),
        (0.4, False, [40, 38, 36, 32, 30, 26]),
        (0.05, False, [5, 5, 5, 4, 4, 4]),
        (0.001, True, [1] * 6),
        (0.0, True, [0] * 6),
    ],
)
def test_each_lane_leaves_slots_to_the_more_urgent_ones(share: float, is_quiet: bool, room: list[int]) -> None:
    line = line_of(Vendor(), is_quiet=is_quiet)
    assert [line.room(lane, share) for lane in Lane] == room
    assert [line.ahead(lane, share) for lane in Lane] == room, "nothing is known about its pace yet"


async def test_a_call_takes_as_many_slots_as_it_makes_requests_at_once() -> None:
    vendor = Vendor(concurrency=4, parallel=5, batch_size=20, takes_s=1.0)
    line = line_of(vendor)
    assert line.room(CRITICAL, 1.0) == 4 * 20
    calls = [await begun(vendor, line, 3)]
    assert line.room(CRITICAL, 1.0) == (20 - 3) * 20 // 5
    calls.append(await begun(vendor, line, 20))
    assert line.room(CRITICAL, 1.0) == (20 - 3 - 5) * 20 // 5
    await ended(vendor, *calls)
    assert line.room(CRITICAL, 1.0) == 4 * 20


async def test_what_can_begin_soon_follows_from_how_long_the_calls_take() -> None:
    vendor = Vendor(takes_s=0.05)
    line = line_of(vendor)
    await ended(vendor, await begun(vendor, line, 1))
    assert line.ahead(CRITICAL, 1.0) == 100 * AHEAD_MS // 50
    assert line.ahead(BULK, 1.0) == 75 * AHEAD_MS // 50
    assert line.ahead(CRITICAL, 0.8) == 80, "an ailing line gets nothing in advance"
    assert line.room(CRITICAL, 1.0) == 100
    vendor.takes_s = 0.45
    await ended(vendor, await begun(vendor, line, 1))
    assert line.ahead(CRITICAL, 1.0) == 100 * AHEAD_MS // (50 + 400 // 8)
    vendor.takes_s = 2.0
    await ended(vendor, *[await begun(vendor, line, 1) for _ in range(9)])
    assert line.ahead(CRITICAL, 1.0) == 100, "no less than can begin at once"


async def test_what_waits_at_a_line_for_this_or_a_more_urgent_lane_is_not_claimed_again() -> None:
    vendor = Vendor(concurrency=10, takes_s=1.0)
    line = line_of(vendor)
    calls = [await begun(vendor, line, 1, NORMAL) for _ in range(12)]
    assert len(vendor.sent) == 9, "one slot is kept for what is critical"
    assert [line.ahead(lane, 1.0) for lane in (CRITICAL, NORMAL, BULK)] == [1, 0, 0]
    await vendor.clock.advance(1.0)
    assert len(vendor.sent) == 12
    assert [line.ahead(lane, 1.0) for lane in (CRITICAL, NORMAL, BULK)] == [7, 6, 5]
    await ended(vendor, *calls)


async def test_one_waits_first_in_line_while_less_urgent_lanes_have_every_slot() -> None:
    vendor = Vendor(concurrency=2, takes_s=1.0)
    line = line_of(vendor)
    calls = [await begun(vendor, line, 1, BULK) for _ in range(2)]
    assert [line.room(lane, 1.0) for lane in (CRITICAL, NORMAL, BULK)] == [1, 1, 0]
    calls.append(await begun(vendor, line, 1, NORMAL))
    assert [line.room(lane, 1.0) for lane in (CRITICAL, NORMAL, BULK)] == [1, 0, 0]
    await ended(vendor, *calls)


@pytest.mark.parametrize(
    ("rate", "room", "ahead", "at_once"),
    [
        (40.0, [40, 40, 36, 36, 30, 30], [50, 50, 46, 46, 40, 40], [40, 40, 36, 36, 30, 30]),
        (1.0, [1] * 6, [1] * 6, [1] * 6),
        (0.1, [1] * 6, [1] * 6, [1] * 6),
        (1_000.0, [100, 100, 90, 90, 75, 75], [100, 100, 90, 90, 75, 75], [50] * 6),
    ],
)
def test_a_rate_bounds_what_can_begin(rate: float, room: list[int], ahead: list[int], at_once: list[int]) -> None:
    vendor = Vendor(rate=rate, batch_size=50, parallel=1, concurrency=2)
    line = line_of(vendor)
    lanes = [lane for lane in Lane if not lane.is_surplus]
    assert [line.most_at_once(lane, 1_000) for lane in lanes] == at_once[::2]
    if rate < 1_000:
        assert [line.room(lane, 1.0) for lane in lanes] == room[::2]
        assert [line.ahead(lane, 1.0) for lane in lanes] == ahead[::2]
    else:
        assert line.room(CRITICAL, 1.0) == 100


@pytest.mark.parametrize(("patience_s", "comes"), [(0.499, False), (0.5, True), (0.501, True)])
async def test_a_send_waits_for_its_tokens_no_longer_than_its_patience(patience_s: float, comes: bool) -> None:
    vendor = Vendor(rate=10.0, batch_size=10)
    line = line_of(vendor, patience_s)
    assert [type(result) for result in await line.call(texts(10), CRITICAL)] == [Sent] * 10
    calling = await begun(vendor, line, 5)
    assert calling.done() is not comes
    results = await ended(vendor, calling)
    assert [is_unbegun(result) for result in results] == [not comes] * 5
    assert len(vendor.sent) == (15 if comes else 10)


async def test_a_send_leaves_tokens_to_more_urgent_lanes() -> None:
    vendor = Vendor(rate=40.0, batch_size=40)
    line = line_of(vendor, 0.0)
    assert all(is_unbegun(result) for result in await line.call(texts(31), BULK))
    assert not any(is_unbegun(result) for result in await line.call(texts(30), BULK))
    assert all(is_unbegun(result) for result in await line.call(texts(1), BULK))
    assert not any(is_unbegun(result) for result in await line.call(texts(10), CRITICAL))


async def test_a_paused_line_says_when_it_may_be_used_and_why_not_now() -> None:
    vendor = Vendor(result=Retry("throttled", 30.0, about=About.ACCOUNT))
    line = line_of(vendor)
    assert (line.usable_in_s(), line.is_used()) == (0.0, True)
    await line.call(texts(1), NORMAL)
    assert (line.usable_in_s(), line.is_used(), line.share()) == (30.0, False, 0.0)
    assert line.obstacle() == ("throttled", "a asked for less")
    await vendor.clock.advance(29.999)
    assert (line.usable_in_s(), line.is_used()) == (0.001, False)
    await vendor.clock.advance(0.001)
    assert (line.usable_in_s(), line.is_used(), line.share()) == (0.0, True, 1.0)


async def test_a_failing_line_says_when_it_is_probed_and_takes_single_probes() -> None:
    vendor = Vendor(result=Retry("unreachable", detail="refused"), batch_size=10)
    line = line_of(vendor)
    for _ in range(RULES.least):
        await line.call(texts(1), NORMAL)
    assert (line.usable_in_s(), line.is_used()) == (RULES.pause_ms / 1000, False)
    assert line.obstacle() == ("provider_open", "a: unreachable refused")
    await vendor.clock.advance(RULES.pause_ms / 1000)
    assert (line.usable_in_s(), line.is_used()) == (0.0, True)
    assert line.most_at_once(NORMAL, 10) == 1
    vendor.takes_s = 1.0
    calls = []
    for left in range(PROBES, 0, -1):
        assert line.room(NORMAL, line.share()) == line.ahead(NORMAL, line.share()) == left
        calls.append(await begun(vendor, line, 1))
    assert line.room(NORMAL, line.share()) == 0
    await ended(vendor, *calls)


async def test_a_spare_has_room_only_if_no_other_line_may_be_used() -> None:
    usual, spare = Vendor("a", concurrency=8), Vendor("b", concurrency=4)
    spare.clock = usual.clock
    switchboard = Switchboard([Routed(usual, 1), Routed(spare, 0)], RULES, usual.clock, Metrics())
    assert switchboard.room(CRITICAL) == 8
    usual.result = Retry("unreachable")
    for _ in range(RULES.least):
        await switchboard.lines[0].call(texts(1), CRITICAL)
    assert switchboard.room(CRITICAL) == 4


async def test_the_only_line_has_room_while_it_is_merely_slow() -> None:
    slow = Vendor(takes_s=RULES.slow_after_ms / 1000)
    switchboard = Switchboard([Routed(slow)], RULES, slow.clock, Metrics())
    [line] = switchboard.lines
    await ended(slow, *[await begun(slow, line, 1) for _ in range(RULES.least)])
    assert (line.share(), switchboard.is_open()) == (0.0, True)
    assert switchboard.room(CRITICAL) == PROBES


async def test_a_provider_that_becomes_too_slow_and_is_back_is_a_change_each_time() -> None:
    slow = Vendor(concurrency=200)
    switchboard = Switchboard([Routed(slow), Routed(Vendor("b"))], RULES, slow.clock, Metrics())
    line, changes = switchboard.lines[0], list[bool]()
    switchboard.watch(lambda: changes.append(line.share() > 0.0))
    for _ in range(2):
        changes.clear()
        slow.takes_s = 5.0
        calls = [await begun(slow, line, 1) for _ in range(RULES.least)]
        await slow.clock.advance(RULES.slow_after_ms / 1000)
        assert (line.share(), line.share(), changes) == (0.0, 0.0, [False])
        slow.takes_s = 0.0
        await slow.clock.advance(RULES.pause_ms / 1000)
        await line.call(texts(1), NORMAL)
        assert changes == [False, True]
        await ended(slow, *calls)
        for _ in range(6):
            await line.call(texts(1), NORMAL)
            await slow.clock.advance(RULES.step_ms / 1000)
            assert line.share() > 0.0
        assert line.share() == 1.0
        assert changes[0] is False
        assert all(changes[1:])


async def test_that_a_provider_asks_for_less_is_a_change_once_and_that_it_takes_something_again_is_another() -> None:
    vendor = Vendor()
    line, changes = line_of(vendor), list[float]()
    line.on_change.append(lambda: changes.append(line.usable_in_s()))
    for number in range(1, 3):
        vendor.result = Retry("throttled", 5.0, about=About.ACCOUNT)
        for _ in range(3):
            await line.call(texts(1), NORMAL)
            assert changes == [5.0, 0.0] * (number - 1) + [5.0]
            await vendor.clock.advance(5.0)
        vendor.result = Sent()
        for _ in range(2):
            await line.call(texts(1), NORMAL)
            assert changes == [5.0, 0.0] * number


async def test_what_a_less_urgent_lane_has_waiting_stops_no_other() -> None:
    vendor = Vendor(concurrency=10, takes_s=1.0)
    line = line_of(vendor)
    calls = [await begun(vendor, line, 1, Lane.NORMAL_SURPLUS) for _ in range(12)]
    assert [line.ahead(lane, 1.0) for lane in (CRITICAL, NORMAL, Lane.NORMAL_SURPLUS)] == [1, 1, 0]
    await ended(vendor, *calls)


async def test_with_one_free_slot_everything_goes_into_one_call() -> None:
    vendor = Vendor(concurrency=8, batch_size=25, one_by_one=True, takes_s=1.0)
    line = line_of(vendor)
    calls = [await begun(vendor, line, 1) for _ in range(7)]
    assert [line.most_at_once(CRITICAL, count) for count in (1, 8, 30)] == [1, 8, 25]
    await ended(vendor, *calls)


async def test_a_slow_line_is_used_while_the_other_is_closed() -> None:
    slow = Vendor(takes_s=RULES.slow_after_ms / 1000, concurrency=8)
    failing = Vendor("b", result=Retry("unreachable"))
    failing.clock = slow.clock
    line, other = Switchboard([Routed(slow), Routed(failing)], RULES, slow.clock, Metrics()).lines
    await ended(slow, *[await begun(slow, line, 1) for _ in range(RULES.least)])
    assert not line.is_used(), "the other one is better"
    for _ in range(RULES.least):
        await other.call(texts(1), NORMAL)
    assert (line.share(), line.is_used(), other.is_used()) == (0.0, True, False)
    before = len(slow.sent)
    calls = [await begun(slow, line, 1) for _ in range(10)]
    assert len(slow.sent) == before + 8, "no more at once than ever"
    await ended(slow, *calls)


async def test_a_send_waits_for_its_slot_no_longer_than_its_patience() -> None:
    vendor = Vendor(concurrency=1, takes_s=1.0)
    line = line_of(vendor, 0.01)
    first = await begun(vendor, line, 1)
    async with asyncio.timeout(5):
        assert is_unbegun((await line.call(texts(1), CRITICAL))[0])
    assert await ended(vendor, first) == [Sent()]


async def test_what_a_call_gave_is_metered_by_kind_with_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = Vendor(batch_size=3, takes_s=1.5)
    vendor.timeout_s = 1_000.0
    metered: list[tuple[object, ...]] = []
    meter = Metrics()
    monkeypatch.setattr(meter, "results", lambda *told: metered.append(told))
    line = Line(Routed(vendor), RULES, vendor.clock, meter)
    await ended(vendor, await begun(vendor, line, 3))
    vendor.result = Retry("mailbox_busy")
    await ended(vendor, await begun(vendor, line, 2))
    assert metered == [("a", "sent", 3, 1.5), ("a", "retry", 2, 1.5)]


async def test_a_fault_is_about_nobody_while_nothing_has_gone_through_since_another() -> None:
    vendor = Vendor(result=Retry("provider_error"))
    line = line_of(vendor)
    said = [(await line.call(texts(1), NORMAL))[0] for _ in range(RULES.least)]
    await vendor.clock.advance(RULES.pause_ms / 1000)
    said += await line.call(texts(1), NORMAL)
    found = [one.about for one in said if isinstance(one, Retry)]
    assert found == [About.DELIVERY, *[About.UNOFFERED] * RULES.least]


async def test_what_is_held_goes_out_only_to_a_provider_that_works_or_says_that_it_does() -> None:
    vendor = Vendor(takes_s=0.0)
    line = line_of(vendor)
    assert [line.outlet(lane) for lane in (CRITICAL, NORMAL)] == [100, 90]
    vendor.result = Retry("unreachable")
    await line.call(texts(1), NORMAL)
    assert (line.fails, line.outlet(CRITICAL), line.asks_in_s()) == (True, 0, 5.0)
    await line.ask()
    assert vendor.checks == 0, "its time has not come"
    vendor.is_well = lambda: False
    await vendor.clock.advance(5.0)
    await line.ask()
    assert (vendor.checks, line.fails, line.outlet(CRITICAL)) == (1, True, 0)
    vendor.is_well = lambda: True
    await vendor.clock.advance(line.asks_in_s())
    await line.ask()
    assert (vendor.checks, line.fails, line.outlet(CRITICAL)) == (2, False, 100)
    for _ in range(RULES.least):
        await line.call(texts(1), NORMAL)
    assert line.outlet(CRITICAL) == 0, "it is closed"
    await vendor.clock.advance(RULES.pause_ms / 1000)
    assert (line.is_used(), line.outlet(CRITICAL)) == (True, 0), "it is probed, and does not say that it is well"
    await vendor.clock.advance(line.asks_in_s())
    await line.ask()
    assert line.outlet(CRITICAL) == PROBES


async def test_after_a_pause_what_is_held_goes_out_in_growing_numbers() -> None:
    vendor = Vendor(result=Retry("throttled", 5.0, about=About.ACCOUNT))
    line = line_of(vendor)
    await line.call(texts(1), NORMAL)
    assert line.outlet(CRITICAL) == 0
    await vendor.clock.advance(5.0)
    assert [line.outlet(CRITICAL) for _ in range(7)] == [3, 6, 12, 24, 48, 96, 100]


async def test_a_provider_that_stays_down_is_a_change_once() -> None:
    vendor = Vendor(result=Retry("unreachable"))
    line, changes = line_of(vendor), list[float]()
    line.on_change.append(lambda: changes.append(line.share()))
    for _ in range(RULES.least):
        await line.call(texts(1), NORMAL)
    assert changes == [1.0, 0.0], "it fails, and is left alone"
    for _ in range(3):
        await vendor.clock.advance(line.usable_in_s())
        await line.call(texts(1), NORMAL)
        assert line.share() == 0.0
    assert changes == [1.0, 0.0]
