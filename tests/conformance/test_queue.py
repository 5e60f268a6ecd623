"""The promises of ports/queue.py about putting, claiming, groups and crashes, on every adapter."""

from __future__ import annotations

import asyncio

from support import eventually, unique
from support.queues import (
    BRIEFLY,
    GROUP,
    PATIENCE,
    Queues,
    bodies,
    depth,
    expect_nothing_left,
    items_of,
    numbered,
    take,
)
from tidings.ports.queue import Item, Queue


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
            await expect_nothing_left(queue, topic, group)

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
        arrived: set[bytes] = set()
        while not wanted <= arrived:
            arrived |= set(bodies(items_of(await take(queue, topic, "late", 1))))
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
        await expect_nothing_left(queue, topic)

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
