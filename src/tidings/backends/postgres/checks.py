"""Checks a server before it is used: whether Tidings can keep its promises on it."""

from __future__ import annotations

import asyncpg
import structlog

from tidings.backends.postgres.binaries import OLDEST
from tidings.backends.postgres.connection import Connected
from tidings.backends.postgres.statements import load
from tidings.model.errors import SettingsError

NEWEST = 18
"""The newest major version that the tests have run on."""

_SQL = load("server")
_log = structlog.get_logger("tidings.database")


async def check_server(connection: Connected) -> None:
    """Raises SettingsError if Tidings cannot work with this server or database."""
    version, encoding, *_ = await _row(connection, "server")
    if version < OLDEST:
        raise SettingsError(
            f"database.dsn leads to PostgreSQL {version}; Tidings needs {OLDEST} or newer (tested up to {NEWEST}). "
            "Upgrade the server, or name another."
        )
    if encoding != "UTF8":
        raise SettingsError(
            f"the database of database.dsn has the encoding {encoding}, which cannot hold every name and text. Make "
            "one that can: CREATE DATABASE tidings ENCODING 'UTF8' TEMPLATE template0"
        )


async def check_pooling(one: Connected, other: Connected) -> None:
    """Raises SettingsError if two open connections share a server process, as with a pooler in transaction mode.

    LISTEN, session locks, settings and prepared statements would then belong to other connections as well.
    """
    first = await one.fetchval(_SQL["process"])
    second = await other.fetchval(_SQL["process"])
    if first == second:
        raise SettingsError(
            "database.dsn leads to a pooler in transaction mode, which Tidings cannot use (it listens, locks and sets "
            "things for a session). Set the pool to session mode (pgbouncer: pool_mode = session), or connect directly."
        )


async def advise(connection: Connected, most: int) -> None:
    """Log a warning for each setting that weakens a promise, and if the server has no room for `most` connections.

    `synchronous_commit = off` needs no warning: every session of ours sets its own (connection.py).
    """
    version, _, fsync, full_pages, commit, standbys = await _row(connection, "server")
    if version > NEWEST:
        _log.warning("this PostgreSQL is newer than the newest that was tested", version=version, tested=NEWEST)
    if not fsync or not full_pages:
        _log.warning(
            "PostgreSQL is set to lose acknowledged data in a power cut",
            fsync=fsync,
            full_page_writes=full_pages,
            todo="set both to on",
        )
    if commit == "local" and standbys:
        _log.warning(
            "a failover may lose acknowledged data: commits do not wait for the standbys",
            synchronous_commit=commit,
            todo="set synchronous_commit to on",
        )
    room, open_now, ours = await _row(connection, "room")
    if open_now - 1 + most > room:
        _log.warning(
            "PostgreSQL may run out of connections",
            clients_at_most=room,
            open_now=open_now,
            of_tidings=ours,
            this_process_may_open=most,
            todo="raise max_connections, or lower database.pool_size; docs/how-to/operate.md has the sum",
        )


async def _row(connection: Connected, name: str) -> asyncpg.Record:
    [row] = await connection.fetch(_SQL[name])
    return row
