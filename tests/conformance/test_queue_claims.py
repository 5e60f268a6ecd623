"""How a claim on a queue ends: done, released, or by the end of its lease. On every adapter of ports/queue.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from support import unique
from support.queues import (
    BRIEFLY,
    GROUP,
    PATIENCE,
    Queues,
    bodies,
    expect_nothing_left,
    items_of,
    numbered,
    take,
)
from tidings.model.errors import LeaseLost
from tidings.ports.queue import Claim, Item, Queue


async def claim_anywhere(queues: Sequence[Queue], topic: str, count: int, lease_s: float | None = None) -> list[Claim]:
    """Claims with `count` items in total. All clients claim at the same time, and any of them may get the items."""
    claims: list[Claim] = []

    def complete() -> bool:
        return sum(len(claim.items) for claim in claims) >= count

    async def ask(queue: Queue) -> None:
        while not complete():
            claim = await queue.claim(topic, GROUP, count, 0.5, lease_s)
            if claim is not None:
                claims.append(claim)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for queue in queues:
            group.create_task(ask(queue))
    return claims


class TestEnding:
    async def test_done_items_never_come_back(self, queues: Queues, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 20))
        for claim in await take(queue, topic, GROUP, 20, max_items=7, lease_s=30.0):
            await claim.done()
        await expect_nothing_left(queue, topic)
        await queue.close()
        await expect_nothing_left(await queues.open(), topic)

    async def test_done_makes_the_outputs_available(self, queue: Queue, topic: str) -> None:
        first, second = unique("out"), unique("out")
        await queue.declare({first: (GROUP,), second: (GROUP, "others")})
        await queue.put(numbered(topic, 4))
        (claim, *more) = await take(queue, topic, GROUP, 4)
        outputs = [Item(first, "k", b"one", {"trace": "t"}), Item(second, "k", b"two"), Item(second, "k", b"three")]
        await claim.done(outputs)
        for rest in more:
            await rest.done()
        assert bodies(items_of(await take(queue, first, GROUP, 1))) == [b"one"]
        assert bodies(items_of(await take(queue, second, GROUP, 2))) == [b"two", b"three"]
        assert bodies(items_of(await take(queue, second, "others", 2))) == [b"two", b"three"]
        await expect_nothing_left(queue, topic)

    async def test_released_items_come_back_unmarked(self, queue: Queue, topic: str) -> None:
        await queue.put([Item(topic, "k", b"%d" % number, {"n": str(number)}) for number in range(10)])
        for lease_s in (None, 30.0):
            claims = await take(queue, topic, GROUP, 10, lease_s=lease_s)
            assert len(items_of(claims)) == 10
            for claim in claims:
                await claim.release()
        again = items_of(await take(queue, topic, GROUP, 10))
        assert sorted(map(int, bodies(again))) == list(range(10))
        assert not any(item.redelivered for item in again)
        assert all(item.headers["n"] == item.body.decode() and item.key == "k" for item in again)

    async def test_part_of_a_claim_is_released_while_the_rest_is_done(self, queue: Queue, topic: str) -> None:
        await queue.put([Item(topic, "k", b"%d" % number) for number in range(6)])
        for claim in await take(queue, topic, GROUP, 6, lease_s=30.0):
            await claim.done(released={index for index, item in enumerate(claim.items) if item.body in {b"1", b"4"}})
        again = items_of(await take(queue, topic, GROUP, 2))
        assert sorted(bodies(again)) == [b"1", b"4"]
        assert not any(item.redelivered for item in again)

    async def test_poison_goes_aside_and_the_rest_go_on(self, queue: Queue, topic: str) -> None:
        aside = unique("aside")
        await queue.declare({aside: (GROUP,)})
        poison = [b"", b"\x00", b"\xff\xfe", b"{", bytes(range(256)), b"\x01" + b"\xc1" * 50, b"x" * 300_000]
        good = [b"good-%d" % number for number in range(20)]
        mixed = [body for pair in zip(good, poison, strict=False) for body in pair] + good[len(poison) :]
        await queue.put([Item(topic, "k", body) for body in mixed])
        for claim in await take(queue, topic, GROUP, len(mixed), max_items=5):
            bad = [
                Item(aside, item.key, item.body, {"why": "unreadable"}) for item in claim.items if item.body in poison
            ]
            await claim.done(bad)
        await expect_nothing_left(queue, topic)
        assert bodies(items_of(await take(queue, aside, GROUP, len(poison)))) == poison


class TestBeginning:
    async def test_begun_items_that_are_done_are_gone(self, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 5))
        for claim in await take(queue, topic, GROUP, 5, lease_s=30.0):
            await claim.begin(range(len(claim.items)))
            await claim.done()
        await expect_nothing_left(queue, topic)

    @pytest.mark.parametrize("how", ["release", "done"])
    async def test_released_items_are_marked_only_if_they_were_begun(self, queue: Queue, topic: str, how: str) -> None:
        await queue.put([Item(topic, "k", b"%d" % number) for number in range(6)])
        claims = await take(queue, topic, GROUP, 6, lease_s=30.0)
        begun: set[bytes] = set()
        for claim in claims:
            places = [place for place, item in enumerate(claim.items) if int(item.body) in {1, 2, 4}]
            for place in places:  # one after the other, as a worker calls a provider
                await claim.begin([place])
            begun |= {claim.items[place].body for place in places}
            if how == "release":
                await claim.release()
            else:
                await claim.done(released=[place for place, item in enumerate(claim.items) if item.body != b"2"])
        wanted = {0, 1, 2, 3, 4, 5} if how == "release" else {0, 1, 3, 4, 5}
        again = items_of(await take(queue, topic, GROUP, len(wanted)))
        assert {int(item.body) for item in again} == wanted
        assert {item.body for item in again if item.redelivered} == begun - (set() if how == "release" else {b"2"})

    async def test_an_ended_lease_marks_the_begun_items(self, queue: Queue, topic: str) -> None:
        await queue.put([Item(topic, "k", b"%d" % number) for number in range(3)])
        for slow in await take(queue, topic, GROUP, 3, lease_s=0.5):
            await slow.begin([place for place, item in enumerate(slow.items) if item.body == b"1"])
        again = items_of(await take(queue, topic, GROUP, 3, lease_s=30.0))
        assert {int(item.body): item.redelivered for item in again} == {0: False, 1: True, 2: False}

    async def test_items_of_an_ended_claim_cannot_be_begun(self, queue: Queue, topic: str) -> None:
        await queue.put([Item(topic, "k", b"slow")])
        (slow,) = await take(queue, topic, GROUP, 1, lease_s=0.3)
        (again,) = await take(queue, topic, GROUP, 1, lease_s=30.0)
        with pytest.raises(LeaseLost):
            await slow.begin([0])
        await again.release()
        with pytest.raises(LeaseLost):
            await again.begin([0])
        (third,) = await take(queue, topic, GROUP, 1, lease_s=30.0)
        assert not third.items[0].redelivered
        await third.done()
        with pytest.raises(LeaseLost):
            await third.begin([0])

    async def test_many_at_once_are_all_begun(self, queues: Queues, queue: Queue, topic: str) -> None:
        await queue.put([Item(topic, "k", b"%d" % number) for number in range(40)])
        claims = await take(queue, topic, GROUP, 40, lease_s=30.0)
        await asyncio.gather(
            *(
                claim.begin([place])
                for claim in claims
                for place, item in enumerate(claim.items)
                if int(item.body) % 2 == 0
            )
        )
        for claim in reversed(claims):
            await claim.release()
        again = items_of(await take(queue, topic, GROUP, 40))
        assert {int(item.body) for item in again if item.redelivered} == set(range(0, 40, 2))

    async def test_without_a_lease_nothing_can_be_begun(self, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 1))
        (claim,) = await take(queue, topic, GROUP, 1)
        with pytest.raises(ValueError, match="lease"):
            await claim.begin([0])
        await claim.done()

    async def test_a_second_release_raises_lease_lost(self, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 1))
        (claim,) = await take(queue, topic, GROUP, 1, lease_s=30.0)
        await claim.release()
        with pytest.raises(LeaseLost):
            await claim.release()
        assert len(items_of(await take(queue, topic, GROUP, 1))) == 1


class TestLeases:
    async def test_an_ended_lease_is_fenced(self, queues: Queues, queue: Queue, topic: str) -> None:
        out = unique("out")
        await queue.declare({out: (GROUP,)})
        await queue.put([Item(topic, "k", b"slow")])
        (slow,) = await take(queue, topic, GROUP, 1, lease_s=0.5)
        assert not slow.items[0].redelivered
        await slow.begin([0])
        (again,) = await claim_anywhere([queue, await queues.open()], topic, 1, lease_s=30.0)
        assert bodies(again.items) == [b"slow"]
        assert again.items[0].redelivered
        with pytest.raises(LeaseLost):
            await slow.done([Item(out, "k", b"too late")])
        with pytest.raises(LeaseLost):
            await slow.done(released={0})
        await again.done([Item(out, "k", b"in time")])
        assert bodies(items_of(await take(queue, out, GROUP, 1))) == [b"in time"]
        assert await queue.claim(out, GROUP, 10, BRIEFLY) is None

    async def test_releasing_after_the_lease_ran_out_changes_nothing(self, queue: Queue, topic: str) -> None:
        await queue.put([Item(topic, "k", b"slow")])
        (slow,) = await take(queue, topic, GROUP, 1, lease_s=0.3)
        (again,) = await take(queue, topic, GROUP, 1, lease_s=30.0)
        with pytest.raises(LeaseLost):
            await slow.release()
        assert await queue.claim(topic, GROUP, 10, BRIEFLY) is None
        await again.done()

    async def test_a_lease_holds_until_it_runs_out(self, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 3))
        claims = await take(queue, topic, GROUP, 3, lease_s=30.0)
        assert await queue.claim(topic, GROUP, 10, BRIEFLY) is None
        for claim in claims:
            await claim.done()
        await expect_nothing_left(queue, topic)

    async def test_a_released_item_that_was_marked_stays_marked(self, queue: Queue, topic: str) -> None:
        await queue.put([Item(topic, "k", b"x")])
        (first,) = await take(queue, topic, GROUP, 1, lease_s=0.3)
        await first.begin([0])
        (again,) = await take(queue, topic, GROUP, 1, lease_s=30.0)
        assert again.items[0].redelivered
        await again.release()
        (third,) = await take(queue, topic, GROUP, 1)
        assert third.items[0].redelivered
