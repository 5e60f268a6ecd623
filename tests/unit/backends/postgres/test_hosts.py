"""The servers of a DSN, and DSNs and servers that are refused."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from structlog.testing import capture_logs

from support import unique
from support.ports import free_port
from support.postgres import on_database
from tidings.backends.postgres.connection import Connection, close_pool, connect, open_pool, translated
from tidings.backends.postgres.hosts import Address, addresses
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.server import Server
from tidings.backends.postgres.store import PostgresStore
from tidings.model.errors import SettingsError, Unavailable

HEAD = "postgresql://u:p@"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers, like a machine that hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    """A port that refuses connections."""
    return free_port()


@pytest.fixture
async def encoded_dsn(postgres_server: Server) -> AsyncIterator[str]:
    """A database with an encoding that cannot hold every text."""
    name = unique("latin").replace("-", "_")
    connection = await asyncpg.connect(postgres_server.dsn)
    await connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0")
    yield on_database(postgres_server.dsn, name)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p@one/db", [("one", 5432)]),
        ("postgresql://u:p@one:1,two:2,three/db", [("one", 1), ("two", 2), ("three", 5432)]),
        ("postgresql://u:p@one,two/db?port=7", [("one", 7), ("two", 7)]),
        ("postgresql://u:p@/db?host=one,two&port=1,2", [("one", 1), ("two", 2)]),
        ("postgresql://u:p@[::1]:3/db?target_session_attrs=read-write", [("::1", 3)]),
        ("postgresql://u:p@/db?host=/run/post%20gres&port=4", [("/run/post gres", 4)]),
        ("postgresql://u:p@/db?host=/data/acme%2C%20inc/x&port=4", [("/data/acme, inc/x", 4)]),
        ("postgresql://u:p@%2Frun%2Fpg/db", [("/run/pg", 5432)]),
        ("postgresql:///db", []),
        ("postgresql://u:p@/db?service=mine", []),
    ],
)
def test_addresses(dsn: str, expected: list[tuple[str, int]]) -> None:
    assert addresses(dsn) == [Address(*one) for one in expected]


@pytest.mark.parametrize(
    ("dsn", "problem"),
    [
        (HEAD + "one/db?target_session_attrs=standby", "target_session_attrs=standby, but Tidings writes"),
        (HEAD + "one/db?target_session_attrs=prefer-standby", "target_session_attrs=prefer-standby, but"),
        (HEAD + "one,two,three/db?port=1,2", "3 hosts and 2 ports"),
        (HEAD + "one:many/db", "cannot be used"),
    ],
)
async def test_a_dsn_that_cannot_be_used(dsn: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        await connect(dsn, "test")


async def test_a_server_that_hangs_does_not_use_up_the_time_of_the_others(
    postgres_server: Server, silent_port: int, closed_port: int
) -> None:
    dsn = postgres_server.tcp_dsn.replace("127.0.0.1", f"127.0.0.1:{closed_port},127.0.0.1:{silent_port},127.0.0.1")
    pool = await open_pool(dsn, 4, "test")
    began = time.monotonic()
    connections = [await pool.acquire() for _ in range(4)]
    assert time.monotonic() - began < 1.0, "the server that answered is asked first"
    for connection in connections:
        await pool.release(connection)
    await close_pool(pool)


async def test_why_no_server_can_be_used(postgres_dsn: str, postgres_server: Server, closed_port: int) -> None:
    name = postgres_dsn.partition("?")[0].rpartition("/")[2]
    dsn = on_database(postgres_server.tcp_dsn, name)
    admin = await asyncpg.connect(dsn)
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await admin.close()
    with pytest.raises(
        Unavailable, match=rf"no server of database.dsn takes writes: .*:{postgres_server.port} only reads"
    ):
        await connect(dsn, "test")
    both = dsn.replace("127.0.0.1", f"127.0.0.1:{closed_port},127.0.0.1")
    with pytest.raises(Unavailable, match=rf"127.0.0.1:{closed_port} refuses: .*; 127.0.0.1:\d+ only reads"):
        await connect(both, "test")


async def test_a_pool_leaves_a_server_that_stops_taking_writes(postgres_dsn: str) -> None:
    pool = await open_pool(postgres_dsn, 3, "test")
    held = [await pool.acquire() for _ in range(3)]
    first = [connection.get_server_pid() for connection in held]
    for connection in held:
        await connection.execute("SET default_transaction_read_only = on")
        await pool.release(connection)
    with pytest.raises(Unavailable), translated():
        await pool.execute("CREATE TABLE refused (x int)")
    for _ in range(3):  # all three connections are new, also those on which no write was refused
        held = [await pool.acquire() for _ in range(3)]
        assert not {connection.get_server_pid() for connection in held} & set(first)
        for connection in held:
            await connection.execute("CREATE TABLE IF NOT EXISTS taken (x int)")
            await pool.release(connection)
    await close_pool(pool)


async def test_a_store_on_a_read_only_server_fails_its_ping(postgres_dsn: str) -> None:
    store = await PostgresStore.open(postgres_dsn)
    await store.ping()
    await store._pulse.execute("SET default_transaction_read_only = on")
    with pytest.raises(Unavailable, match="takes no writes"):
        await store.ping()
    await store.ping()  # on a new connection
    await store.close()


async def test_every_session_has_its_limits_and_is_durable(postgres_dsn: str) -> None:
    admin = await asyncpg.connect(postgres_dsn)
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await admin.close()
    store = await PostgresStore.open(postgres_dsn)
    async with store._pool.acquire() as connection:
        for setting, expected in {
            "synchronous_commit": "on",
            "lock_timeout": "5s",
            "idle_in_transaction_session_timeout": "10s",
            "statement_timeout": "40s",
            "plan_cache_mode": "force_generic_plan",
            "application_name": "tidings-store",
        }.items():
            assert await connection.fetchval(f"SHOW {setting}") == expected
    await store.close()
    listener = await connect(postgres_dsn, "test", synchronous_commit="off")
    assert await listener.fetchval("SHOW synchronous_commit") == "off"
    await listener.close()


async def test_the_encoding_is_checked_before_anything_is_written(encoded_dsn: str) -> None:
    with pytest.raises(SettingsError, match=r"encoding LATIN1.*CREATE DATABASE tidings ENCODING 'UTF8'"):
        await migrate(encoded_dsn)


async def test_a_server_that_may_lose_data_is_named_in_the_log(postgres_dsn: str) -> None:
    store = await PostgresStore.open(postgres_dsn)
    with capture_logs() as logs:
        await store.advise(0)
    await store.close()
    [said] = [log for log in logs if "power cut" in log["event"]]  # the tests' server has neither
    assert (said["fsync"], said["full_page_writes"]) == (False, False)


async def test_too_few_connections_are_named_in_the_log(postgres_dsn: str) -> None:
    store = await PostgresStore.open(postgres_dsn)
    with capture_logs() as logs:
        await store.advise(2)
    assert not [log for log in logs if "connections" in log["event"]]
    with capture_logs() as logs:
        await store.advise(300)
    [said] = [log for log in logs if "run out of connections" in log["event"]]
    assert said["this_process_may_open"] == 311
    await store.close()


async def test_a_dead_peer_is_noticed_by_the_kernel(postgres_server: Server) -> None:
    connection = await connect(postgres_server.tcp_dsn, "test")
    assert isinstance(connection, Connection)
    peer: socket.socket = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
    assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
    await connection.close()
    await asyncio.sleep(0)
