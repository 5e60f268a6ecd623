"""What a worker has handed over and history cannot tell yet: which copies are dropped, and which wait."""

from __future__ import annotations

from uuid import UUID

from tidings.backends.memory.clock import VirtualClock
from tidings.pipeline.deliver.in_hand import InHand

ATTEMPT = (UUID(int=7), 1)
REMEMBERED_S = 10.0


def test_what_is_in_hand_is_taken_once_and_its_copy_dropped() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 1)
    assert not hand.take(ATTEMPT, 0)
    assert not hand.makes_wait(ATTEMPT, 0)
    hand.end([ATTEMPT])
    assert not hand.take(ATTEMPT, 1)
    assert not hand.makes_wait(ATTEMPT, 1)


def test_the_same_item_waits_while_its_earlier_claim_is_under_way() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 0)
    assert hand.makes_wait(ATTEMPT, 0)


def test_a_further_copy_waits_until_history_can_tell() -> None:
    """Its own step followed from the fact that the one in hand would state once more."""
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 0)
    assert hand.makes_wait(ATTEMPT, 1)
    hand.end([ATTEMPT])
    assert not hand.take(ATTEMPT, 1)
    assert hand.makes_wait(ATTEMPT, 1)


async def test_what_has_ended_is_forgotten_when_history_can_tell() -> None:
    clock = VirtualClock()
    hand = InHand(clock, REMEMBERED_S)
    assert hand.take(ATTEMPT, 0)
    hand.end([ATTEMPT])
    await clock.advance(REMEMBERED_S)
    assert not hand.take(ATTEMPT, 1)
    assert hand.makes_wait(ATTEMPT, 1)
    await clock.advance(REMEMBERED_S)
    assert hand.take(ATTEMPT, 1)


def test_what_was_not_begun_can_be_taken_again() -> None:
    hand = InHand(VirtualClock(), REMEMBERED_S)
    assert hand.take(ATTEMPT, 0)
    hand.give_back([ATTEMPT])
    assert hand.take(ATTEMPT, 1)
