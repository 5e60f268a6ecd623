from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidings.policy.token_bucket import TokenBucket

RATES = st.floats(0.1, 10_000)
BURSTS = st.floats(1, 10_000)


@given(RATES, BURSTS, st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 100)), max_size=60))
def test_it_never_gives_more_than_the_burst_and_the_rate(
    rate: float, burst: float, asked: list[tuple[int, int]]
) -> None:
    bucket, now, taken = TokenBucket(rate, burst), 1_000_000, 0
    for pause, count in asked:
        now += pause
        taken += count * bucket.take(count, now)
        assert taken <= burst + rate * (now - 1_000_000) / 1000 + 1e-6 * (1 + taken)


@given(RATES, BURSTS, st.integers(1, 100))
def test_after_the_wait_it_can_be_taken(rate: float, burst: float, count: int) -> None:
    bucket = TokenBucket(rate, max(burst, count))
    while bucket.take(count, 0):
        pass
    wait = bucket.wait_ms(count, 0)
    assert wait > 0
    assert bucket.take(count, wait + 1)


def test_tokens_to_leave_are_not_taken() -> None:
    bucket = TokenBucket(10, 100)
    assert not bucket.take(90, 0, leave=20)
    assert bucket.take(80, 0, leave=20)
    assert not bucket.take(1, 0, leave=20)
    assert bucket.take(20, 0)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(10, 10)
    assert bucket.take(10, 5_000)
    assert bucket.tokens(1_000) == 0
    assert bucket.tokens(5_100) == 1


def test_the_wait_covers_the_missing_tokens_and_those_to_leave() -> None:
    bucket = TokenBucket(10, 100)
    assert bucket.wait_ms(100, 0) == 0
    assert bucket.take(100, 0)
    assert bucket.wait_ms(10, 0) == 1_000
    assert bucket.wait_ms(10, 500) == 500
    assert bucket.wait_ms(10, 500, leave=20) == 2_500
