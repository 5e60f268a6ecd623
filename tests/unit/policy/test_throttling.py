"""Whether a provider that asks for less means the account or a recipient."""

from __future__ import annotations

import pytest

from tidings.policy import throttling as policy
from tidings.policy.throttling import ENOUGH_TAKEN, FORGIVING, LIMIT_MS, SEVERAL, Refusal, Throttling


def refused(recipient: str, *, says_account: bool = False, request: int = 1) -> Refusal:
    return Refusal(recipient, request, says_account)


def test_one_recipient_costs_itself_however_often_it_is_refused() -> None:
    throttling = Throttling()
    for _ in range(20):
        assert throttling.heard([refused("a")], taken=0, now=0) == [False]


def test_several_first_refusals_in_a_row_mean_the_account_until_something_is_taken() -> None:
    throttling = Throttling()
    verdicts = [throttling.heard([refused(f"person-{number}")], taken=0, now=0)[0] for number in range(SEVERAL + 2)]
    assert verdicts == [False] * (SEVERAL - 1) + [True] * 3
    assert throttling.heard([refused("person-0")], taken=0, now=0) == [True], "nothing was taken yet"
    assert throttling.heard([], taken=FORGIVING * (SEVERAL + 1), now=0) == []
    assert throttling.heard([refused("another")], taken=0, now=0) == [False]


def test_recipients_that_were_refused_before_do_not_make_the_account_wait() -> None:
    """At the end of a day only recipients remain whom the provider never takes."""
    throttling = Throttling()
    crowd = [f"magic-{number}" for number in range(10)]
    for recipient in crowd:
        throttling.heard([refused(recipient)], taken=0, now=0)
        throttling.heard([], taken=1, now=0)
    for _ in range(3):
        verdicts = [throttling.heard([refused(recipient)], taken=0, now=LIMIT_MS)[0] for recipient in crowd]
        assert verdicts == [False] * 10


def test_refusals_in_a_call_that_took_others_do_not_mean_the_account() -> None:
    throttling = Throttling()
    batch = [refused(f"person-{number}", request=number) for number in range(5)]
    assert throttling.heard(batch, taken=100, now=0) == [False] * 5


def test_one_answer_to_a_request_with_many_recipients_is_one_refusal() -> None:
    throttling = Throttling()
    together = [refused(f"person-{number}", request=7) for number in range(50)]
    assert throttling.heard(together, taken=0, now=0) == [False] * 50
    apart = [refused(f"other-{number}", request=number) for number in range(50)]
    assert throttling.heard(apart, taken=0, now=0) == [True] * 50


def test_a_provider_that_speaks_of_the_account_is_believed() -> None:
    throttling = Throttling()
    assert throttling.heard([refused("a", says_account=True)], taken=5, now=0) == [True]
    throttling.heard([], taken=ENOUGH_TAKEN - 1, now=0)
    assert throttling.heard([refused("a", says_account=True)], taken=0, now=0) == [True]


def test_the_account_is_not_meant_if_one_recipient_is_refused_again_while_others_are_taken() -> None:
    throttling = Throttling()
    throttling.heard([refused("a", says_account=True)], taken=0, now=0)
    throttling.heard([], taken=ENOUGH_TAKEN, now=0)
    assert throttling.heard([refused("a", says_account=True)], taken=0, now=0) == [False]
    assert throttling.heard([refused("b", says_account=True)], taken=0, now=0) == [True]


def test_at_its_limit_a_provider_refuses_many_so_a_second_refusal_means_the_account() -> None:
    throttling = Throttling()
    throttling.heard([refused("a", says_account=True)], taken=0, now=0)
    for number in range(ENOUGH_TAKEN):
        throttling.heard([refused(f"person-{number}", says_account=True)], taken=2, now=0)
    assert throttling.heard([refused("a", says_account=True)], taken=0, now=0) == [True]


def test_the_pause_is_what_was_asked_within_bounds_and_doubles_when_nothing_was() -> None:
    throttling = Throttling()
    throttling.heard([refused("a", says_account=True)], taken=0, now=0)
    assert throttling.pause_s([3.0, 7.0, None], 900.0, goes_on=False) == 7.0
    assert throttling.pause_s([float("inf")], 900.0, goes_on=False) == 900.0
    throttling.heard([], taken=1, now=0)
    pauses = [throttling.pause_s([None, -1.0, float("nan")], 900.0, goes_on=False) for _ in range(9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert throttling.pause_s([None], 900.0, goes_on=True) == 60
    throttling.heard([], taken=1, now=0)
    assert throttling.pause_s([None], 900.0, goes_on=False) == 1


def test_after_a_pause_as_many_follow_as_were_taken_before_it_and_then_more() -> None:
    throttling = Throttling()
    assert throttling.let_out(500) == 500
    throttling.heard([], taken=10, now=0)
    throttling.pause_s([1.0], 900.0, goes_on=False)
    assert [throttling.let_out(500) for _ in range(8)] == [10, 20, 40, 80, 160, 320, 500, 500]
    throttling.pause_s([1.0], 900.0, goes_on=False)
    assert throttling.let_out(500) == 3


def test_a_wait_asked_of_recipients_holds_the_account_for_a_minute_at_most() -> None:
    throttling = Throttling()
    for number in range(SEVERAL):
        verdict = throttling.heard([refused(f"person-{number}")], taken=0, now=0)
    assert verdict == [True]
    assert throttling.pause_s([4_000.0], 900.0, goes_on=False) == 60.0
    assert throttling.pause_s([7.0], 900.0, goes_on=True) == 7.0
    assert throttling.pause_s([4_000.0], 10.0, goes_on=True) == 10.0


def test_what_was_taken_adds_up() -> None:
    throttling = Throttling()
    throttling.heard([refused("a", says_account=True)], taken=0, now=0)
    for _ in range(ENOUGH_TAKEN):
        throttling.heard([], taken=1, now=0)
    assert throttling.heard([refused("a", says_account=True)], taken=0, now=0) == [False]
    throttling.pause_s([1.0], 900.0, goes_on=False)
    assert throttling.let_out(500) == ENOUGH_TAKEN, "as many as were taken in all calls of the round"


def test_half_a_second_is_a_wait_and_zero_is_none() -> None:
    throttling = Throttling()
    throttling.heard([refused("a", says_account=True)], taken=0, now=0)
    assert throttling.pause_s([0.5, 0.0], 900.0, goes_on=True) == 0.5
    assert throttling.pause_s([0.0], 900.0, goes_on=True) == 1.0


def test_every_round_counts_what_was_taken_in_it() -> None:
    throttling = Throttling()
    for taken in (10, 25):
        throttling.heard([], taken=taken, now=0)
        throttling.pause_s([1.0], 900.0, goes_on=False)
        assert throttling.let_out(500) == taken


@pytest.mark.parametrize(("others", "means_all"), [(1, False), (2, False), (3, True)])
def test_more_than_a_tenth_of_refusals_in_between_mean_the_account(others: int, means_all: bool) -> None:
    throttling = Throttling()
    throttling.heard([refused("b", says_account=True)], taken=0, now=0)
    throttling.heard([refused("a", says_account=True)], taken=0, now=0)
    for number in range(others):
        throttling.heard([refused(f"person-{number}", says_account=True)], taken=0, now=0)
    throttling.heard([], taken=ENOUGH_TAKEN, now=0)
    assert throttling.heard([refused("a", says_account=True)], taken=0, now=0) == [means_all]


def test_of_many_the_one_refused_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_MOST_REMEMBERED", 3)
    throttling = Throttling()
    for recipient in ("a", "b", "c", "a", "d"):
        throttling.heard([refused(recipient, says_account=True)], taken=0, now=0)
    throttling.heard([], taken=100, now=0)
    verdicts = [throttling.heard([refused(recipient, says_account=True)], taken=0, now=0) for recipient in "acd"]
    assert verdicts == [[False]] * 3
    assert throttling.heard([refused("b", says_account=True)], taken=0, now=0) == [True]


def test_a_provider_at_its_limit_takes_some_and_refuses_many() -> None:
    """Ten are taken each second, the others wait, until all three hundred are through."""
    throttling, waiting, now = Throttling(), [f"person-{number}" for number in range(300)], 0
    verdicts: list[bool] = []
    while waiting:
        taken, refusals = waiting[:10], waiting[10:]
        heard = throttling.heard([refused(each, request=at) for at, each in enumerate(refusals)], len(taken), now)
        verdicts += heard
        waiting, now = refusals, now + 1_000
    assert all(verdicts)


def test_a_limit_is_over_when_hardly_any_are_refused() -> None:
    throttling = Throttling()
    for number in range(SEVERAL):
        throttling.heard([refused(f"person-{number}", request=number)], taken=1, now=0)
    assert throttling.heard([refused("another")], taken=1, now=0) == [True]
    throttling.heard([], taken=FORGIVING * SEVERAL, now=0)
    assert throttling.heard([refused("one more")], taken=1, now=0) == [False]


@pytest.mark.parametrize(("later_ms", "means_all"), [(LIMIT_MS - 1, True), (LIMIT_MS, False)])
def test_the_signs_of_a_limit_are_forgotten(later_ms: int, means_all: bool) -> None:
    throttling = Throttling()
    for number in range(SEVERAL):
        throttling.heard([refused(f"person-{number}", request=number)], taken=1, now=0)
    assert throttling.heard([refused("person-0")], taken=0, now=later_ms) == [means_all]


def test_recipients_that_are_refused_for_ever_do_not_keep_the_account_at_its_limit() -> None:
    throttling, crowd = Throttling(), [f"magic-{number}" for number in range(10)]
    for recipient in crowd:
        throttling.heard([refused(recipient)], taken=1, now=0)
    for second in range(1, 120):
        verdicts = [throttling.heard([refused(each)], taken=0, now=second * 1_000)[0] for each in crowd]
    assert verdicts == [False] * 10, "nothing is taken any more, so it is they who are refused"
