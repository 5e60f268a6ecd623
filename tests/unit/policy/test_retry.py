from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.policy.retry import may_retry, retry_at

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
def test_nonsense_counts_as_not_asked(nonsense: float | None) -> None:
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
