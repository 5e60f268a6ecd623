"""Beginning items of a claim: what one round trip to the queue marks, and who learns that it failed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from tidings.model.errors import LeaseLost, Unavailable
from tidings.pipeline.runtime.beginning import Beginning


class Claim:
    """A claim whose calls end when the test lets them, with the next of `errors`."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.errors: list[Exception | None] = []
        self.answers = asyncio.Semaphore(0)

    async def begin(self, places: Collection[int]) -> None:
        assert isinstance(places, list)
        self.calls.append(places)
        await self.answers.acquire()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error


def beginning(claim: Any) -> Beginning:
    return Beginning(claim)


async def ask(of: Beginning, *asked: list[int]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(of.begin(places)) for places in asked]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_requests_that_come_while_a_call_is_under_way_share_the_next() -> None:
    claim = Claim()
    begun = beginning(claim)
    first = await ask(begun, [4, 2])
    others = await ask(begun, [7], [1, 7], [0])
    assert claim.calls == [[2, 4]]
    assert not any(task.done() for task in (*first, *others))
    assert begun.places == set()
    for _ in range(2):
        claim.answers.release()
    await asyncio.gather(*first, *others)
    assert claim.calls == [[2, 4], [0, 1, 7]]
    assert begun.places == {0, 1, 2, 4, 7}


async def test_only_those_whose_call_failed_learn_of_it() -> None:
    claim = Claim()
    claim.errors = [None, LeaseLost("gone"), None]
    begun = beginning(claim)
    tasks = await ask(begun, [1]) + await ask(begun, [2], [3])
    for _ in range(3):
        claim.answers.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), LeaseLost, LeaseLost]
    await begun.begin([9])
    assert (claim.calls, begun.places) == ([[1], [2, 3], [9]], {1, 9})


async def test_if_the_one_who_calls_is_cancelled_the_others_of_its_call_do_not_go_on() -> None:
    claim = Claim()
    begun = beginning(claim)
    [first] = await ask(begun, [1])
    caller, other = await ask(begun, [2], [3])
    claim.answers.release()
    await first
    for _ in range(5):
        await asyncio.sleep(0)
    assert claim.calls == [[1], [2, 3]]
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    with pytest.raises(Unavailable):
        await other
    assert begun.places == {1}
