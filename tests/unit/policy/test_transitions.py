"""What one fact about a delivery says about the next one."""

from __future__ import annotations

import pytest

from tidings.model.vocabulary import Reason, State
from tidings.policy.transitions import ATTEMPTS_PER_LIFE, came_back, goes_on_with, may_be_handed, rank


def test_a_life_begins_with_its_first_number() -> None:
    assert rank(State.FAILED, came_back(0)) > rank(State.DELIVERED, ATTEMPTS_PER_LIFE - 1)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("reason", ["", *Reason])
def test_an_attempt_goes_on_after_a_wait_and_a_possible_copy_under_its_own_step(state: State, reason: str) -> None:
    expected = None
    if state is State.DEFERRED and reason not in {Reason.RETRY, Reason.FALLBACK}:
        expected = 8
    if (state, reason) == (State.PENDING, Reason.MAY_HAVE_BEEN_SENT):
        expected = 7
    assert goes_on_with(state, reason, 7) == expected


@pytest.mark.parametrize(
    ("state", "reason", "handed"),
    [
        (State.SENT, "", True),
        (State.DELIVERED, "", True),
        (State.UNCERTAIN, "timeout", True),
        (State.DEFERRED, Reason.RETRY, True),
        (State.DEFERRED, Reason.FALLBACK, False),
        (State.DEFERRED, Reason.QUIET_HOURS, False),
        (State.PENDING, "", False),
        (State.FAILED, Reason.RETRY, False),
        (State.SENDING, "", False),
        (State.DEAD, "", False),
    ],
)
def test_which_facts_say_that_a_provider_may_have_it(state: State, reason: str, handed: bool) -> None:
    assert may_be_handed(state, reason) == handed
