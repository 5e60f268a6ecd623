"""The attempts that a process has in hand: which copies are dropped, and which wait."""

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
    assert hand.take(ATTEMPT, 1) is Turn.GO
    assert hand.take(ATTEMPT, 1) is Turn.GIVE_BACK
    assert hand.take(ATTEMPT, 0) is Turn.DROP


def test_a_copy_that_is_further_than_the_attempt_in_hand_waits_and_may_go_on_in_its_place() -> None:
    """The claim of the one in hand may be lost, so that it is neither recorded nor given back to its queue."""
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 1) is Turn.GO
    assert hand.take(ATTEMPT, 2) is Turn.WAIT
    hand.give_back([ATTEMPT])
    assert hand.take(ATTEMPT, 2) is Turn.GO


def test_a_copy_that_is_further_than_the_attempt_that_ended_waits_for_its_facts() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 1) is Turn.GO
    hand.end([ATTEMPT])
    assert hand.take(ATTEMPT, 1) is Turn.DROP
    assert hand.take(ATTEMPT, 2) is Turn.WAIT


async def test_an_attempt_that_ended_is_forgotten_once_its_facts_are_recorded() -> None:
    clock = VirtualClock()
    hand = InHand(clock, REMEMBERED_S)
    assert hand.take(ATTEMPT, 0) is Turn.GO
    hand.end([ATTEMPT])
    await clock.advance(REMEMBERED_S)
    assert hand.take(ATTEMPT, 1) is Turn.WAIT
    await clock.advance(REMEMBERED_S)
    assert hand.take(ATTEMPT, 1) is Turn.GO
