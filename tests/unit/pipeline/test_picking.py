"""Which of a channel's providers may take a delivery, and what it waits for if none may now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from msgspec import Struct

from support.deliveries import make_delivery
from support.flow import Recorder
from tidings.backends.memory.clock import VirtualClock
from tidings.model.notification import SmsContent
from tidings.model.sending import About, Retry, SendResult, Sent, SmsDelivery
from tidings.model.vocabulary import Channel, Lane
from tidings.pipeline.deliver.routed import Routed
from tidings.pipeline.deliver.switchboard import Picking, Switchboard
from tidings.policy.breaker import BreakerRules
from tidings.telemetry.metrics import Metrics

RULES = BreakerRules()
OUTBOUND = SmsDelivery(UUID(int=1), "shop", "+49", "1", content=SmsContent("x"))


class Known(Struct, eq=False):
    """A line of which only what a choice asks for is known."""

    name: str
    weight: int
    health: float
    at_once: int
    soon: int
    is_open: bool = True

    def share(self) -> float:
        return self.health

    def room(self, _lane: Lane, _share: float) -> int:
        return self.at_once

    def ahead(self, _lane: Lane, _share: float) -> int:
        return self.soon

    def is_used(self) -> bool:
        return self.is_open


def picks(lines: Sequence[Known], *chances: float, **more: Any) -> str:
    """The names of the lines that deliveries with these chances get in turn; "-" for none."""
    picking = Picking(lines, {line.name: line for line in lines}, Lane.NORMAL)  # type: ignore[arg-type, misc]
    chosen = [picking.line(make_delivery(**more), chance) for chance in chances]
    return "".join("-" if line is None else line.name for line in chosen)


def provider(name: str, result: SendResult | None = None) -> Recorder:
    made = Recorder(name, Channel.SMS)
    made.answers = lambda _: result or Sent()
    return made


def board(*providers: Recorder) -> tuple[Switchboard, VirtualClock]:
    clock = VirtualClock()
    return Switchboard([Routed(recorder) for recorder in providers], RULES, clock, Metrics()), clock


@pytest.mark.parametrize(
    ("tried", "refused", "has_others", "is_last"),
    [
        ((), (), True, False),
        (("b",), (), True, False),
        (("b",), ("c",), False, False),
        (("b", "c"), (), False, False),
        ((), ("b", "c"), False, True),
        (("a",), ("a", "b"), True, False),
    ],
)
async def test_another_provider_may_take_what_it_has_neither_tried_nor_refused(
    tried: tuple[str, ...], refused: tuple[str, ...], has_others: bool, is_last: bool
) -> None:
    switchboard, _ = board(provider("a"), provider("b", Retry("unreachable")), provider("c", Retry("unreachable")))
    [first, second, third] = switchboard.lines
    delivery = make_delivery(tried=tried, refused=refused)
    assert switchboard.has_others(first, delivery) is has_others
    assert switchboard.is_refused_by_all_but(first, delivery) is is_last
    for line in (second, third):
        for _ in range(RULES.least):
            await line.call([OUTBOUND], Lane.NORMAL)
    assert not switchboard.has_others(first, delivery), "they may not be used now"


@pytest.mark.parametrize(
    ("idempotent", "pinned", "drops", "pinned_in_doubt"),
    [
        ((True,), "", True, "a"),
        ((False,), "", False, ""),
        ((True, True), "", False, ""),
        ((True, False), "", False, ""),
        ((True, False), "a", True, "a"),
        ((True, False), "b", False, "b"),
        ((True,), "gone", False, "gone"),
    ],
)
def test_a_repetition_is_harmless_only_at_a_provider_that_alone_may_have_it_and_recognises_it(
    idempotent: tuple[bool, ...], pinned: str, drops: bool, pinned_in_doubt: str
) -> None:
    providers = [provider(name) for name, _ in zip("ab", idempotent, strict=False)]
    for recorder, recognises in zip(providers, idempotent, strict=True):
        recorder.idempotent = recognises
    switchboard, _ = board(*providers)
    assert switchboard.drops_repeats(make_delivery(pinned=pinned)) is drops
    doubtful = switchboard.in_doubt(make_delivery(pinned=pinned))
    assert (doubtful.doubtful, doubtful.pinned) == (True, pinned_in_doubt)


async def test_what_a_delivery_waits_for_is_the_provider_that_may_be_used_again_first() -> None:
    switchboard, clock = board(
        provider("a", Retry("throttled", after_s=7, about=About.ACCOUNT)),
        provider("b", Retry("throttled", after_s=5, about=About.ACCOUNT)),
    )
    for line in switchboard.lines:
        await line.call([OUTBOUND], Lane.NORMAL)
    refused = make_delivery(refused=("b",))
    everywhere = make_delivery(refused=("a", "b"))
    assert switchboard.usable_in_s() == switchboard.usable_in_s(make_delivery()) == 5
    assert switchboard.usable_in_s(everywhere) == 5, "whoever refused it may be asked again if all have"
    assert switchboard.usable_in_s(refused) == switchboard.usable_in_s(make_delivery(pinned="a")) == 7
    assert switchboard.obstacle(make_delivery()) == ("throttled", "b asked for less")
    assert switchboard.obstacle(refused) == ("throttled", "a asked for less")
    await clock.advance(5)
    assert (switchboard.usable_in_s(), switchboard.is_open()) == (0, True)


def test_lines_with_room_now_come_first_and_then_those_with_room_soon() -> None:
    lines = [
        Known("s", 0, 1.0, at_once=99, soon=99),
        Known("c", 1, 1.0, at_once=0, soon=0),
        Known("a", 1, 1.0, at_once=2, soon=4),
        Known("b", 1, 1.0, at_once=3, soon=3),
    ]
    assert picks(lines, *[0.0] * 10) == "aabbbaaccc", "the spare does not take the overflow"


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([Known("w", 50, 1.0, at_once=0, soon=0)], "w"),
        ([Known("w", 10, 1.0, at_once=9, soon=9), Known("x", 40, 1.0, at_once=0, soon=0)], "w"),
        ([Known("w", 10, 1.0, at_once=9, soon=9), Known("x", 40, 1.0, at_once=9, soon=9)], "x"),
        ([Known("w", 30, 1.0, at_once=9, soon=9), Known("x", 20, 1.0, at_once=9, soon=9)], "w"),
        ([Known("w", 10, 0.4, at_once=9, soon=9), Known("x", 40, 0.3, at_once=9, soon=9)], "a"),
        ([Known("w", 0, 1.0, at_once=9, soon=9), Known("x", 50, 0.0, at_once=0, soon=0)], "w"),
    ],
)
def test_what_an_ailing_line_must_not_get_goes_to_the_healthiest_that_has_room(
    others: list[Known], chosen: str
) -> None:
    ailing = Known("a", 50, 0.5, at_once=9, soon=9)
    assert picks([ailing, *others], 0.0, 0.2499) == "aa"
    assert picks([ailing, *others], 0.9999) == chosen


def test_a_recovering_line_gets_no_queue() -> None:
    ailing, well = Known("a", 50, 0.5, at_once=1, soon=9), Known("w", 50, 1.0, at_once=0, soon=0)
    assert picks([ailing, well], 0.0, 0.0, 0.0) == "aww"
    assert picks([ailing], 0.0, 0.0) == "aa", "unless nobody else may have it"
    closed = Known("a", 50, 0.0, at_once=0, soon=0, is_open=False)
    assert picks([closed], 0.0) == "-"
    assert picks([closed, Known("b", 50, 0.0, at_once=0, soon=0)], 0.0) == "b", "merely slow"


def test_a_delivery_goes_to_a_line_that_has_not_been_tried_and_never_to_one_that_refused_it() -> None:
    lines = [Known(name, 1, 1.0, at_once=9, soon=9) for name in "abc"]
    assert picks(lines, 0.0, tried=("a",)) == "b"
    assert picks(lines, 0.0, tried=("b", "c")) == "a"
    assert picks(lines, 0.0, tried=("a", "b", "c")) == "a"
    assert picks(lines, 0.0, tried=("b",), refused=("a", "c")) == "b"
    assert picks(lines, 0.0, refused=("a", "b", "c")) == "a", "all may be asked again if all refused it"
    assert picks(lines, 0.0, tried=("c",), refused=("c",), pinned="c") == "c"
