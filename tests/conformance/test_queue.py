"""The promises of ports/queue.py, on every adapter."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence

import pytest

from support import eventually, unique
from support.queues import PATIENCE, Queues, depth, items_of, take
from tidings.model.errors import LeaseLost
from tidings.ports.queue import Claim, Item, Queue, Received

BRIEFLY = 0.3
"""Seconds to wait for items that must not come."""
GROUP = "readers"


@pytest.fixture
async def topic(queue: Queue) -> str:
    """A topic that GROUP reads."""
    topic = unique("topic")
    await queue.declare({topic: (GROUP,)})
    return topic


def numbered(topic: str, count: int, start: int = 0) -> list[Item]:
    """Items whose bodies are their numbers, of 10 keys."""
    return [Item(topic, f"key-{number % 10}", b"%d" % number) for number in range(start, start + count)]


def bodies(items: Sequence[Received]) -> list[bytes]:
    return [item.body for item in items]


async def claim_anywhere(queues: Sequence[Queue], topic: str, count: int, lease_s: float | None = None) -> list[Claim]:
    """Claims with `count` items in total. All clients claim at the same time, and any of them may get the items."""
    found: list[Claim] = []

    def complete() -> bool:
        return sum(len(claim.items) for claim in found) >= count

    async def ask(queue: Queue) -> None:
        while not complete():
            claim = await queue.claim(topic, GROUP, count, 0.5, lease_s)
            if claim is not None:
                found.append(claim)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for queue in queues:
            group.create_task(ask(queue))
    return found


async def nothing_left(queue: Queue, topic: str, group: str = GROUP) -> None:
    assert await queue.claim(topic, group, 10, BRIEFLY) is None

    async def empty() -> bool:
        return await depth(queue, topic, group) == 0

    await eventually(empty)


class TestPutAndClaim:
    async def test_an_item_comes_out_as_it_went_in(self, queue: Queue, topic: str) -> None:
        item = Item(topic, "acme\x00ann", b"\x00\xff body", {"tenant": "acme", "trace": "00-af-01", "name": "Zoë"})
        await queue.put([item])
        (claim,) = await take(queue, topic, GROUP, 1)
        (received,) = claim.items
        assert (received.key, received.body, dict(received.headers)) == (item.key, item.body, dict(item.headers))
        assert not received.redelivered

    async def test_nothing_to_claim_is_none_after_max_wait(self, queue: Queue, topic: str) -> None:
        async with asyncio.timeout(PATIENCE):
            assert await queue.claim(topic, GROUP, 10, BRIEFLY) is None
            assert await queue.claim(topic, GROUP, 10, 0) is None

    async def test_a_waiting_claim_gets_what_is_put_meanwhile(self, queue: Queue, topic: str) -> None:
        waiting = asyncio.create_task(queue.claim(topic, GROUP, 10, PATIENCE))
        assert await queue.claim(topic, GROUP, 10, BRIEFLY) is None
        await queue.put([Item(topic, "k", b"late")])
        claim = await waiting
        assert claim is not None
        assert bodies(claim.items) == [b"late"]

    async def test_a_waiting_claim_gets_what_another_client_puts(
        self, queues: Queues, queue: Queue, topic: str
    ) -> None:
        waiting = asyncio.create_task(queue.claim(topic, GROUP, 10, PATIENCE))
        assert await queue.claim(topic, GROUP, 10, BRIEFLY) is None
        await (await queues.open()).put([Item(topic, "k", b"from afar")])
        claim = await waiting
        assert claim is not None
        assert bodies(claim.items) == [b"from afar"]

    async def test_a_cancelled_claim_loses_nothing(self, queue: Queue, topic: str) -> None:
        await queue.put([Item(topic, "k", b"warm")])
        for claim in await take(queue, topic, GROUP, 1):
            await claim.done()
        for round in range(10):
            waiting = asyncio.create_task(queue.claim(topic, GROUP, 10, PATIENCE, 1.0))
            putting = asyncio.create_task(queue.put([Item(topic, "k", b"%d" % round)]))
            await asyncio.wait([waiting, putting], timeout=0.002 * round, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            await asyncio.wait([waiting, putting])
            claims = await take(queue, topic, GROUP, 1) if waiting.cancelled() else [waiting.result()]
            assert claims[0] is not None
            assert bodies(claims[0].items) == [b"%d" % round]
            await claims[0].done()

    async def test_a_claim_holds_at_most_max_items(self, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 25))
        claims = await take(queue, topic, GROUP, 25, max_items=10)
        assert max(len(claim.items) for claim in claims) <= 10
        assert sorted(map(int, bodies(items_of(claims)))) == list(range(25))

    async def test_putting_nothing_is_nothing(self, queue: Queue, topic: str) -> None:
        await queue.put([])
        assert await depth(queue, topic, GROUP) == 0

    async def test_declaring_again_changes_nothing(self, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 3))
        await queue.declare({topic: (GROUP,)})
        assert await depth(queue, topic, GROUP) == 3

    async def test_the_depths_of_several_queues_are_counted_together(self, queue: Queue, topic: str) -> None:
        beside, empty = f"{topic}-beside", f"{topic}-empty"
        await queue.declare({beside: (GROUP, "other"), empty: (GROUP,)})
        await queue.put([*numbered(topic, 12), *numbered(beside, 5)])
        queues = [(beside, "other"), (topic, GROUP), (empty, GROUP), (beside, GROUP)]
        assert await queue.depths(queues) == [5, 12, 0, 5]
        [claim] = await take(queue, beside, GROUP, 1, max_items=1)
        await claim.done()

        async def counted() -> bool:
            return await queue.depths(queues) == [5, 12, 0, 4]

        await eventually(counted, PATIENCE)
        assert await queue.depths([]) == []

    async def test_depth_counts_what_waits_and_what_is_claimed(self, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 30))
        assert await depth(queue, topic, GROUP) == 30
        claims = await take(queue, topic, GROUP, 10, max_items=10)
        assert await depth(queue, topic, GROUP) == 30
        for claim in claims:
            await claim.done()
        left = 30 - len(items_of(claims))

        async def counted() -> bool:
            return await depth(queue, topic, GROUP) == left

        await eventually(counted)


class TestExtent:
    async def test_an_extent_covers_an_earlier_one_once_its_items_are_done(self, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 10))
        before = await queue.extent(topic, GROUP)
        assert not before.covers(before)
        claims = await take(queue, topic, GROUP, 10, lease_s=30.0)
        assert not (await queue.extent(topic, GROUP)).covers(before), "claimed items are not done"
        # Later items do not matter: an extent is covered even if the queue is never empty.
        await queue.put(numbered(topic, 5, start=10))
        for claim in claims:
            await claim.done()

        async def covered() -> bool:
            return (await queue.extent(topic, GROUP)).covers(before)

        await eventually(covered)
        after = await queue.extent(topic, GROUP)
        assert await depth(queue, topic, GROUP) > 0
        assert not after.covers(after)

    async def test_an_empty_queue_covers_itself(self, queue: Queue, topic: str) -> None:
        empty = await queue.extent(topic, GROUP)
        assert empty.covers(empty)

    async def test_an_item_that_comes_back_keeps_its_place(self, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 3))
        before = await queue.extent(topic, GROUP)
        for claim in await take(queue, topic, GROUP, 3):
            await claim.release()
        await queue.put(numbered(topic, 3, start=3))
        assert not (await queue.extent(topic, GROUP)).covers(before)
        for claim in await take(queue, topic, GROUP, 6):
            await claim.done()

        async def covered() -> bool:
            return (await queue.extent(topic, GROUP)).covers(before)

        await eventually(covered)


class TestGroupsAndLanes:
    async def test_each_group_gets_every_item(self, queue: Queue) -> None:
        topic = unique("topic")
        await queue.declare({topic: ("recorder", "matcher")})
        await queue.put(numbered(topic, 40))
        for group in ("recorder", "matcher"):
            claims = await take(queue, topic, group, 40, max_items=15)
            assert sorted(map(int, bodies(items_of(claims)))) == list(range(40))
            for claim in claims:
                await claim.done()
            await nothing_left(queue, topic, group)

    async def test_an_item_that_one_group_gives_back_goes_to_no_other(self, queue: Queue) -> None:
        topic = unique("topic")
        await queue.declare({topic: ("recorder", "matcher")})
        await queue.put(numbered(topic, 5))
        for claim in await take(queue, topic, "matcher", 5):
            await claim.done()
        for claim in await take(queue, topic, "recorder", 5):
            await claim.release()
        assert await queue.claim(topic, "matcher", 10, BRIEFLY) is None
        assert len(items_of(await take(queue, topic, "recorder", 5))) == 5

    async def test_a_group_that_joins_later_gets_the_items_put_from_then_on(self, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 3))
        await queue.declare({topic: (GROUP, "late")})
        await queue.put(numbered(topic, 3, start=3))
        wanted = {b"3", b"4", b"5"}
        got: set[bytes] = set()
        while not wanted <= got:
            got |= set(bodies(items_of(await take(queue, topic, "late", 1))))
        assert sorted(bodies(items_of(await take(queue, topic, GROUP, 6)))) == [b"%d" % number for number in range(6)]

    async def test_lanes_do_not_wait_for_each_other(self, queue: Queue) -> None:
        bulk, critical = unique("bulk"), unique("critical")
        await queue.declare({bulk: (GROUP,), critical: (GROUP,)})
        await queue.put(numbered(bulk, 3000))
        held = await take(queue, bulk, GROUP, 500, max_items=500)
        await queue.put([Item(critical, "ann", b"your code is 123456")])
        (claim,) = await take(queue, critical, GROUP, 1)
        await claim.done()
        for claim in held:
            await claim.release()
        assert await depth(queue, bulk, GROUP) == 3000


class TestOrder:
    async def test_the_items_of_a_key_come_in_the_order_of_putting(self, queue: Queue, topic: str) -> None:
        for start in range(0, 300, 50):
            await queue.put(numbered(topic, 50, start))
        handed: dict[str, list[int]] = defaultdict(list)
        claims = []
        while sum(map(len, handed.values())) < 300:
            claim = await queue.claim(topic, GROUP, 17, PATIENCE)
            assert claim is not None
            claims.append(claim)
            for item in claim.items:
                handed[item.key].append(int(item.body))
        assert all(numbers == sorted(numbers) for numbers in handed.values())
        # Claims can be ended in any order.
        for claim in reversed(claims):
            await claim.done()
        await nothing_left(queue, topic)

    @pytest.mark.parametrize("seed", [1, 2, 3])
    async def test_no_sequence_of_steps_loses_or_doubles_an_item(self, queue: Queue, topic: str, seed: int) -> None:
        chance = random.Random(seed)
        put = 0
        held: list[Claim] = []
        finished: list[int] = []
        for _ in range(60):
            step = chance.choice(["put", "claim", "claim", "done", "release", "partly"])
            if step == "put":
                count = chance.randint(1, 20)
                await queue.put(numbered(topic, count, put))
                put += count
            elif step == "claim":
                lease_s = chance.choice([None, 60.0])
                if claim := await queue.claim(topic, GROUP, chance.randint(1, 12), 0.02, lease_s):
                    held.append(claim)
            elif held:
                claim = held.pop(chance.randrange(len(held)))
                back = set(range(len(claim.items)) if step == "release" else ())
                if step == "partly":
                    back = {index for index in range(len(claim.items)) if chance.random() < 0.5}
                if step == "release":
                    await claim.release()
                else:
                    await claim.done(released=back)
                finished += [int(item.body) for index, item in enumerate(claim.items) if index not in back]
        for claim in held:
            await claim.done()
            finished += [int(item.body) for item in claim.items]
        while len(finished) < put:
            for claim in await take(queue, topic, GROUP, 1):
                assert not any(item.redelivered for item in claim.items)
                await claim.done()
                finished += [int(item.body) for item in claim.items]
        assert sorted(finished) == list(range(put))
        await nothing_left(queue, topic)


class TestEnding:
    async def test_done_items_never_come_back(self, queues: Queues, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 20))
        for claim in await take(queue, topic, GROUP, 20, max_items=7, lease_s=30.0):
            await claim.done()
        await nothing_left(queue, topic)
        await queue.close()
        await nothing_left(await queues.open(), topic)

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
        await nothing_left(queue, topic)

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
        await nothing_left(queue, topic)
        assert bodies(items_of(await take(queue, aside, GROUP, len(poison)))) == poison


class TestCrashes:
    async def test_an_unleased_claim_dies_with_its_process(self, queues: Queues, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 10))
        assert await queues.die_holding(topic, GROUP, 10, lease_s=None) > 0
        again = items_of(await take(queue, topic, GROUP, 10))
        assert sorted(map(int, bodies(again))) == list(range(10))
        assert not any(item.redelivered for item in again)

    async def test_only_items_that_a_killed_client_had_begun_come_back_marked(
        self, queues: Queues, queue: Queue, topic: str
    ) -> None:
        await queue.put([Item(topic, "k", b"%d" % number) for number in range(10)])
        held = await queues.die_holding(topic, GROUP, 4, lease_s=1.0, begin=(0, 2))
        assert held == 4
        claims = await take(queue, topic, GROUP, 10)
        marks = {int(item.body): item.redelivered for item in items_of(claims)}
        assert marks == {number: number in {0, 2} for number in range(10)}
        assert not any(item.repeated for item in items_of(claims))
        for claim in claims:
            await claim.done()
        await nothing_left(queue, topic)

    async def test_items_that_a_killed_client_had_only_claimed_come_back_unmarked(
        self, queues: Queues, queue: Queue, topic: str
    ) -> None:
        await queue.put(numbered(topic, 10))
        await queues.die_holding(topic, GROUP, 10, lease_s=1.0)
        again = items_of(await take(queue, topic, GROUP, 10))
        assert sorted(map(int, bodies(again))) == list(range(10))
        assert not any(item.redelivered or item.repeated for item in again)

    async def test_the_mark_survives_further_crashes(self, queues: Queues, queue: Queue, topic: str) -> None:
        await queue.put([Item(topic, "k", b"%d" % number) for number in range(3)])
        await queues.die_holding(topic, GROUP, 10, lease_s=0.5, begin=(0,))
        await queues.die_holding(topic, GROUP, 10, lease_s=0.5)
        await queues.die_holding(topic, GROUP, 10, lease_s=None)
        again = items_of(await take(queue, topic, GROUP, 3))
        assert {int(item.body): item.redelivered for item in again} == {0: True, 1: False, 2: False}

    async def test_a_claim_that_a_client_left_open_comes_back(self, queues: Queues, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 4))
        assert len(items_of(await take(queue, topic, GROUP, 4))) == 4
        await queue.close()
        again = items_of(await take(await queues.open(), topic, GROUP, 4))
        assert sorted(map(int, bodies(again))) == list(range(4))

    async def test_a_client_killed_at_work_leaves_every_output_once_or_more(self, queues: Queues, queue: Queue) -> None:
        topic, out, count = unique("topic"), unique("out"), 2000
        await queue.declare({topic: (GROUP,), out: (GROUP, "watcher")})
        await queue.put(numbered(topic, count))
        await queues.die_working(topic, GROUP, 20, out)
        outputs: list[int] = []
        while await depth(queue, topic, GROUP) or len(set(outputs)) < count:
            if claim := await queue.claim(topic, GROUP, 500, BRIEFLY):
                await claim.done([Item(out, item.key, item.body) for item in claim.items])
            while copied := await queue.claim(out, GROUP, 1000, BRIEFLY):
                outputs += map(int, bodies(copied.items))
                await copied.done()
        assert set(outputs) == set(range(count))
        if queue.atomic:
            assert len(outputs) == count


class TestBeginning:
    async def test_begun_items_that_are_done_are_gone(self, queue: Queue, topic: str) -> None:
        await queue.put(numbered(topic, 5))
        for claim in await take(queue, topic, GROUP, 5, lease_s=30.0):
            await claim.begin(range(len(claim.items)))
            await claim.done()
        await nothing_left(queue, topic)

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
        await nothing_left(queue, topic)

    async def test_a_released_item_that_was_marked_stays_marked(self, queue: Queue, topic: str) -> None:
        await queue.put([Item(topic, "k", b"x")])
        (first,) = await take(queue, topic, GROUP, 1, lease_s=0.3)
        await first.begin([0])
        (again,) = await take(queue, topic, GROUP, 1, lease_s=30.0)
        assert again.items[0].redelivered
        await again.release()
        (third,) = await take(queue, topic, GROUP, 1)
        assert third.items[0].redelivered


class TestMany:
    async def test_claimers_never_share_an_item(self, queues: Queues, queue: Queue, topic: str) -> None:
        count = 2000
        await queue.put(numbered(topic, count))
        clients = [queue, await queues.open(), await queues.open()]
        held: set[bytes] = set()
        finished: list[bytes] = []

        async def work(client: Queue) -> None:
            while len(finished) < count:
                claim = await client.claim(topic, GROUP, 25, 0.5)
                if claim is None:
                    continue
                mine = set(bodies(claim.items))
                assert len(mine) == len(claim.items)
                assert not mine & held
                held.update(mine)
                try:
                    await claim.done()
                except LeaseLost:
                    continue
                else:
                    finished.extend(mine)
                finally:
                    held.difference_update(mine)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for client in clients:
                for _ in range(2):
                    group.create_task(work(client))
        assert sorted(map(int, finished)) == list(range(count))
        await nothing_left(queue, topic)

    async def test_a_hundred_thousand_items_waiting(self, queue: Queue, topic: str) -> None:
        count = 100_000
        for start in range(0, count, 5000):
            await queue.put(numbered(topic, 5000, start))
        assert await depth(queue, topic, GROUP) == count
        (small, *_) = await take(queue, topic, GROUP, 1, max_items=10)
        finished = [int(item.body) for item in small.items]
        await small.done()
        while len(finished) < count:
            claims = await take(queue, topic, GROUP, 1, max_items=5000, lease_s=60.0)
            finished += [int(item.body) for item in items_of(claims)]
            for claim in claims:
                await claim.done()
        assert sorted(finished) == list(range(count))
        await nothing_left(queue, topic)
