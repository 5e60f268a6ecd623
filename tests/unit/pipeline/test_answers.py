"""What a provider's answers are taken for: one result per delivery, and whom each "not now" is about."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from support.flow import Recorder
from tidings.model.notification import SmsContent
from tidings.model.sending import About, AnyDelivery, Rejected, Retry, SendResult, Sent, SmsDelivery, Uncertain
from tidings.model.vocabulary import Channel
from tidings.pipeline.deliver.answers import answers_of, in_words, is_too_late, settled
from tidings.policy.fitting import MOST_DETAIL
from tidings.policy.throttling import FORGIVING, SEVERAL, Throttling

NOW = 1_000_000
DELIVERY, ACCOUNT, UNOFFERED = About.DELIVERY, About.ACCOUNT, About.UNOFFERED


def text(number: int, expires_at: int | None = None) -> AnyDelivery:
    return SmsDelivery(UUID(int=number), "shop", f"+49{number}", "k", expires_at=expires_at, content=SmsContent("x"))


def texts(count: int) -> list[AnyDelivery]:
    return [text(number) for number in range(count)]


class Vendor(Recorder):
    """A provider that answers as the test says, even with too few answers or none."""

    def __init__(self) -> None:
        super().__init__("one", Channel.SMS)
        self.says: Any = None
        self.calls = 0

    async def send(self, batch: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        self.calls += 1
        self.sent.extend(batch)
        if isinstance(self.says, Exception):
            raise self.says
        if self.says == "silence":
            await asyncio.Event().wait()
        return [Sent(str(one.id.int)) for one in batch] if self.says is None else self.says


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


async def test_deliveries_that_expired_while_they_waited_are_not_sent_and_the_others_get_their_own_answers(
    vendor: Vendor,
) -> None:
    outbound = [text(1, NOW - 1), text(2), text(3, NOW), text(4, NOW + 1)]
    results = await answers_of(vendor, outbound, NOW)
    assert [one.id.int for one in vendor.sent] == [2, 4]
    assert [is_too_late(result) for result in results] == [True, False, True, False]
    assert [results[1], results[3]] == [Sent("2"), Sent("4")]
    assert all(isinstance(results[at], Retry) and results[at].about is DELIVERY for at in (0, 2))  # type: ignore[union-attr]


async def test_a_provider_is_not_asked_for_nothing(vendor: Vendor) -> None:
    results = await answers_of(vendor, [text(1, NOW), text(2, NOW)], NOW)
    assert ([is_too_late(result) for result in results], vendor.calls) == ([True, True], 0)


async def test_only_a_delivery_that_was_not_offered_is_too_late(vendor: Vendor) -> None:
    [late] = await answers_of(vendor, [text(1, NOW)], NOW)
    assert isinstance(late, Retry)
    assert not is_too_late(Retry(late.reason, detail="the vendor's word"))
    assert not is_too_late(Retry("throttled", detail=late.detail))
    assert not is_too_late(Rejected(late.reason, detail=late.detail))


async def test_without_an_answer_in_time_every_delivery_is_uncertain(vendor: Vendor) -> None:
    vendor.says, vendor.timeout_s = "silence", 0.01
    results = await answers_of(vendor, texts(3), NOW)
    assert results == [Uncertain("timeout", "no answer within 0.01 s")] * 3


async def test_after_an_error_of_the_provider_every_delivery_is_uncertain(vendor: Vendor) -> None:
    vendor.says = ZeroDivisionError("x" * 10_000)
    results = await answers_of(vendor, texts(3), NOW)
    assert [type(result) for result in results] == [Uncertain] * 3
    for result in results:
        assert isinstance(result, Uncertain)
        assert result.reason == "provider_error"
        assert "ZeroDivisionError" in result.detail
        assert len(result.detail) <= MOST_DETAIL


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_too_few_or_too_many_answers_belong_to_nobody(vendor: Vendor, count: int) -> None:
    vendor.says = [Sent()] * count
    results = await answers_of(vendor, texts(2), NOW)
    assert len(results) == 2
    assert {result.reason for result in results if isinstance(result, Uncertain)} == {"provider_error"}


async def test_what_is_no_result_is_uncertain(vendor: Vendor) -> None:
    vendor.says = [Sent("a"), 7]
    first, second = await answers_of(vendor, texts(2), NOW)
    assert first == Sent("a")
    assert isinstance(second, Uncertain)


def abouts(results: Sequence[SendResult], *, failing: bool = False, before: Throttling | None = None) -> list[Any]:
    made = settled(results, texts(len(results)), before or Throttling(), 0, failing=failing)
    return [one.about if isinstance(one, Retry) else one for one in made]


@pytest.mark.parametrize(
    ("result", "well", "failing"),
    [
        (Retry("mailbox_busy"), DELIVERY, DELIVERY),
        (Retry("unreachable"), UNOFFERED, UNOFFERED),
        (Retry("unavailable"), DELIVERY, UNOFFERED),
        (Retry("unavailable", about=ACCOUNT), ACCOUNT, UNOFFERED),
        (Retry("throttled"), DELIVERY, DELIVERY),
        (Retry("throttled", about=ACCOUNT), ACCOUNT, ACCOUNT),
    ],
)
def test_whom_a_refusal_is_about_and_what_changes_while_the_provider_fails_for_everybody(
    result: Retry, well: About, failing: About
) -> None:
    assert abouts([result]) == [well]
    assert abouts([result], failing=True) == [failing]


def test_only_refusals_get_a_new_meaning_and_all_answers_keep_their_places() -> None:
    results: list[SendResult] = [
        Sent("a"),
        Retry("throttled", 7.0, about=ACCOUNT),
        Rejected("no"),
        Uncertain("timeout"),
        Retry("busy"),
    ]
    made = settled(results, texts(5), Throttling(), 0, failing=False)
    assert [made[0], made[2], made[3]] == [results[0], results[2], results[3]]
    assert made[1] == results[1]
    assert made[4] == Retry("busy", about=UNOFFERED)


def test_several_recipients_put_off_in_a_row_mean_the_account() -> None:
    assert abouts([Retry("throttled") for _ in range(SEVERAL)]) == [ACCOUNT] * SEVERAL
    assert abouts([Retry("throttled") for _ in range(SEVERAL - 1)]) == [DELIVERY] * (SEVERAL - 1)


def test_one_answer_for_several_recipients_is_one_refusal() -> None:
    assert abouts([Retry("throttled")] * SEVERAL) == [DELIVERY] * SEVERAL


@pytest.mark.parametrize(
    ("other", "meant"), [(Sent(), DELIVERY), (Rejected("no"), DELIVERY), (Uncertain("x"), ACCOUNT)]
)
def test_recipients_put_off_while_many_others_are_answered_do_not_mean_the_account(
    other: SendResult, meant: About
) -> None:
    """A refusal for good is an answer too; silence is none."""
    results = [*(Retry("throttled") for _ in range(SEVERAL)), *[other] * FORGIVING]
    assert abouts(results)[:SEVERAL] == [meant] * SEVERAL


def test_a_provider_that_takes_one_and_puts_off_several_is_at_its_limit() -> None:
    results: list[SendResult] = [*(Retry("throttled") for _ in range(SEVERAL)), Sent()]
    assert abouts(results)[:SEVERAL] == [ACCOUNT] * SEVERAL


def test_a_recipient_is_known_by_its_own_address() -> None:
    """The same one refused again and again is one in a row."""
    throttling = Throttling()
    for _ in range(2 * SEVERAL):
        [one] = settled([Retry("throttled")], [text(7)], throttling, 0, failing=False)
        assert isinstance(one, Retry)
        assert one.about is DELIVERY
    made = [settled([Retry("throttled")], [text(number)], throttling, 0, failing=False)[0] for number in range(SEVERAL)]
    assert [one.about for one in made if isinstance(one, Retry)][-1] is ACCOUNT


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (Sent("ref"), ""),
        (Retry("busy"), "busy"),
        (Rejected("invalid", detail="no mailbox ada@example.com"), "invalid no mailbox <address>"),
        (Uncertain("timeout", "+49 151 23456789"), "timeout <number>"),
    ],
)
def test_the_words_for_the_log_hold_no_address(result: SendResult, words: str) -> None:
    assert in_words(result) == words
