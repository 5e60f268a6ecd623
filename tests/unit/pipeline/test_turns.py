"""Turns: who is next on the event loop, and in which order the items of several owners are worked on."""

from __future__ import annotations

import asyncio

import pytest

from tidings.backends.memory.clock import VirtualClock
from tidings.pipeline.runtime.turns import SLICE_MS, Turns, in_turn


def owner(item: str) -> str:
    return item[0]


@pytest.mark.parametrize(
    ("items", "order"),
    [
        ([], []),
        (["a1", "a2"], ["a1", "a2"]),
        (["a1", "a2", "a3", "b1", "c1", "c2"], ["a1", "b1", "c1", "a2", "c2", "a3"]),
        (["b1", "a1", "b2"], ["b1", "a1", "b2"]),
    ],
)
def test_owners_take_turns_and_each_keeps_its_order(items: list[str], order: list[str]) -> None:
    assert list(in_turn(items, owner)) == order


def test_who_had_no_turn_yet_is_first() -> None:
    had = {"a": 5, "b": 0, "c": 2}
    assert list(in_turn(["a1", "b1", "c1", "a2"], owner, had.__getitem__)) == ["b1", "c1", "a1", "a2"]


def test_items_that_look_like_nothing_are_items_too() -> None:
    assert list(in_turn([0, 1, 2, 3], lambda number: str(number % 2))) == [0, 1, 2, 3]


async def test_a_turn_lets_others_work_after_a_slice_and_not_before() -> None:
    clock, others = VirtualClock(), 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    async with Turns(clock).of("shop") as turn:
        for passed, is_let in [(0, False), (SLICE_MS - 1, False), (1, True), (SLICE_MS - 1, False), (1, True)]:
            clock._now += passed
            before = others
            await turn.pause()
            assert (others > before) is is_let
    running.cancel()


async def test_one_caller_of_a_name_works_at_a_time_in_their_order() -> None:
    turns, log = Turns(VirtualClock()), []

    async def work(name: str, number: int) -> None:
        async with turns.of(name):
            log.append((name, number, "begins"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            log.append((name, number, "ends"))

    await asyncio.gather(work("shop", 1), work("shop", 2), work("bank", 3))
    shop = [(number, what) for name, number, what in log if name == "shop"]
    assert shop == [(1, "begins"), (1, "ends"), (2, "begins"), (2, "ends")]
    assert log.index(("bank", 3, "begins")) < log.index(("shop", 1, "ends")), "another name does not wait"


async def test_names_that_nobody_uses_are_forgotten() -> None:
    turns = Turns(VirtualClock())
    async with turns.of("shop"):
        pass
    assert not turns._locks
