"""Connections to PostgreSQL: pools, their settings, and what their failures mean."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import Pool, PoolConnectionProxy

from tidings.backends.postgres import arrays
from tidings.model.errors import SettingsError, Unavailable

PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Connected: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
ConnectionPool: TypeAlias = "Pool[asyncpg.Record]"

CONNECT_WITHIN = 5.0
"""Seconds until a connection that does not come counts as failed."""
ANSWER_WITHIN = 30.0
"""Seconds until a statement that does not answer counts as failed."""
_SILENT_FOR = 10_000
"""Milliseconds that sent data may stay unacknowledged: a dead primary is noticed within this."""

_SETTINGS = {
    "timezone": "UTC",
    "jit": "off",
    # A client machine that vanished must not hold its claims for hours.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

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
    """A connection that notices a dead peer within seconds, and sends columns cheaply."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        transport: asyncio.Transport = self._transport  # type: ignore[attr-defined]  # absent from the stubs
        peer: socket.socket | None = transport.get_extra_info("socket")
        if sys.platform == "linux" and peer is not None and peer.family in {socket.AF_INET, socket.AF_INET6}:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_FOR)
        arrays.register(self)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns a failure that may pass by itself into Unavailable; a wrong statement or value stays what it is."""
    try:
        yield
    except asyncpg.DataError:
        raise
    except _TRANSIENT as error:
        # asyncpg's own DataError and configuration errors are ValueErrors: the caller's fault, not the database's.
        if isinstance(error, ValueError):
            raise
        raise Unavailable(f"PostgreSQL does not answer: {type(error).__name__}: {error}") from error


async def open_pool(dsn: str, size: int, name: str, **settings: str) -> ConnectionPool:
    """A pool of at most `size` connections with `name` as their application name and server `settings`.

    Raises:
        Unavailable: the server does not answer.
        SettingsError: it answers, and refuses the DSN.
    """
    try:
        with translated():
            return await asyncpg.create_pool(
                dsn,
                min_size=1,  # so that a wrong DSN is told now
                max_size=size,
                timeout=CONNECT_WITHIN,
                command_timeout=ANSWER_WITHIN,
                statement_cache_size=512,
                max_cached_statement_lifetime=0,
                connection_class=Connection,
                server_settings=_SETTINGS | {"application_name": name} | settings,
                # Nothing here changes a session's state, so the round trip that resets it is saved.
                reset=_unchanged,
            )
    except _REFUSED as error:
        raise SettingsError(f"database.dsn cannot be used: {error}") from error


async def connect(dsn: str, name: str, **settings: str) -> asyncpg.Connection[asyncpg.Record]:
    """One connection. Raises Unavailable and SettingsError."""
    try:
        with translated():
            return await asyncpg.connect(
                dsn,
                timeout=CONNECT_WITHIN,
                command_timeout=ANSWER_WITHIN,
                connection_class=Connection,
                server_settings=_SETTINGS | {"application_name": name} | settings,
            )
    except _REFUSED as error:
        raise SettingsError(f"database.dsn cannot be used: {error}") from error


async def close_pool(pool: ConnectionPool) -> None:
    """Close what is idle, and end what is not within a few seconds."""
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            await pool.close()
    except (*_TRANSIENT, asyncpg.PostgresError):
        pool.terminate()


async def _unchanged(_connection: object) -> None:
    return
