"""The attempts that a process has in hand: which copies are dropped, and from which step the original goes on."""

from __future__ import annotations

from uuid import UUID

from tidings.backends.memory.clock import VirtualClock
from tidings.pipeline.deliver.in_hand import InHand

ATTEMPT = (UUID(int=7), 1)
REMEMBERED_S = 10.0


def test_an_attempt_in_hand_is_not_taken_again() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 1)
    assert not hand.take(ATTEMPT, 0)
    hand.end([ATTEMPT])
    assert not hand.take(ATTEMPT, 1)


def test_the_item_in_hand_is_distinguished_from_its_copies() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 0)
    assert hand.is_itself(ATTEMPT, 0)
    assert not hand.is_itself(ATTEMPT, 1)


def test_an_attempt_in_hand_goes_on_from_the_highest_step_of_its_dropped_copies() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 1)
    assert hand.step_of(ATTEMPT, 1) == 1
    for step in (0, 3, 2):
        assert not hand.take(ATTEMPT, step)
    assert hand.step_of(ATTEMPT, 1) == 3
    hand.give_back([ATTEMPT])
    assert hand.step_of(ATTEMPT, 1) == 1


async def test_an_attempt_that_ended_is_forgotten_once_its_facts_are_recorded() -> None:
    clock = VirtualClock()
    hand = InHand(clock, REMEMBERED_S)
    assert hand.take(ATTEMPT, 0)
    hand.end([ATTEMPT])
    await clock.advance(REMEMBERED_S)
    assert not hand.take(ATTEMPT, 1)
    await clock.advance(REMEMBERED_S)
    assert hand.take(ATTEMPT, 1)
