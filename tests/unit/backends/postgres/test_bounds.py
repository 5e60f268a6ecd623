"""Claims start at the first live row: they stay cheap among dead rows, and no item is ever missed."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from support import eventually
from support.queues import depth
from tidings.backends.postgres import waking
from tidings.backends.postgres.bounds import LONGEST_LAG_S, Bound
from tidings.backends.postgres.queue import PostgresQueue, _counting, _on
from tidings.model.errors import LeaseLost
from tidings.ports.queue import Claim, Item

TOPIC, GROUP = "requests.normal", "route"
TABLE = f"{TOPIC}/{GROUP}"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short intervals between looks."""
    monkeypatch.setattr(waking, "LOOK_EVERY_S", 0.05)


@pytest.fixture
async def queue(postgres_dsn: str) -> AsyncIterator[PostgresQueue]:
    queue = await PostgresQueue.open(postgres_dsn)
    await queue.declare({TOPIC: (GROUP,)})
    yield queue
    await queue.close()


@pytest.fixture
async def other(postgres_dsn: str, queue: PostgresQueue) -> AsyncIterator[PostgresQueue]:
    """A queue of another process."""
    other = await PostgresQueue.open(postgres_dsn)
    yield other
    await other.close()


def low(queue: PostgresQueue) -> int:
    return queue._waker.table(TABLE).bound.low


async def pass_through(queue: PostgresQueue, count: int, lease_s: float | None = None) -> None:
    """Put, claim and end so many items."""
    await queue.put([Item(TOPIC, "k", b"%d" % number) for number in range(count)])
    left = count
    while left:
        claim = await queue.claim(TOPIC, GROUP, 1000, 20.0, lease_s)
        assert claim is not None
        left -= len(claim.items)
        await claim.done()


async def bodies(queue: PostgresQueue, seconds: float = 20.0) -> list[bytes]:
    claim = await queue.claim(TOPIC, GROUP, 1000, seconds)
    assert claim is not None
    await claim.done()
    return [item.body for item in claim.items]


async def looked_again(queue: PostgresQueue) -> None:
    """Wait until the queue has looked at the whole table once more."""
    before = queue._waker._whole_at
    await eventually(lambda: queue._waker._whole_at > before)


async def pages(connection: asyncpg.Connection, statement: str, *arguments: object) -> int:
    """The number of pages that a statement reads."""
    for number, argument in reversed(list(enumerate(arguments, 1))):
        value = f"ARRAY{argument}" if isinstance(argument, list) else str(argument)
        statement = re.sub(rf"\${number}\b", value, statement)
    transaction = connection.transaction()
    await transaction.start()
    plan = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, COSTS off) {statement}")
    await transaction.rollback()
    text = "\n".join(line for (line,) in plan)
    hits = re.search(r"Buffers: shared hit=(\d+)(?: read=(\d+))?", text)
    assert hits is not None, text
    return int(hits[1]) + int(hits[2] or 0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("writes", [False, True], ids=["a report", "a long change"])
async def test_a_held_snapshot_does_not_make_claims_read_dead_rows(
    postgres_dsn: str, queue: PostgresQueue, monkeypatch: pytest.MonkeyPatch, writes: bool
) -> None:
    monkeypatch.setattr("tidings.backends.postgres.bounds.LONGEST_LAG_S", 0.5)
    holder = await asyncpg.connect(postgres_dsn)
    asker = await asyncpg.connect(postgres_dsn, server_settings={"enable_seqscan": "off"})
    try:
        await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await holder.execute("CREATE TEMPORARY TABLE mine (x int)" if writes else "SELECT count(*) FROM tenant")
        await pass_through(queue, 20_000)
        await eventually(lambda: low(queue) > 20_000)
        await queue.put([Item(TOPIC, "k", b"alive") for _ in range(10)])
        await asker.execute("ANALYZE")
        bound = low(queue)
        for statement, arguments, unbounded in (
            (_on(TABLE, "claim"), (5, bound), (5, 0)),
            (_counting((TABLE,)), ([TABLE], [bound]), ([TABLE], [0])),
        ):
            assert await pages(asker, statement, *unbounded) > 150, "no dead row was in the way"
            assert await pages(asker, statement, *arguments) < 40
        assert await bodies(queue) == [b"alive"] * 10
        assert await depth(queue, TOPIC, GROUP) == 0
    finally:
        await asker.close()
        await holder.close()


@pytest.mark.usefixtures("quick")
async def test_an_item_committed_late_keeps_its_place(
    postgres_dsn: str, queue: PostgresQueue, other: PostgresQueue
) -> None:
    slow = await asyncpg.connect(postgres_dsn)
    await slow.execute("BEGIN")
    await slow.execute(f"INSERT INTO queue.\"{TABLE}\" (key, body) VALUES ('k', 'late')")
    number = await slow.fetchval(f'SELECT max(id) FROM queue."{TABLE}"')
    for _ in range(5):
        await pass_through(queue, 10)
        await looked_again(queue)
    await queue.put([Item(TOPIC, "k", b"early")])
    assert max(low(queue), low(other)) <= number, "the bound waits for the open transaction"
    await slow.execute("COMMIT")
    assert await bodies(queue) == [b"late", b"early"]
    await slow.close()


@pytest.mark.usefixtures("quick")
async def test_an_item_committed_after_the_bound_moved_is_found(
    postgres_dsn: str, queue: PostgresQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.backends.postgres.bounds.LONGEST_LAG_S", 0.2)
    slow = await asyncpg.connect(postgres_dsn)
    await slow.execute("BEGIN")
    await slow.execute(f"INSERT INTO queue.\"{TABLE}\" (key, body) VALUES ('k', 'very late')")
    number = await slow.fetchval(f'SELECT max(id) FROM queue."{TABLE}"')
    await pass_through(queue, 100)
    await eventually(lambda: low(queue) > number)
    waiting = asyncio.create_task(bodies(queue))
    await slow.execute("COMMIT")
    assert await waiting == [b"very late"]
    await slow.close()


@pytest.mark.usefixtures("quick")
async def test_items_that_another_process_gives_back_are_found(queue: PostgresQueue, other: PostgresQueue) -> None:
    await queue.put([Item(TOPIC, "k", b"first")])
    held = await queue.claim(TOPIC, GROUP, 10, 5.0, lease_s=60.0)
    assert held is not None
    await pass_through(other, 50, lease_s=30.0)
    await eventually(lambda: low(other) > 40)
    waiting = asyncio.create_task(bodies(other))
    await eventually(lambda: other._waker.table(TABLE).idle == 1)
    await held.release()
    assert await waiting == [b"first"]


@pytest.mark.usefixtures("quick")
async def test_items_of_an_ended_lease_are_found(queue: PostgresQueue, other: PostgresQueue) -> None:
    await queue.put([Item(TOPIC, "k", b"first")])
    assert await queue.claim(TOPIC, GROUP, 10, 5.0, lease_s=1.0) is not None
    await pass_through(other, 50)
    await eventually(lambda: low(other) > 40)
    assert await bodies(other) == [b"first"]


async def test_a_lost_notification_is_made_up_for(
    postgres_dsn: str, queue: PostgresQueue, other: PostgresQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process gives items back and dies before it notifies the others."""
    await pass_through(other, 50)
    await eventually(lambda: low(other) > 40, timeout=20)
    person = await asyncpg.connect(postgres_dsn)
    await person.execute(f"INSERT INTO queue.\"{TABLE}\" (id, key, body) VALUES (3, 'k', 'untold')")
    assert await bodies(other, 10.0) == [b"untold"]
    await person.close()


@pytest.mark.usefixtures("quick")
async def test_no_item_is_stranded_by_any_sequence_of_steps(postgres_dsn: str) -> None:
    """Three processes claim, give back, let leases end and put, in random order."""
    chance = random.Random(11)
    queues = [await PostgresQueue.open(postgres_dsn) for _ in range(3)]
    await queues[0].declare({TOPIC: (GROUP,)})
    put: set[bytes] = set()
    seen: set[bytes] = set()

    async def work(queue: PostgresQueue) -> None:
        for turn in range(60):
            if turn < 40:
                fresh = [b"%d" % chance.getrandbits(60) for _ in range(chance.randrange(12))]
                put.update(fresh)
                await queue.put([Item(TOPIC, "k", body) for body in fresh])
            claim: Claim | None = await queue.claim(
                TOPIC, GROUP, chance.randrange(1, 30), 0.2, chance.choice([None, 0.3, 3.0])
            )
            if claim is None:
                continue
            what = chance.random()
            if what < 0.2:
                await claim.release()
            elif what < 0.3 and not claim.items[0].redelivered:
                continue  # never ended: an unleased claim is held until the test ends
            else:
                back = [place for place in range(len(claim.items)) if chance.random() < 0.3]
                try:
                    await claim.done([], released=back)
                except LeaseLost:
                    continue
                seen.update(item.body for place, item in enumerate(claim.items) if place not in back)

    await asyncio.gather(*(work(queue) for queue in queues))
    for queue in queues[:2]:
        await queue.close()

    async def all_seen() -> bool:
        claim = await queues[2].claim(TOPIC, GROUP, 1000, 0.5)
        if claim is not None:
            seen.update(item.body for item in claim.items)
            await claim.done()
        return seen >= put

    try:
        # This ends the open claims of the last process.
        for claim in list(queues[2]._held):
            await claim.release()
        await eventually(all_seen, timeout=30)
        assert seen == put
    finally:
        await queues[2].close()


def test_a_bound_waits_for_what_was_open() -> None:
    bound = Bound()
    bound.begin()
    bound.looked(first=100, oldest_open=7, next_transaction=9, at=0.0)
    assert bound.low == 0
    bound.looked(first=200, oldest_open=8, next_transaction=20, at=1.0)  # transaction 8 was open at the first look
    assert bound.low == 0
    bound.looked(first=300, oldest_open=9, next_transaction=30, at=2.0)
    assert bound.low == 100
    bound.looked(first=400, oldest_open=9, next_transaction=40, at=2.0 + LONGEST_LAG_S)
    assert bound.low == 300


def test_a_bound_never_passes_an_item_given_back_during_a_look() -> None:
    bound = Bound()
    bound.looked(first=100, oldest_open=5, next_transaction=5, at=0.0)
    bound.begin()
    bound.lower(40)  # given back after the look's snapshot
    bound.looked(first=150, oldest_open=6, next_transaction=6, at=1.0)
    assert bound.low == 40
    bound.begin()
    bound.looked(first=40, oldest_open=7, next_transaction=7, at=2.0)
    assert bound.low == 40
    bound.begin()
    bound.looked(first=160, oldest_open=8, next_transaction=8, at=3.0)
    bound.begin()
    bound.looked(first=170, oldest_open=9, next_transaction=9, at=4.0)
    assert bound.low == 160
    bound.forget()
    assert bound.low == 0
