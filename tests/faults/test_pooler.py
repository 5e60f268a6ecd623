"""pgbouncer between Tidings and PostgreSQL: session mode works, transaction mode is refused with advice."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest

from support import eventually
from support.ports import free_port
from support.postgres import open_folder
from tidings.backends.postgres.folder import NAME
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.queue import PostgresQueue
from tidings.backends.postgres.server import Server
from tidings.backends.postgres.store import PostgresStore
from tidings.model.errors import SettingsError
from tidings.model.user import Profile
from tidings.ports.queue import Item

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")
TOPIC, GROUP = "requests.normal", "route"


@contextmanager
def pgbouncer(server: Server, database: str, mode: str) -> Iterator[str]:
    """The DSN of a pgbouncer, set up as by Debian, in front of one database."""
    folder = open_folder("tidings-pooler-")
    port = free_port()
    password = server._place.password
    (folder / "users.txt").write_text(f'"{NAME}" "{password}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{database} = host=127.0.0.1 port={server.port} user={NAME} password={password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\n"
        f"auth_file = {folder}/users.txt\npool_mode = {mode}\ndefault_pool_size = 80\nmax_client_conn = 200\n"
    )
    user = []
    if os.geteuid() == 0:
        who = pwd.getpwnam("nobody")
        for path in (folder, *folder.iterdir()):
            os.chown(path, who.pw_uid, who.pw_gid)
        user = ["--user", "nobody"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(PROGRAM), *user, str(folder / "pgbouncer.ini")], stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield f"postgresql://{NAME}:{password}@127.0.0.1:{port}/{database}"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


async def answers(dsn: str) -> bool:
    try:
        await (await asyncpg.connect(dsn, timeout=5)).close()
    except (OSError, asyncpg.PostgresError):
        return False
    return True


@pytest.fixture
def database(postgres_dsn: str) -> str:
    return postgres_dsn.partition("?")[0].rpartition("/")[2]


async def test_in_session_mode_everything_works(postgres_server: Server, database: str) -> None:
    with pgbouncer(postgres_server, database, "session") as dsn:
        await eventually(lambda: answers(dsn), timeout=20)
        assert await migrate(dsn) == []
        store, queue, other = (
            await PostgresStore.open(dsn),
            await PostgresQueue.open(dsn),
            await PostgresQueue.open(dsn),
        )
        try:
            await queue.declare({TOPIC: (GROUP,)})
            async with store._pool.acquire() as connection:
                assert await connection.fetchval("SHOW lock_timeout") == "5s"
                assert await connection.fetchval("SHOW plan_cache_mode") == "force_generic_plan"
            await store.users.upsert("t", [("ann", Profile(name="Ann"), None)], 1)
            waiting = asyncio.create_task(queue.claim(TOPIC, GROUP, 10, 20.0, lease_s=10.0))
            await asyncio.sleep(0)
            await other.put([Item(TOPIC, "k", b"1")])
            claim = await waiting
            assert claim is not None
            await claim.done([Item(TOPIC, "k", b"2")])
            second = await other.claim(TOPIC, GROUP, 10, 5.0)
            assert second is not None
            assert [item.body for item in second.items] == [b"2"]
            await second.done()
        finally:
            for opened in (queue, other, store):
                await opened.close()


async def test_transaction_mode_is_refused(postgres_server: Server, database: str) -> None:
    with pgbouncer(postgres_server, database, "transaction") as dsn:
        await eventually(lambda: answers(dsn), timeout=20)
        for opening in (migrate, PostgresStore.open):
            with pytest.raises(SettingsError, match=r"pooler in transaction mode.*pool_mode = session"):
                await opening(dsn)
