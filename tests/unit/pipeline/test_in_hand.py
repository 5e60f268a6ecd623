"""What a worker has handed over and history cannot tell yet: which copies are dropped, and what follows from them."""

from __future__ import annotations

from uuid import UUID

from tidings.backends.memory.clock import VirtualClock
from tidings.pipeline.deliver.in_hand import InHand

ATTEMPT = (UUID(int=7), 1)
REMEMBERED_S = 10.0


def test_what_is_in_hand_is_taken_once_and_until_history_can_tell() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 1)
    assert not hand.take(ATTEMPT, 0)
    hand.end([ATTEMPT])
    assert not hand.take(ATTEMPT, 1)


def test_the_same_item_is_told_from_a_copy() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 0)
    assert hand.is_itself(ATTEMPT, 0)
    assert not hand.is_itself(ATTEMPT, 1)


def test_the_one_in_hand_goes_on_from_the_furthest_step_of_its_dropped_copies() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 1)
    assert hand.step_of(ATTEMPT, 1) == 1
    for step in (0, 3, 2):
        assert not hand.take(ATTEMPT, step)
    assert hand.step_of(ATTEMPT, 1) == 3
    hand.give_back([ATTEMPT])
    assert hand.step_of(ATTEMPT, 1) == 1


async def test_what_has_ended_is_forgotten_when_history_can_tell() -> None:
    clock = VirtualClock()
    hand = InHand(clock, REMEMBERED_S)
    assert hand.take(ATTEMPT, 0)
    hand.end([ATTEMPT])
    await clock.advance(REMEMBERED_S)
    assert not hand.take(ATTEMPT, 1)
    await clock.advance(REMEMBERED_S)
    assert hand.take(ATTEMPT, 1)
