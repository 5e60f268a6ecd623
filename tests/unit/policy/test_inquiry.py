"""When a failing provider is asked whether it is well again."""

from __future__ import annotations

from itertools import pairwise

from tidings.policy.inquiry import FIRST_PAUSE_MS, LONGEST_DOUBT_MS, LONGEST_PAUSE_MS, Inquiry

HOUR_MS = 3_600_000


def asked_at(inquiry: Inquiry, begin: int, end: int) -> list[int]:
    """The instants at which a provider that always says no is asked, if `begin` is called once a second."""
    return [now for now in range(begin, end, 1_000) if inquiry.begin(now)]


def test_a_provider_that_works_is_never_asked() -> None:
    inquiry = Inquiry()
    assert asked_at(inquiry, 0, HOUR_MS) == []
    inquiry.failed(0)
    inquiry.succeeded()
    assert not inquiry.fails
    assert asked_at(inquiry, 0, HOUR_MS) == []


def test_pauses_grow_to_a_minute_while_the_answer_is_no() -> None:
    inquiry = Inquiry()
    inquiry.failed(0)
    instants = asked_at(inquiry, 0, HOUR_MS)
    assert instants[:4] == [5_000, 15_000, 35_000, 75_000]
    assert {later - earlier for earlier, later in pairwise(instants[4:])} == {LONGEST_PAUSE_MS}


def test_failures_that_go_on_do_not_put_the_question_off() -> None:
    inquiry = Inquiry()
    for now in range(0, FIRST_PAUSE_MS, 500):
        inquiry.failed(now)
    assert inquiry.begin(FIRST_PAUSE_MS)


def test_a_provider_that_says_well_and_fails_is_asked_less_and_less_often() -> None:
    inquiry, now, pauses = Inquiry(), 0, []
    for _ in range(15):
        inquiry.failed(now)
        began = now
        while not inquiry.begin(now):
            now += 1_000
        inquiry.answered_well()
        assert inquiry.says_well
        assert not inquiry.fails
        pauses.append(now - began)
    assert pauses[:3] == [5_000, 10_000, 20_000]
    assert pauses[-1] == LONGEST_DOUBT_MS
    inquiry.succeeded()
    inquiry.failed(now)
    assert inquiry.begin(now + FIRST_PAUSE_MS)


def test_an_answer_that_comes_after_a_success_says_nothing() -> None:
    inquiry = Inquiry()
    inquiry.failed(0)
    assert inquiry.begin(FIRST_PAUSE_MS)
    inquiry.succeeded()
    inquiry.answered_well()
    assert not inquiry.says_well


def test_a_success_says_whether_it_ended_a_failure() -> None:
    inquiry = Inquiry()
    assert not inquiry.succeeded()
    inquiry.failed(0)
    assert inquiry.succeeded()
    assert not inquiry.succeeded()
    inquiry.failed(0)
    inquiry.answered_well()
    assert not inquiry.succeeded(), "the answer has ended it already"
