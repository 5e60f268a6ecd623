"""Queue and store on a PostgreSQL that goes away and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from support import eventually, unique
from support.queues import depth
from tidings.backends.postgres.claims import LeasedClaim, OpenClaim
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.queue import PostgresQueue
from tidings.backends.postgres.server import Server
from tidings.backends.postgres.store import PostgresStore
from tidings.backends.postgres.waking import QueueTable
from tidings.model.errors import LeaseLost, Unavailable
from tidings.model.recurrence import Progress, Recurrence
from tidings.model.user import Profile
from tidings.ports.queue import Claim, Item
from tidings.ports.recurrences import Moved

TOPIC, GROUP = "requests.normal", "route"


@pytest.fixture
async def own_server(open_data_dir: Path) -> AsyncIterator[Server]:
    """A server that the test may harm."""
    async with Server(open_data_dir) as server:
        await migrate(server.dsn)
        yield server


@pytest.fixture
async def own_queue(own_server: Server) -> AsyncIterator[PostgresQueue]:
    queue = await PostgresQueue.open(own_server.dsn)
    await queue.declare({TOPIC: (GROUP,)})
    yield queue
    await queue.close()


async def kill(server: Server) -> None:
    """Crash the server, and wait until its supervisor has restarted it."""
    first = server.pid
    os.kill(first, signal.SIGKILL)

    async def back() -> bool:
        if server.pid == first:
            return False
        try:
            await (await asyncpg.connect(server.dsn)).close()
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    await eventually(back, timeout=30)


async def claim_again(queue: PostgresQueue, lease_s: float | None = None) -> Claim | None:
    """A claim, made as soon as the queue answers."""

    async def answered() -> tuple[Claim | None]:
        try:
            return (await queue.claim(TOPIC, GROUP, 10, 5.0, lease_s),)
        except Unavailable as error:
            raise AssertionError(str(error)) from error

    found: tuple[Claim | None] = await eventually(answered, timeout=30)
    return found[0]


async def test_the_queue_works_again_after_a_crash(own_server: Server, own_queue: PostgresQueue) -> None:
    await own_queue.put([Item(TOPIC, "k", b"1")])
    held = await own_queue.claim(TOPIC, GROUP, 10, 5.0)
    assert held is not None
    await kill(own_server)
    with pytest.raises(Unavailable):
        await held.done([Item(TOPIC, "k", b"never")])
    await held.release()
    again = await claim_again(own_queue)
    assert again is not None
    assert [item.body for item in again.items] == [b"1"]
    assert not again.items[0].redelivered
    await again.done()
    # The listener is back too: it hears of another client's put without a look.
    other = await PostgresQueue.open(own_server.dsn)
    waiting = asyncio.create_task(own_queue.claim(TOPIC, GROUP, 10, 10.0))
    await other.put([Item(TOPIC, "k", b"2")])
    claim = await waiting
    assert claim is not None
    await claim.done()
    await other.close()


async def test_a_leased_claim_survives_a_crash(own_server: Server, own_queue: PostgresQueue) -> None:
    await own_queue.put([Item(TOPIC, "k", b"1")])
    held = await own_queue.claim(TOPIC, GROUP, 10, 5.0, lease_s=60.0)
    assert held is not None
    await kill(own_server)

    async def done() -> bool:
        try:
            await held.done()
        except Unavailable:
            return False
        return True

    await eventually(done)
    assert await depth(own_queue, TOPIC, GROUP) == 0


async def test_a_waiting_claim_raises_when_the_server_goes(own_server: Server, own_queue: PostgresQueue) -> None:
    waiting = asyncio.create_task(own_queue.claim(TOPIC, GROUP, 10, 60.0))
    await eventually(lambda: own_queue._waker.table(f"{TOPIC}/{GROUP}").idle == 1)
    await asyncio.to_thread(own_server.stop)
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await own_queue.put([Item(TOPIC, "k", b"1")])
        with pytest.raises(Unavailable):
            await own_queue.claim(TOPIC, GROUP, 10, 60.0)


async def test_the_store_works_again_after_a_crash(own_server: Server) -> None:
    store = await PostgresStore.open(own_server.dsn)
    await store.users.upsert("t", [("ann", Profile(name="Ann"), None)], 1)
    await kill(own_server)

    async def read() -> bool:
        try:
            user = await store.users.get("t", "ann")
        except Unavailable:
            return False
        return user is not None and user.profile.name == "Ann"

    await eventually(read)
    await asyncio.to_thread(own_server.stop)
    with pytest.raises(Unavailable, match="PostgreSQL does not answer"):
        await store.ping()
    await store.close()


async def test_an_idle_claimer_asks_nothing_and_misses_nothing(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await PostgresQueue.open(postgres_dsn)
    await queue.declare({TOPIC: (GROUP,)})
    take, looks = queue._take, []

    async def counted(table: QueueTable, max_items: int, max_wait_s: float) -> OpenClaim | None:
        looks.append(table)
        return await take(table, max_items, max_wait_s)

    monkeypatch.setattr(queue, "_take", counted)
    for _ in range(3):
        assert await queue.claim(TOPIC, GROUP, 10, 0.1) is None
    assert len(looks) == 1
    await queue.put([Item(TOPIC, "k", b"told")])
    told = await queue.claim(TOPIC, GROUP, 10, 5.0)
    assert told is not None
    await told.done()
    assert await queue.claim(TOPIC, GROUP, 10, 0.1) is None
    assert len(looks) == 2
    # The look once a second finds items put without a notification and items of a dead claimer.
    other = await asyncpg.connect(postgres_dsn)
    await other.execute(f"INSERT INTO queue.\"{TOPIC}/{GROUP}\" (key, body) VALUES ('k', 'untold')")
    await other.close()
    untold = await queue.claim(TOPIC, GROUP, 10, 10.0)
    assert untold is not None
    assert [item.body for item in untold.items] == [b"untold"]
    await untold.done()
    await queue.close()


async def test_claimers_look_for_themselves_while_the_listener_is_away(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await PostgresQueue.open(postgres_dsn)
    await queue.declare({TOPIC: (GROUP,)})

    async def refuse(*_: object) -> None:
        raise Unavailable("no connection is left")

    monkeypatch.setattr(queue._waker, "_connect", refuse)
    queue._waker._drop()
    waiting = asyncio.create_task(queue.claim(TOPIC, GROUP, 10, 20.0))
    await eventually(lambda: queue._waker.table(f"{TOPIC}/{GROUP}").idle == 1)
    other = await asyncpg.connect(postgres_dsn)
    await other.execute(f"INSERT INTO queue.\"{TOPIC}/{GROUP}\" (key, body) VALUES ('k', 'untold')")
    await other.close()
    claim = await waiting
    assert claim is not None
    await claim.done()
    await queue.close()


async def test_a_release_that_failed_is_made_again_and_begins_nothing(postgres_dsn: str) -> None:
    queue = await PostgresQueue.open(postgres_dsn)
    await queue.declare({TOPIC: (GROUP,)})
    await queue.put([Item(TOPIC, "k", b"%d" % number) for number in range(3)])
    held = await queue.claim(TOPIC, GROUP, 10, 5.0, lease_s=60.0)
    assert isinstance(held, LeasedClaim)
    await held.begin([1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "_writers", _Away())
        with pytest.raises(Unavailable):
            await held.begin([2])
        for call in (held.done, held.release, held.release):
            with pytest.raises(Unavailable):
                await call()
    await held.release()
    again = await queue.claim(TOPIC, GROUP, 10, 5.0, lease_s=60.0)
    assert again is not None
    assert [(item.body, item.redelivered) for item in again.items] == [(b"0", False), (b"1", True), (b"2", False)]
    with pytest.raises(LeaseLost):
        await held.release()
    await again.done()
    await queue.close()


class _Away:
    async def fetchval(self, *_: object) -> None:
        raise ConnectionResetError("made up")


async def test_a_claim_of_the_version_before_comes_back_begun(postgres_dsn: str) -> None:
    """The previous version began all items of a claim and left `begun` NULL."""
    queue = await PostgresQueue.open(postgres_dsn)
    await queue.declare({TOPIC: (GROUP,)})
    await queue.put([Item(TOPIC, "k", b"1")])
    assert await queue.claim(TOPIC, GROUP, 10, 5.0, lease_s=0.5) is not None
    other = await asyncpg.connect(postgres_dsn)
    await other.execute("UPDATE queue.claim SET begun = NULL")
    await other.close()
    again = await queue.claim(TOPIC, GROUP, 10, 10.0)
    assert again is not None
    assert again.items[0].redelivered
    await again.done()
    await queue.close()


async def test_ended_claims_stay_ended(postgres_dsn: str) -> None:
    queue = await PostgresQueue.open(postgres_dsn)
    await queue.declare({TOPIC: (GROUP,)})
    for lease_s in (None, 30.0):
        await queue.put([Item(TOPIC, "k", b"1")])
        claim = await queue.claim(TOPIC, GROUP, 10, 5.0, lease_s)
        assert claim is not None
        await claim.done()
        with pytest.raises(LeaseLost):
            await claim.done([Item(TOPIC, "k", b"twice")])
    assert await depth(queue, TOPIC, GROUP) == 0
    await queue.close()


async def test_a_process_holds_no_more_claims_than_it_has_connections_for(postgres_dsn: str) -> None:
    queue = await PostgresQueue.open(postgres_dsn, claims=2)
    await queue.declare({TOPIC: (GROUP,)})
    await queue.put([Item(TOPIC, "k", b"%d" % number) for number in range(4)])
    held = [await queue.claim(TOPIC, GROUP, 1, 5.0) for _ in range(2)]
    assert await queue.claim(TOPIC, GROUP, 1, 0.05) is None
    await queue.put([Item(TOPIC, "k", b"puts do not wait for claims")])
    waiting = asyncio.create_task(queue.claim(TOPIC, GROUP, 1, 10.0))
    assert held[0] is not None
    await held[0].done([Item(TOPIC, "k", b"output")])
    claim = await waiting
    assert claim is not None
    await claim.done()
    await queue.close()
    other = await PostgresQueue.open(postgres_dsn)
    assert await depth(other, TOPIC, GROUP) == 4
    await other.close()


async def test_undeclared_topics_are_refused(postgres_dsn: str) -> None:
    queue = await PostgresQueue.open(postgres_dsn)
    with pytest.raises(ValueError, match="the topic 'nothing' was not declared"):
        await queue.put([Item("nothing", "k", b"")])
    with pytest.raises(ValueError, match="the group 'g' was not declared as a reader of the topic 'nothing'"):
        await queue.claim("nothing", "g", 1, 0)
    await queue.close()


async def test_names_of_any_length_and_kind(postgres_dsn: str) -> None:
    queue = await PostgresQueue.open(postgres_dsn)
    topics = [unique("x" * 80) for _ in range(2)] + ['quo"ted.$tört', "ä" * 40]
    await queue.declare(dict.fromkeys(topics, (GROUP, GROUP * 20)))
    await queue.declare(dict.fromkeys(topics, (GROUP, GROUP * 20)))
    await queue.put([Item(topic, "k", topic.encode()) for topic in topics])
    for topic in topics:
        for group in (GROUP, GROUP * 20):
            claim = await queue.claim(topic, group, 10, 5.0)
            assert claim is not None
            assert [item.body for item in claim.items] == [topic.encode()]
            await claim.done()
    await queue.close()


async def test_many_processes_may_declare_at_once(postgres_dsn: str) -> None:
    queues = [await PostgresQueue.open(postgres_dsn) for _ in range(4)]
    await asyncio.gather(*(queue.declare({f"t{number}": (GROUP,) for number in range(5)}) for queue in queues))
    for queue in queues:
        assert await depth(queue, "t4", GROUP) == 0
        await queue.close()


async def test_an_unreadable_recurrence_is_parked(postgres_dsn: str) -> None:
    store = await PostgresStore.open(postgres_dsn)
    progress = Progress("local", 1_000)
    made = [
        Recurrence(UUID(int=number), "t", "name", "FREQ=DAILY", "2026-01-01T09:00:00", "UTC", b"{}", progress=progress)
        for number in range(1, 4)
    ]
    for one in made:
        await store.recurrences.add(one)
    other = await asyncpg.connect(postgres_dsn)
    await other.execute("UPDATE recurrence SET body = 'nonsense' WHERE id = $1", made[1].id)
    found = await store.recurrences.due(2_000, 10, 30.0)
    assert [row.recurrence.id for row in found] == [made[0].id, made[2].id]
    await store.recurrences.settle([Moved(row.recurrence.id, row.recurrence.progress, Progress()) for row in found])
    assert await store.recurrences.next_due() is None
    problem = await other.fetchval("SELECT problem FROM recurrence WHERE id = $1", made[1].id)
    assert problem.startswith("unreadable: ")
    await other.close()
    await store.close()
