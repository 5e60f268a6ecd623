"""The order of a key's items, and many items among many claimers. On every adapter of ports/queue.py."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import pytest

from support.queues import (
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
from tidings.model.errors import LeaseLost
from tidings.ports.queue import Claim, Queue


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
        await expect_nothing_left(queue, topic)

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
        await expect_nothing_left(queue, topic)


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
        await expect_nothing_left(queue, topic)

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
        await expect_nothing_left(queue, topic)
