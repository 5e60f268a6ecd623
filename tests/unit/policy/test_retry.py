from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.sending import About, Rejected, Retry, Sent, Uncertain
from tidings.model.user import Retries
from tidings.policy.retry import (
    RetryPolicy,
    about,
    hold_until,
    is_fault,
    may_retry,
    patient_at,
    retry_at,
)

NOW = 1_790_000_000_000
ATTEMPTS = st.integers(1, 10_000)
SHARES = st.floats(0, 1, exclude_max=True)
ANYTHING = st.none() | st.floats()


@given(ATTEMPTS, ANYTHING, st.floats(0.001, 1e4), st.floats(0.001, 1e6), SHARES)
def test_a_wait_is_never_negative_and_never_beyond_the_cap(
    attempt: int, asked: float | None, base: float, cap: float, share: float
) -> None:
    due = retry_at(attempt, NOW, asked, base, cap, share)
    assert NOW <= due <= NOW + math.ceil(cap * 1000)


@given(ATTEMPTS, st.floats(0, 900), SHARES)
def test_what_the_provider_asked_for_is_respected(attempt: int, asked: float, share: float) -> None:
    assert retry_at(attempt, NOW, asked, 2.0, 900.0, share) >= NOW + asked * 1000


@pytest.mark.parametrize("nonsense", [None, -1.0, -math.inf, math.nan, 0.0])
def test_a_wait_that_is_no_positive_number_counts_as_none(nonsense: float | None) -> None:
    assert retry_at(1, NOW, nonsense, 2.0, 900.0, 0.5) == NOW + 1000


@pytest.mark.parametrize("huge", [1e300, math.inf])
def test_a_huge_wait_is_cut_to_the_cap(huge: float) -> None:
    assert retry_at(1, NOW, huge, 2.0, 900.0, 0.5) == NOW + 900_000


def test_the_window_doubles_until_the_cap() -> None:
    waits = [retry_at(attempt, 0, None, 2.0, 10.0, 1.0) for attempt in range(1, 6)]
    assert waits == [2000, 4000, 8000, 10_000, 10_000]


def test_the_jitter_spreads_over_the_whole_window() -> None:
    assert [retry_at(2, 0, None, 2.0, 60.0, share / 4) for share in range(4)] == [0, 1000, 2000, 3000]


@given(ATTEMPTS, ATTEMPTS, st.integers(), st.none() | st.integers())
def test_a_retry_needs_an_attempt_and_the_time_for_it(
    attempt: int, attempts: int, due: int, expires_at: int | None
) -> None:
    in_time = expires_at is None or due < expires_at
    assert may_retry(attempt, attempts, due, expires_at) == (attempt < attempts and in_time)


def test_a_greylisted_mail_is_offered_for_hours() -> None:
    waits = [patient_at(attempt, 0, None, 0.0) // 60_000 for attempt in range(1, 8)]
    assert waits == [5, 10, 20, 40, 60, 60, 60]
    assert patient_at(1, 0, 900.0, 0.0) == 900_000, "what was asked for is the least"
    assert patient_at(1, 0, None, 1.0) == 375_000, "jitter comes on top"
    assert patient_at(99, 0, float("inf"), 1.0) == 3_600_000


@given(ATTEMPTS, ANYTHING, SHARES)
def test_a_patient_wait_has_bounds(attempt: int, asked: float | None, share: float) -> None:
    assert NOW + 300_000 <= patient_at(attempt, NOW, asked, share) <= NOW + 3_600_000


def test_the_attempts_of_a_category_also_hold_for_patient_tries() -> None:
    assert RetryPolicy().of(Retries()).patient_attempts == 8
    assert RetryPolicy().of(Retries(attempts=2)).patient_attempts == 2
    assert RetryPolicy().of(Retries(base_s=0.1)).patient_attempts == 8


@given(st.integers(0, 10_000), st.integers(0, 10**9), ANYTHING, SHARES, st.floats(0, 2))
def test_a_look_while_waiting_for_a_provider_comes_before_the_end(
    waits: int, left: int, known: float | None, share: float, base_s: float
) -> None:
    due = hold_until(waits, NOW, NOW + left, known or 0.0, RetryPolicy(base_s=base_s), share)
    assert due is None or NOW + 500 <= due < NOW + left
    assert left < 1_500 or due is not None


def test_a_short_back_off_ends_no_delivery() -> None:
    for base_s in (0.0, 0.001, 0.2, 0.49):
        assert hold_until(0, NOW, NOW + 86_400_000, 0.0, RetryPolicy(base_s=base_s), 0.0) == NOW + 500


def test_looks_become_rare() -> None:
    day = NOW + 86_400_000
    for share in (0.0, 0.999):
        now, waits = NOW, 0
        while (due := hold_until(waits, now, day, 0.0, RetryPolicy(), share)) is not None and due < NOW + 8 * 3_600_000:
            assert due - now <= 1_800_000
            now, waits = due, waits + 1
        assert 20 <= waits <= 30


def test_a_known_end_of_an_outage_is_waited_for() -> None:
    due = hold_until(0, NOW, NOW + 86_400_000, 700.0, RetryPolicy(), 0.5)
    assert due == NOW + 701_000


def test_the_last_look_is_just_before_the_end() -> None:
    assert hold_until(20, NOW, NOW + 60_000, 0.0, RetryPolicy(), 0.5) == NOW + 59_000
    assert hold_until(20, NOW, NOW + 1_000, 0.0, RetryPolicy(), 0.5) is None


@pytest.mark.parametrize(
    ("result", "whose"),
    [
        (Retry("unreachable"), About.UNOFFERED),
        (Retry("busy"), About.UNOFFERED),
        (Retry("throttled"), About.DELIVERY),
        (Retry("mailbox_busy"), About.DELIVERY),
        (Retry("unavailable"), About.DELIVERY),
        (Retry("throttled", about=About.ACCOUNT), About.ACCOUNT),
        (Retry("unreachable", about=About.DELIVERY), About.DELIVERY),
    ],
)
def test_whom_an_answer_is_about(result: Retry, whose: About) -> None:
    assert about(result) is whose


def test_a_provider_fails_when_nothing_could_be_offered_but_not_for_lack_of_room() -> None:
    assert is_fault(Retry("custom_reason", about=About.UNOFFERED))
    assert is_fault(Retry("unreachable"))
    assert is_fault(Uncertain("timeout"))
    assert not is_fault(Retry("busy", about=About.UNOFFERED))
    assert not is_fault(Retry("custom_reason"))
    assert not is_fault(Retry("throttled", about=About.ACCOUNT))
    assert not is_fault(Rejected("no"))
    assert not is_fault(Sent())


def test_a_category_changes_what_it_names_and_nothing_else() -> None:
    general = RetryPolicy(3, 2.0, 900.0, 8, 86_400.0, 1_800.0)
    assert general.of(Retries()) == general
    assert general.of(Retries(5, 1.0, 60.0)) == RetryPolicy(5, 1.0, 60.0, 5, 86_400.0, 1_800.0)
    assert general.of(Retries(base_s=0.5)) == RetryPolicy(3, 0.5, 900.0, 8, 86_400.0, 1_800.0)
