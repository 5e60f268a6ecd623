"""A real PostgreSQL for the test run, and a fresh migrated database for each test that wants one."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from support import unique
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.server import Server

TEMPLATE = "migrated"


def open_folder(prefix: str = "tidings-test-") -> Path:
    """A new folder that PostgreSQL's own user can reach when the tests run as root (pytest's tmp_path is closed)."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o755)
    return folder


def on_database(dsn: str, name: str) -> str:
    """The DSN of another database of the same server."""
    head, _, query = dsn.partition("?")
    return head.rpartition("/")[0] + "/" + name + ("?" + query if query else "")


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A server for the whole run, with a migrated database to copy. A test that harms a server starts its own."""
    folder = open_folder()
    # Without fsync only a power cut loses data; a killed process does not.
    server = Server(folder, settings={"fsync": "off", "full_page_writes": "off"})
    try:
        with server:
            template = on_database(server.dsn, TEMPLATE)
            asyncio.run(_execute(server.dsn, f"CREATE DATABASE {TEMPLATE}"))
            asyncio.run(migrate(template))
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def postgres_dsn(postgres_server: Server) -> AsyncIterator[str]:
    """A fresh, migrated database."""
    name = unique("test").replace("-", "_")
    await _execute(postgres_server.dsn, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy")
    yield on_database(postgres_server.dsn, name)
    await _execute(postgres_server.dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def open_data_dir() -> Iterator[Path]:
    """A data folder for a server of the test's own."""
    folder = open_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
