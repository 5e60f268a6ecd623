"""Connections to PostgreSQL: pools, session settings, and the translation of failures."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import Pool, PoolConnectionProxy

from tidings.backends.postgres import arrays
from tidings.backends.postgres.hosts import Finder
from tidings.model.errors import SettingsError, Unavailable

PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Connected: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
ConnectionPool: TypeAlias = "Pool[asyncpg.Record]"

CONNECT_WITHIN_S = 5.0
"""Seconds after which an attempt to connect counts as failed."""
ANSWER_WITHIN_S = 30.0
"""Seconds after which a statement without an answer counts as failed."""
_IDLE_AFTER_S = 60.0
"""A connection that is not used for so long is closed: each costs the server about 2 MB."""
_SILENT_FOR_MS = 10_000
"""Milliseconds that sent data may stay unacknowledged. A dead primary is noticed within this time."""
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}
"""Seconds, seconds and a count. They notice a dead peer while this process waits for its answer."""

_SETTINGS = {
    "timezone": "UTC",
    "jit": "off",
    # A client machine that vanished must not hold its claims for hours.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    # Free the locks of a process that freezes between two statements, and let nobody wait long for a lock.
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "5s",
    # No caller waits for the answer any longer (ANSWER_WITHIN_S), so the server can stop.
    "statement_timeout": "40s",
}
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
"""Turns synchronous_commit on in our sessions if the server has it off: 202 means durable."""

_TRANSIENT = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
_REFUSED = (ValueError, asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


class Connection(asyncpg.Connection):
    """A connection that notices a dead peer within seconds, sends columns cheaply, and closes on a read-only server.

    `read_only` is called when the server refuses a write because a failover has made it a standby.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.read_only: Callable[[], Awaitable[None]] | None = None
        transport: asyncio.Transport = self._transport  # type: ignore[attr-defined]  # absent from the stubs
        peer: socket.socket | None = transport.get_extra_info("socket")
        if sys.platform == "linux" and peer is not None and peer.family in {socket.AF_INET, socket.AF_INET6}:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_FOR_MS)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        arrays.register(self)

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncpg's."""
        return await self._where_written(super().execute(*args, **kwargs))

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncpg's."""
        return await self._where_written(super().fetch(*args, **kwargs))

    async def fetchrow(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncpg's."""
        return await self._where_written(super().fetchrow(*args, **kwargs))

    async def fetchval(self, *args: Any, **kwargs: Any) -> Any:
        """As asyncpg's."""
        return await self._where_written(super().fetchval(*args, **kwargs))

    async def _where_written(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except asyncpg.ReadOnlySQLTransactionError:
            self.terminate()
            if self.read_only is not None:
                await self.read_only()
            raise


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns a failure that may pass by itself into Unavailable. Errors of statements and values pass through."""
    try:
        yield
    except asyncpg.DataError:
        raise
    except _TRANSIENT as error:
        # asyncpg's own DataError and configuration errors are ValueErrors: faults of the caller, not of the database.
        if isinstance(error, ValueError):
            raise
        raise Unavailable(f"PostgreSQL does not answer: {type(error).__name__}: {error}") from error


async def open_pool(dsn: str, size: int, name: str, least: int = 1, **settings: str) -> ConnectionPool:
    """A pool of at most `size` connections, with the application name `name` and the server `settings`.

    It opens `least` connections now, so that a wrong DSN is reported now. All connections lead to a server that takes
    writes. When that server stops taking writes, the pool replaces all of them.

    Raises:
        Unavailable: the server does not answer.
        SettingsError: the server answers and refuses the DSN.
    """
    finder = Finder(dsn, CONNECT_WITHIN_S)

    async def connecting(*_: Any, **options: Any) -> Any:
        connection = await _prepared(finder, name, settings, options)
        # The pool's other connections lead to the same server, where they may read old data.
        connection.read_only = pool.expire_connections
        return connection

    pool: ConnectionPool = asyncpg.create_pool(
        dsn,
        connect=connecting,
        min_size=least,
        max_size=size,
        command_timeout=ANSWER_WITHIN_S,
        statement_cache_size=512,
        max_cached_statement_lifetime=0,
        max_inactive_connection_lifetime=_IDLE_AFTER_S,
        connection_class=Connection,
        # No statement of ours changes a session's state, so skip the round trip that resets it.
        reset=_unchanged,
    )
    try:
        with translated():
            await pool
    except _REFUSED as error:
        raise SettingsError(f"database.dsn cannot be used: {error}") from error
    return pool


async def connect(dsn: str, name: str, **settings: str) -> asyncpg.Connection[asyncpg.Record]:
    """One connection. Raises Unavailable and SettingsError."""
    finder = Finder(dsn, CONNECT_WITHIN_S)
    try:
        with translated():
            options = {"command_timeout": ANSWER_WITHIN_S, "connection_class": Connection}
            return await _prepared(finder, name, settings, options)
    except _REFUSED as error:
        raise SettingsError(f"database.dsn cannot be used: {error}") from error


async def _prepared(finder: Finder, name: str, settings: Mapping[str, str], options: Mapping[str, Any]) -> Connection:
    """A new connection with its settings, set after connecting because a pooler refuses them as start parameters."""
    connection = await finder.connect(**options, server_settings={"application_name": name})
    wanted = _SETTINGS | dict(settings)
    try:
        statements = [_DURABLE, *(f"SET {setting} = '{value}'" for setting, value in wanted.items())]
        await connection.execute("; ".join(statements), timeout=CONNECT_WITHIN_S)
    except BaseException:
        connection.terminate()
        raise
    assert isinstance(connection, Connection)  # noqa: S101 - the class that was asked for
    return connection


async def close_pool(pool: ConnectionPool) -> None:
    """Close the pool. Connections that are still busy after a few seconds are cut."""
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            await pool.close()
    except (*_TRANSIENT, asyncpg.PostgresError):
        pool.terminate()


async def _unchanged(_connection: object) -> None:
    return
