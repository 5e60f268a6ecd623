"""Which provider a delivery goes through, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from support.deliveries import make_delivery
from support.flow import Recorder, takes_it
from tidings.backends.memory.clock import VirtualClock
from tidings.model.notification import SmsContent
from tidings.model.sending import About, AnyDelivery, Rejected, Retry, SendResult, Sent, SmsDelivery, Uncertain
from tidings.model.vocabulary import Channel, Lane
from tidings.pipeline.deliver.line import Line
from tidings.pipeline.deliver.routed import Routed
from tidings.pipeline.deliver.switchboard import Switchboard
from tidings.policy.breaker import BreakerRules
from tidings.telemetry.metrics import Metrics

RULES = BreakerRules()
NORMAL, BULK, CRITICAL = Lane.NORMAL, Lane.BULK, Lane.CRITICAL


class Hanging(Recorder):
    """A provider that answers when the test lets it."""

    def __init__(self, name: str, concurrency: int = 64) -> None:
        super().__init__(name, Channel.SMS)
        self.concurrency = concurrency
        self.batch_size = 1
        self.answer = asyncio.Event()
        self.result: SendResult = Sent()
        self.timeout_s = 1_000.0

    async def send(self, batch: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        self.sent.extend(batch)
        await self.answer.wait()
        return [self.result for _ in batch]


def provider(name: str, result: SendResult | None = None, rate: float | None = None) -> Recorder:
    made = Recorder(name, Channel.SMS)
    made.rate = rate
    if result is not None:
        made.answers = lambda _: result
    return made


def board(*routed: tuple[Recorder, int], patience_s: float = 10.0) -> tuple[Switchboard, VirtualClock]:
    clock = VirtualClock()
    lines = [Routed(recorder, weight, patience_s) for recorder, weight in routed]
    return Switchboard(lines, RULES, clock, Metrics()), clock


def outbound(number: int, expires_at: int | None = None) -> SmsDelivery:
    return SmsDelivery(
        id=UUID(int=number),
        tenant="shop",
        to="+49",
        idempotency_key=str(number),
        content=SmsContent("x"),
        expires_at=expires_at,
    )


def picked(switchboard: Switchboard, count: int = 100, **fields: Any) -> Counter[str]:
    picking = switchboard.picking(NORMAL)
    lines = [picking.line(make_delivery(at, **fields), at / count) for at in range(count)]
    return Counter("" if line is None else line.name for line in lines)


async def sends(line: Line, count: int = 10) -> None:
    for number in range(count):
        await line.call([outbound(number)], NORMAL)


async def test_traffic_is_split_by_weight() -> None:
    switchboard, _ = board((provider("a"), 80), (provider("b"), 20), (provider("c"), 0))
    assert picked(switchboard) == {"a": 80, "b": 20}


async def test_the_first_of_a_list_gets_everything_and_the_next_what_it_refused() -> None:
    switchboard, _ = board((provider("a"), 1), (provider("b"), 0))
    assert picked(switchboard) == {"a": 100}
    assert picked(switchboard, tried=("a",)) == {"b": 100}
    assert picked(switchboard, tried=("a", "b")) == {"a": 100}


async def test_a_failing_provider_is_left_and_the_spare_takes_over() -> None:
    switchboard, _ = board((provider("a", Retry("unreachable")), 1), (provider("b"), 0))
    await sends(switchboard.lines[0])
    assert picked(switchboard) == {"b": 100}


async def test_a_success_after_failures_is_a_change_even_if_the_breaker_never_opened() -> None:
    """Else what is held for the provider waits for the next check of it, or for the end of its own pause."""
    failing = provider("a", Retry("unreachable"))
    switchboard, _ = board((failing, 1))
    changes: list[bool] = []
    switchboard.watch(lambda: changes.append(switchboard.fails()))
    await sends(switchboard.lines[0], 1)
    assert changes == [True]
    failing.answers = takes_it
    await sends(switchboard.lines[0], 2)
    assert changes == [True, False]


async def test_a_delivery_that_expired_before_its_turn_is_not_sent() -> None:
    switchboard, clock = board((provider("a"), 1), (provider("b"), 0))
    [line, _] = switchboard.lines
    now = clock.now()
    ends = [None, now, now + 1, now - 1]
    results = await line.call([outbound(at, end) for at, end in enumerate(ends)], NORMAL)
    assert [isinstance(result, Sent) for result in results] == [True, False, True, False]
    assert [sent.id.int for sent in line.provider.sent] == [0, 2]  # type: ignore[attr-defined]
    late = [result for result in results if isinstance(result, Retry)]
    assert {(result.reason, result.about) for result in late} == {("expired", About.DELIVERY)}
    for _ in range(50):
        await line.call([outbound(9, now)], NORMAL)
    assert picked(switchboard) == {"a": 100}


async def test_an_answer_about_the_address_is_no_fault_of_the_provider() -> None:
    for result in (Retry("mailbox_busy"), Rejected("unregistered", suppress=True)):
        switchboard, _ = board((provider("a", result), 1), (provider("b"), 0))
        await sends(switchboard.lines[0], 50)
        assert picked(switchboard) == {"a": 100}


async def test_recovery_goes_in_steps() -> None:
    ailing = provider("a", Uncertain("no_answer"))
    switchboard, clock = board((ailing, 1), (provider("b"), 0))
    await sends(switchboard.lines[0])
    ailing.answers = lambda _: Sent()
    await clock.advance(RULES.pause_ms / 1000)
    assert picked(switchboard) == {"a": 3, "b": 97}, "a few probes"
    shares = []
    for _ in range(8):
        await sends(switchboard.lines[0], 1)
        shares.append(picked(switchboard)["a"])
        await clock.advance(RULES.step_ms / 1000)
    assert shares == [5, 10, 20, 40, 80, 100, 100, 100]


async def test_when_all_are_down_no_line_is_picked_and_the_next_probe_is_known() -> None:
    switchboard, clock = board((provider("a", Retry("unreachable")), 1))
    await sends(switchboard.lines[0])
    assert not switchboard.is_open()
    assert picked(switchboard) == {"": 100}
    assert switchboard.usable_in_s() == RULES.pause_ms / 1000
    await clock.advance(RULES.pause_ms / 1000)
    assert switchboard.is_open()


async def test_a_slow_provider_that_asks_for_a_pause_gets_it() -> None:
    """Even if there is no other provider."""
    slow = Hanging("a")
    alone, clock = board((slow, 1))
    line = alone.lines[0]
    calls = [asyncio.create_task(line.call([outbound(at)], NORMAL)) for at in range(10)]
    await clock.advance(3)
    assert line.is_used(), "it is merely slow"
    slow.result = Retry("throttled", 30.0, about=About.ACCOUNT)
    slow.answer.set()
    await asyncio.gather(*calls)
    assert not line.is_used()
    assert not alone.is_open()
    assert picked(alone) == {"": 100}
    await clock.advance(29)
    assert not line.is_used()
    await clock.advance(2)
    assert line.is_used()


async def test_a_slow_provider_without_another_is_used_all_the_same() -> None:
    slow = Hanging("a")
    alone, clock = board((slow, 1))
    calls = [asyncio.create_task(alone.lines[0].call([outbound(at)], NORMAL)) for at in range(10)]
    await clock.advance(3)
    assert picked(alone) == {"a": 100}
    slow.answer.set()
    assert [await call for call in calls] == [[Sent()]] * 10

    both, clock = board((Hanging("a"), 1), (provider("b"), 0))
    calls = [asyncio.create_task(both.lines[0].call([outbound(at)], NORMAL)) for at in range(10)]
    await clock.advance(3)
    assert picked(both) == {"b": 100}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_throttling_provider_gets_nothing_for_as_long_as_it_asks() -> None:
    switchboard, clock = board(
        (provider("a", Retry("throttled", after_s=7, about=About.ACCOUNT)), 1), (provider("b"), 0)
    )
    await sends(switchboard.lines[0], 1)
    assert picked(switchboard) == {"b": 100}
    await clock.advance(6.9)
    assert picked(switchboard) == {"b": 100}
    await clock.advance(0.1)
    assert picked(switchboard) == {"a": 100}


async def test_a_pinned_delivery_goes_to_its_provider_or_nowhere() -> None:
    switchboard, _ = board((provider("a", Retry("unreachable")), 1), (provider("b"), 0))
    assert picked(switchboard, pinned="b") == {"b": 100}
    await sends(switchboard.lines[0])
    assert picked(switchboard, pinned="a") == {"": 100}


async def test_the_rate_is_respected_and_the_other_provider_does_not_wait() -> None:
    limited = provider("a", rate=10)
    limited.batch_size = 1
    switchboard, clock = board((limited, 50), (provider("b"), 50))
    started = clock.elapsed()
    calls = [asyncio.create_task(switchboard.lines[0].call([outbound(at)], CRITICAL)) for at in range(30)]
    await clock.settle()
    assert len(limited.sent) == 10
    assert picked(switchboard) == {"b": 100}, "who has no room makes nobody wait who can go elsewhere"
    while not all(call.done() for call in calls):
        await clock.advance(0.1)
    assert len(limited.sent) == 30
    assert clock.elapsed() - started >= 2_000


async def test_what_is_sent_one_by_one_is_spread_over_the_calls_that_can_begin() -> None:
    hanging = Hanging("a", concurrency=8)
    hanging.batch_size = 25
    switchboard, clock = board((hanging, 1))
    [line] = switchboard.lines
    assert line.most_at_once(CRITICAL, 4) == 25, "one request for all, as other providers make it"
    hanging.one_by_one = True
    assert [line.most_at_once(CRITICAL, count) for count in (1, 8, 9, 80, 1_000)] == [1, 1, 2, 10, 25]
    calls = [asyncio.create_task(line.call([outbound(at)], CRITICAL)) for at in range(6)]
    await clock.settle()
    assert [line.most_at_once(CRITICAL, count) for count in (1, 2, 8, 80)] == [1, 1, 4, 25]
    hanging.answer.set()
    await asyncio.gather(*calls)


async def test_bulk_never_takes_all_of_a_line() -> None:
    hanging = Hanging("a", concurrency=8)
    switchboard, clock = board((hanging, 1))
    line = switchboard.lines[0]
    bulk = [asyncio.create_task(line.call([outbound(at)], BULK)) for at in range(20)]
    await clock.settle()
    assert len(hanging.sent) == 6
    assert switchboard.room(BULK) == 0
    assert switchboard.room(CRITICAL) == 2
    urgent = asyncio.create_task(line.call([outbound(99)], CRITICAL))
    await clock.settle()
    assert hanging.sent[-1].id == UUID(int=99)
    hanging.answer.set()
    await asyncio.gather(urgent, *bulk)
    assert len(hanging.sent) == 21


async def test_the_most_urgent_waiter_comes_first() -> None:
    hanging = Hanging("a", concurrency=1)
    switchboard, clock = board((hanging, 1))
    line = switchboard.lines[0]
    calls = [asyncio.create_task(line.call([outbound(1)], NORMAL))]
    await clock.settle()
    for number, lane in ((2, BULK), (3, NORMAL), (4, CRITICAL)):
        calls.append(asyncio.create_task(line.call([outbound(number)], lane)))
        await clock.settle()
    hanging.answer.set()
    await asyncio.gather(*calls)
    assert [sent.id.int for sent in hanging.sent] == [1, 4, 3, 2]


async def test_a_send_that_waits_too_long_for_its_turn_goes_back_unsent() -> None:
    hanging = Hanging("a", concurrency=1)
    switchboard, clock = board((hanging, 1), patience_s=0.0)
    first = asyncio.create_task(switchboard.lines[0].call([outbound(1)], NORMAL))
    await clock.settle()
    [result] = await switchboard.lines[0].call([outbound(2)], NORMAL)
    assert isinstance(result, Retry)
    assert result.reason == "busy"
    hanging.answer.set()
    assert await first == [Sent()]
    assert len(hanging.sent) == 1


async def test_sends_that_wait_for_a_provider_that_goes_down_go_back_unsent() -> None:
    hanging = Hanging("a", concurrency=10)
    switchboard, clock = board((hanging, 1), (provider("b"), 0))
    calls = [asyncio.create_task(switchboard.lines[0].call([outbound(at)], CRITICAL)) for at in range(30)]
    await clock.advance(3)
    assert not switchboard.lines[0].share()
    await clock.settle()
    results = [call.result()[0] for call in calls if call.done()]
    assert len(results) == 20
    assert {result.reason for result in results if isinstance(result, Retry)} == {"busy"}
    hanging.answer.set()
    await asyncio.gather(*calls)


async def test_a_recovering_provider_gets_its_share_and_the_rest_goes_to_the_healthiest() -> None:
    ailing, well, better = provider("a", Uncertain("no_answer")), provider("b"), provider("c")
    switchboard, clock = board((ailing, 20), (well, 20), (better, 60), (provider("d"), 0))
    await sends(switchboard.lines[0])
    ailing.answers = takes_it
    assert picked(switchboard) == {"b": 20, "c": 80}
    await clock.advance(RULES.pause_ms / 1000)
    await sends(switchboard.lines[0], 1)
    for part in (1, 2, 4, 8, 16, 20):
        assert picked(switchboard) == {"a": part, "b": 20, "c": 80 - part}
        await clock.advance(RULES.step_ms / 1000)
        await sends(switchboard.lines[0], 1)


async def test_a_full_provider_gets_nothing_while_another_has_room_now_or_soon() -> None:
    full, free = Hanging("a", concurrency=10), Hanging("b", concurrency=30)
    switchboard, clock = board((full, 50), (free, 50), (provider("c"), 0))
    calls = [asyncio.create_task(switchboard.lines[0].call([outbound(at)], CRITICAL)) for at in range(10)]
    await clock.settle()
    assert picked(switchboard, 20) == {"b": 20}
    assert picked(switchboard, 40)["b"] > 27, "the spare does not take the overflow"
    assert picked(switchboard, 40)["c"] == 0
    full.answer.set()
    await asyncio.gather(*calls)
