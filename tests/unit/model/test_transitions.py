from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.vocabulary import State
from tidings.policy.transitions import (
    ATTEMPTS_PER_LIFE,
    IN_FLIGHT,
    RESTING,
    came_back,
    notification_state,
    number_in_life,
    rank,
    state_of,
)

facts = st.tuples(st.sampled_from(State), st.integers(0, 40))


@given(st.lists(facts, min_size=1, max_size=5))
def test_the_state_does_not_depend_on_the_order(history: list[tuple[State, int]]) -> None:
    states = {state_of(max(rank(state, attempt) for state, attempt in order)) for order in permutations(history)}
    assert len(states) == 1


@given(st.sampled_from(State), st.integers(0, 10_000_000))
def test_a_rank_fits_and_tells_its_state(state: State, attempt: int) -> None:
    assert 0 <= rank(state, attempt) < 2**31
    assert state_of(rank(state, attempt)) is state


@given(st.lists(facts, min_size=1))
def test_arrival_outranks_everything(history: list[tuple[State, int]]) -> None:
    assert rank(State.DELIVERED, 1) >= max(rank(state, attempt) for state, attempt in history)


@given(facts, st.integers(1, 40), st.integers(1, 5))
def test_a_return_outranks_everything_before_it_and_a_replay_outranks_the_return(
    before: tuple[State, int], attempt: int, times: int
) -> None:
    for _ in range(times):
        back = rank(State.FAILED, came_back(attempt))
        assert back > max(rank(*before), rank(State.DELIVERED, attempt))
        assert state_of(back) is State.FAILED
        attempt = came_back(attempt) + 1
        assert all(rank(state, attempt) > back for state in State)
        before = (State.DELIVERED, attempt)


@given(st.integers(1, 100), st.integers(0, 5))
def test_people_count_attempts_without_lives(number: int, lives: int) -> None:
    attempt = number
    for _ in range(lives):
        attempt = came_back(attempt)
    assert number_in_life(attempt) == number


@given(st.sampled_from(State), st.integers(0, ATTEMPTS_PER_LIFE - 1))
def test_ranks_of_the_first_life_never_change(state: State, attempt: int) -> None:
    codes = [
        State.PENDING, State.DEFERRED, State.SENDING, State.UNCERTAIN, State.SENT, State.SUPPRESSED, State.EXPIRED,
        State.CANCELLED, State.DEAD, State.FAILED, State.DELIVERED,
    ]  # fmt: skip
    code = codes.index(state)
    assert rank(state, attempt) == (2**20 + code if state is State.DELIVERED else attempt * 16 + code)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ([(State.SENT, 1), (State.FAILED, 1)], State.FAILED),
        ([(State.UNCERTAIN, 1), (State.SENT, 1)], State.SENT),
        ([(State.DEAD, 3), (State.SENT, 4)], State.SENT),
        ([(State.DEFERRED, 1), (State.PENDING, 1)], State.DEFERRED),
        ([(State.FAILED, 2), (State.DELIVERED, 1)], State.DELIVERED),
        ([(State.FAILED, came_back(1)), (State.DELIVERED, 1), (State.SENT, 1)], State.FAILED),
        (
            [(State.FAILED, came_back(1)), (State.DELIVERED, 1), (State.SENT, came_back(1) + 1)],
            State.SENT,
        ),
    ],
)
def test_the_furthest_fact_wins(facts: list[tuple[State, int]], state: State) -> None:
    assert state_of(max(rank(*fact) for fact in facts)) is state


@given(st.lists(st.sampled_from(State)))
def test_a_notification_rests_only_when_all_its_deliveries_do(deliveries: list[State]) -> None:
    whole = notification_state(deliveries, State.PENDING)
    if deliveries:
        assert whole in deliveries
        assert (whole in RESTING) == (not IN_FLIGHT & set(deliveries))
    else:
        assert whole is State.PENDING
