"""The attempts that a process has in hand: which copies are dropped, and from which step the original goes on."""

from __future__ import annotations

from uuid import UUID

from tidings.backends.memory.clock import VirtualClock
from tidings.pipeline.deliver.in_hand import InHand, Turn

ATTEMPT = (UUID(int=7), 1)
REMEMBERED_S = 10.0


def test_an_attempt_in_hand_is_not_taken_again() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 1) is Turn.GO
    assert hand.take(ATTEMPT, 0) is Turn.DROP
    hand.end([ATTEMPT])
    assert hand.take(ATTEMPT, 1) is Turn.DROP


def test_the_item_in_hand_is_distinguished_from_its_copies() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 0) is Turn.GO
    assert hand.take(ATTEMPT, 0) is Turn.GIVE_BACK
    assert hand.take(ATTEMPT, 1) is Turn.DROP


def test_an_attempt_in_hand_goes_on_from_the_highest_step_of_its_dropped_copies() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 1) is Turn.GO
    assert hand.step_of(ATTEMPT, 1) == 1
    for step in (0, 3, 2):
        assert hand.take(ATTEMPT, step) is Turn.DROP
    assert hand.step_of(ATTEMPT, 1) == 3
    hand.give_back([ATTEMPT])
    assert hand.step_of(ATTEMPT, 1) == 1


def test_a_copy_that_is_further_than_the_attempt_that_ended_waits_for_its_facts() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 1) is Turn.GO
    assert hand.take(ATTEMPT, 3) is Turn.DROP  # the attempt goes on from step 3
    hand.end([ATTEMPT])
    assert hand.take(ATTEMPT, 3) is Turn.DROP
    assert hand.take(ATTEMPT, 4) is Turn.WAIT


async def test_an_attempt_that_ended_is_forgotten_once_its_facts_are_recorded() -> None:
    clock = VirtualClock()
    hand = InHand(clock, REMEMBERED_S)
    assert hand.take(ATTEMPT, 0) is Turn.GO
    hand.end([ATTEMPT])
    await clock.advance(REMEMBERED_S)
    assert hand.take(ATTEMPT, 1) is Turn.WAIT
    await clock.advance(REMEMBERED_S)
    assert hand.take(ATTEMPT, 1) is Turn.GO
