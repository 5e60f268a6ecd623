from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.policy.breaker import Breaker, BreakerRules

RULES = BreakerRules()


def calls(breaker: Breaker, now: int, count: int, failed: int, takes: int = 10) -> int:
    """Make `count` calls of one send in a row, of which the last `failed` fail; returns the instant after them."""
    for number in range(count):
        begun = breaker.begin(now, 1)
        now += takes
        breaker.end(begun, now, int(number >= count - failed))
    return now


def opened(now: int = 0) -> tuple[Breaker, int]:
    breaker = Breaker(RULES)
    now = calls(breaker, now, RULES.least, RULES.least)
    assert breaker.share(now) == 0.0
    return breaker, now


def test_it_opens_on_the_error_rate_and_not_before_enough_was_sent() -> None:
    breaker = Breaker(RULES)
    now = calls(breaker, 0, RULES.least - 1, RULES.least - 1)
    assert breaker.share(now) == 1.0
    now = calls(breaker, now, 1, 1)
    assert breaker.share(now) == 0.0
    assert not breaker.is_slow


def test_a_few_failures_among_many_successes_do_not_open_it() -> None:
    breaker = Breaker(RULES)
    assert breaker.share(calls(breaker, 0, 100, 40)) == 1.0


def test_failures_outside_the_window_do_not_count() -> None:
    breaker = Breaker(RULES)
    calls(breaker, 0, 4, 4)
    assert breaker.share(calls(breaker, RULES.window_ms + 100, 4, 4)) == 1.0
    breaker = Breaker(RULES)
    calls(breaker, 0, 4, 4, takes=0)
    assert breaker.share(calls(breaker, RULES.window_ms, 4, 4, takes=0)) == 1.0, "the window has just passed"


def test_a_provider_that_says_nothing_is_left_before_its_calls_end() -> None:
    breaker = Breaker(RULES)
    for _ in range(10):
        breaker.begin(0, 1)
    assert breaker.share(RULES.slow_after_ms - 1) == 1.0
    assert breaker.share(RULES.slow_after_ms) == 0.0
    assert breaker.is_slow


def test_slow_answers_open_it_for_slowness() -> None:
    breaker = Breaker(RULES)
    begun = [breaker.begin(0, 1) for _ in range(10)]
    for number in begun:
        breaker.end(number, RULES.slow_after_ms + 1, 0)
    assert breaker.share(RULES.slow_after_ms + 1) == 0.0
    assert breaker.is_slow


def test_it_probes_after_the_pause_and_recovers_in_steps() -> None:
    breaker, now = opened()
    assert breaker.share(now + RULES.pause_ms - 1) == 0.0
    now = calls(breaker, now + RULES.pause_ms, 1, 0)
    shares = [breaker.share(now)]
    while shares[-1] < 1.0:
        now = calls(breaker, now + RULES.step_ms // 2, 5, 0)
        shares.append(breaker.share(now))
    assert list(dict.fromkeys(shares)) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]


def test_while_probing_a_little_goes_through() -> None:
    breaker, now = opened()
    assert breaker.probing
    assert 0.0 < breaker.share(now + RULES.pause_ms) < 0.1
    calls(breaker, now + RULES.pause_ms, 1, 0)
    assert not breaker.probing


def test_a_failed_probe_doubles_the_pause_up_to_the_longest() -> None:
    breaker, now = opened()
    pauses = []
    for _ in range(10):
        wait = breaker.next_probe(now) - now
        pauses.append(wait)
        now = calls(breaker, now + wait, 1, 1)
    assert pauses[:3] == [RULES.pause_ms, RULES.pause_ms * 2, RULES.pause_ms * 4]
    assert pauses[-1] == RULES.longest_pause_ms


def test_without_traffic_no_step_is_taken() -> None:
    breaker, now = opened()
    now = calls(breaker, now + RULES.pause_ms, 1, 0)
    assert breaker.share(now + 100 * RULES.step_ms) == 0.05


def test_every_step_of_the_recovery_needs_traffic_of_its_own() -> None:
    breaker, now = opened()
    now = calls(breaker, now + RULES.pause_ms, 1, 0)
    now = calls(breaker, now + 100, 3, 0)
    assert breaker.share(now + RULES.step_ms) == 0.1
    assert breaker.share(now + 28_000) == 0.1, "what it took before this step proves nothing about the next one"
    now = calls(breaker, now + 28_000, 1, 0)
    assert breaker.share(now) == 0.2


def test_failed_sends_do_not_advance_the_recovery() -> None:
    breaker, now = opened()
    now = calls(breaker, now + RULES.pause_ms, 1, 0)
    calls(breaker, now + 100, 2, 2)
    assert breaker.share(now + 2 * RULES.step_ms) == 0.05


def test_calls_that_began_before_it_opened_do_not_count() -> None:
    breaker = Breaker(RULES)
    hanging = [breaker.begin(0, 1) for _ in range(50)]
    now = calls(breaker, 10, 1, 1)
    now = calls(breaker, now, 9, 9)
    now = calls(breaker, breaker.next_probe(now), 1, 0)
    for number in hanging:
        breaker.end(number, now, 1)
    assert breaker.share(now) == 0.05
    assert not breaker.probing


def test_calls_that_tidings_broke_off_say_nothing() -> None:
    breaker = Breaker(RULES)
    for begun in [breaker.begin(0, 1) for _ in range(10)]:
        breaker.abandon(begun)
    breaker.abandon(10_000)
    assert breaker.share(RULES.slow_after_ms) == 1.0


def test_a_call_that_hung_and_then_ended_counts_once() -> None:
    breaker = Breaker(RULES)
    begun = [breaker.begin(0, 1) for _ in range(RULES.least - 1)]
    for later in range(3):
        assert breaker.share(RULES.slow_after_ms + later) == 1.0, "four sends are too few to judge by"
    for number in begun:
        breaker.end(number, RULES.slow_after_ms + 3, 0)
    assert breaker.share(RULES.slow_after_ms + 3) == 1.0


def test_calls_that_hang_are_seen_beside_one_that_has_just_begun() -> None:
    breaker = Breaker(RULES)
    for _ in range(RULES.least):
        breaker.begin(0, 1)
    breaker.begin(RULES.slow_after_ms, 1)
    assert breaker.share(RULES.slow_after_ms) == 0.0


@pytest.mark.parametrize(("takes", "failed", "share"), [(10, 9, 0.05), (10, 10, 0.0), (RULES.slow_after_ms, 0, 0.0)])
def test_a_probe_is_well_if_one_of_its_sends_succeeded_in_time(takes: int, failed: int, share: float) -> None:
    breaker, now = opened()
    now += RULES.pause_ms
    begun = breaker.begin(now, 10)
    breaker.end(begun, now + takes, failed)
    assert breaker.share(now + takes) == share
    assert breaker.probing == (share == 0.0)


def test_a_send_that_is_slow_by_a_hair_is_slow() -> None:
    for takes, share in ((RULES.slow_after_ms - 1, 1.0), (RULES.slow_after_ms, 0.0)):
        breaker = Breaker(RULES)
        for number in [breaker.begin(0, 1) for _ in range(RULES.least)]:
            breaker.end(number, takes, 0)
        assert breaker.share(takes) == share


def test_failing_while_it_recovers_doubles_the_pause_and_full_recovery_forgets_that() -> None:
    breaker, now = opened()
    now = calls(breaker, now + RULES.pause_ms, 1, 0)
    now = calls(breaker, now, RULES.least, RULES.least)
    assert breaker.next_probe(now) - now == 2 * RULES.pause_ms
    now = calls(breaker, breaker.next_probe(now), 1, 0)
    while breaker.share(now) < 1.0:
        now = calls(breaker, now + RULES.step_ms, 1, 0)
    now = calls(breaker, now + RULES.window_ms, RULES.least, RULES.least)
    assert breaker.next_probe(now) - now == RULES.pause_ms


def test_a_provider_that_recovered_and_says_nothing_is_left_again() -> None:
    breaker = Breaker(RULES)
    for _ in range(RULES.least):
        breaker.begin(0, 1)  # these hang since before the recovery
    now = calls(breaker, 10, RULES.least, RULES.least)
    now = calls(breaker, breaker.next_probe(now), 1, 0)
    assert breaker.share(now + RULES.slow_after_ms) == 0.05
    for _ in range(RULES.least):
        breaker.begin(now, 1)
    assert breaker.share(now + RULES.slow_after_ms - 1) == 0.05
    assert breaker.share(now + RULES.slow_after_ms) == 0.0
    assert breaker.is_slow


def test_calls_that_hang_do_not_prolong_the_pause() -> None:
    breaker = Breaker(RULES)
    for _ in range(10):
        breaker.begin(0, 1)
    now = calls(breaker, 1_000, 15, 15)
    until = breaker.next_probe(now)
    assert breaker.share(RULES.slow_after_ms) == 0.0
    assert breaker.next_probe(RULES.slow_after_ms) == until


@pytest.mark.parametrize("failed", [True, False])
def test_half_of_the_sends_are_enough_to_open_it_and_less_is_not(failed: bool) -> None:
    takes = 1 if failed else RULES.slow_after_ms
    for bad, share in ((5, 0.0), (4, 1.0)):
        breaker = Breaker(RULES)
        for number in [breaker.begin(0, 1) for _ in range(10 - bad)]:
            breaker.end(number, 1, 0)
        for number in [breaker.begin(0, 1) for _ in range(bad)]:
            breaker.end(number, takes, int(failed))
        assert breaker.share(takes) == share


def test_a_step_of_the_recovery_takes_its_time() -> None:
    breaker, now = opened(60_000)
    now = stepped = calls(breaker, now + RULES.pause_ms, 1, 0)
    for share in (0.05, 0.1, 0.2):
        calls(breaker, now, 1, 0)
        assert breaker.share(stepped + RULES.step_ms - 1) == share
        now = stepped = stepped + RULES.step_ms
        assert breaker.share(now) == 2 * share


@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 50), st.floats(0, 1), st.integers(0, 20_000)), max_size=60)
)
def test_after_any_history_a_provider_that_works_gets_all_its_traffic_again(
    happened: list[tuple[int, int, float, int]],
) -> None:
    breaker, now = Breaker(RULES), 0
    for pause, size, failing, takes in happened:
        now += pause
        number = breaker.begin(now, size)
        now += takes
        breaker.end(number, now, int(size * failing))
        assert 0.0 <= breaker.share(now) <= 1.0
    for _ in range(100):
        now = max(now + RULES.step_ms, breaker.next_probe(now))
        if breaker.share(now) > 0.0:
            now = calls(breaker, now, 1, 0)
    assert breaker.share(now) == 1.0
