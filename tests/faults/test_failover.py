"""Two real PostgreSQL servers: the primary fails, its standby takes over, and all connections find it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from support import eventually
from support.standby import both, standby_of
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.queue import PostgresQueue
from tidings.backends.postgres.server import Server
from tidings.backends.postgres.store import PostgresStore
from tidings.model.errors import Unavailable
from tidings.model.user import Profile
from tidings.ports.queue import Item

TOPIC, GROUP = "requests.normal", "route"
_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


@pytest.fixture
async def primary(open_data_dir: Path) -> AsyncIterator[Server]:
    async with Server(open_data_dir, settings=_SETTINGS) as server:
        await migrate(server.dsn)
        yield server


@pytest.fixture
def standby(primary: Server) -> Iterator[int]:
    with standby_of(primary) as port:
        yield port


async def admin(server: Server, port: int | None = None) -> asyncpg.Connection:
    """An administrator's connection to one of the servers."""
    dsn = server.tcp_dsn if port is None else server.tcp_dsn.replace(f":{server.port}/", f":{port}/")
    return await asyncpg.connect(dsn, timeout=5)


async def caught_up(primary: Server, port: int) -> None:
    """Wait until the standby has all data of the primary."""
    of_primary = await admin(primary)
    here = await of_primary.fetchval("SELECT pg_current_wal_flush_lsn()::text")
    await of_primary.close()

    async def has_it() -> bool:
        try:
            of_standby = await admin(primary, port)
        except (OSError, asyncpg.PostgresError):
            return False
        try:
            return bool(await of_standby.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", here))
        finally:
            await of_standby.close()

    await eventually(has_it, timeout=30)


async def promote(primary: Server, port: int) -> None:
    connection = await admin(primary, port)
    assert await connection.fetchval("SELECT pg_promote()")
    await connection.close()


async def port_of(store: PostgresStore) -> int:
    port: int = await store._pool.fetchval("SELECT inet_server_port()")
    return port


async def written(store: PostgresStore, name: str) -> bool:
    try:
        await store.users.upsert("t", [(name, Profile(name=name), None)], 1)
    except Unavailable:
        return False
    return True


async def moved(queue: PostgresQueue, body: bytes) -> bool:
    """Put an item, claim it and end the claim."""
    try:
        await queue.put([Item(TOPIC, "k", body)])
        claim = await queue.claim(TOPIC, GROUP, 10, 5.0)
        if claim is None:
            return False
        await claim.done()
    except Unavailable:
        return False
    return True


async def test_the_standby_takes_over_from_a_primary_that_dies(primary: Server, standby: int) -> None:
    dsn = both(primary, standby)
    await caught_up(primary, standby)
    store, queue = await PostgresStore.open(dsn), await PostgresQueue.open(dsn)
    await queue.declare({TOPIC: (GROUP,)})
    try:
        assert await port_of(store) == primary.port, "the standby is first in the DSN, and takes no writes"
        assert await written(store, "before")
        assert await moved(queue, b"before")
        await caught_up(primary, standby)
        waiting = asyncio.create_task(queue.claim(TOPIC, GROUP, 10, 60.0))
        await asyncio.to_thread(primary.stop)
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable, match=r"no server of database.dsn takes writes"):
            await store.ping()
        await promote(primary, standby)
        began = time.monotonic()
        await eventually(lambda: written(store, "after"), timeout=20)
        await eventually(lambda: moved(queue, b"after"), timeout=20)
        assert time.monotonic() - began < 10
        await store.ping()
        assert await port_of(store) == standby
        known = [await store.users.get("t", name) for name in ("before", "after")]
        assert None not in known
    finally:
        await queue.close()
        await store.close()


async def test_every_connection_leaves_a_demoted_primary(primary: Server, standby: int) -> None:
    """A demoted primary answers but takes no writes: every connection leaves it, also those that only read."""
    dsn = both(primary, standby)
    await caught_up(primary, standby)
    store, queue = await PostgresStore.open(dsn), await PostgresQueue.open(dsn)
    await queue.declare({TOPIC: (GROUP,)})
    person = await admin(primary)
    try:
        assert await written(store, "before")
        await asyncio.gather(*(store.users.get("t", "before") for _ in range(20)))
        assert await moved(queue, b"before")
        await caught_up(primary, standby)
        await person.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await person.execute("SELECT pg_reload_conf()")
        await promote(primary, standby)

        async def only_reads() -> bool:
            return bool(await person.fetchval("SELECT current_setting('transaction_read_only')::boolean"))

        await eventually(only_reads)
        await eventually(lambda: written(store, "after"), timeout=20)
        assert {await port_of(store) for _ in range(20)} == {standby}
        await eventually(lambda: moved(queue, b"after"), timeout=20)
        assert await moved(queue, b"and on")
    finally:
        await person.close()
        await queue.close()
        await store.close()
