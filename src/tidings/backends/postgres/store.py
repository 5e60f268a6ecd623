"""The store in PostgreSQL, behind one pool of connections."""

from __future__ import annotations

import time
from typing import Self

import asyncpg

from tidings.backends.postgres.accounts import PostgresAccounts, PostgresRounds, PostgresWatched
from tidings.backends.postgres.caps import PostgresCaps
from tidings.backends.postgres.checks import advise, check_pooling, check_server
from tidings.backends.postgres.connection import Connected, ConnectionPool, close_pool, open_pool, translated
from tidings.backends.postgres.days import PostgresDays
from tidings.backends.postgres.history import PostgresHistory
from tidings.backends.postgres.idempotency import PostgresIdempotency
from tidings.backends.postgres.inbox import PostgresInbox
from tidings.backends.postgres.leaves import Leaves
from tidings.backends.postgres.letters import PostgresLetters
from tidings.backends.postgres.recurrences import PostgresRecurrences
from tidings.backends.postgres.replays import PostgresReplays
from tidings.backends.postgres.schedule import PostgresCancellations, PostgresChanges, PostgresSchedule
from tidings.backends.postgres.standings import PostgresStandings
from tidings.backends.postgres.statements import check_queries, load
from tidings.backends.postgres.templates import PostgresTemplates
from tidings.backends.postgres.tenants import PostgresTenants
from tidings.backends.postgres.users import PostgresUsers
from tidings.model.errors import SettingsError, Unavailable

_SQL = load("server")


class PostgresStore:
    """See Store. Create it with `open`, on a migrated database."""

    def __init__(self, pool: ConnectionPool, pulse: ConnectionPool) -> None:
        self._pool = pool
        self._pulse = pulse
        leaves = Leaves(pool)
        self.history = PostgresHistory(pool, leaves)
        self.days = PostgresDays(pool, leaves, self.history)
        self.schedule = PostgresSchedule(pool)
        self.recurrences = PostgresRecurrences(pool)
        self.changes = PostgresChanges(leaves)
        self.users = PostgresUsers(pool)
        self.cancellations = PostgresCancellations(pool, leaves)
        self.templates = PostgresTemplates(pool)
        self.inbox = PostgresInbox(pool)
        self.tenants = PostgresTenants(pool)
        self.idempotency = PostgresIdempotency(pool)
        self.letters = PostgresLetters(leaves, self.history)
        self.replays = PostgresReplays(pool)
        self.accounts = PostgresAccounts(pool)
        self.watched = PostgresWatched(pool)
        self.rounds = PostgresRounds(pool)
        self.caps = PostgresCaps(pool)
        self.standings = PostgresStandings(pool)

    @classmethod
    async def open(cls, dsn: str, pool_size: int = 10, now: int | None = None) -> Self:
        """Connect, check every statement against the schema, and create the partitions around `now` (milliseconds).

        Raises:
            Unavailable: the server does not answer.
            SettingsError: the server refuses the DSN, fails a check (checks.py), or has the schema of another version.
        """
        pool = await open_pool(dsn, pool_size, "tidings-store", plan_cache_mode="force_generic_plan")
        try:
            # `ping` has a connection of its own, so that its answer does not depend on how busy the others are.
            pulse = await open_pool(dsn, 1, "tidings-pulse")
        except BaseException:
            await close_pool(pool)
            raise
        store = cls(pool, pulse)
        try:
            with translated():
                async with pool.acquire() as connection, pulse.acquire() as other:
                    await check_server(connection)
                    await check_pooling(connection, other)
                    await _check(connection)
            await store.history.maintain(time.time_ns() // 1_000_000 if now is None else now)
        except BaseException:
            await store.close()
            raise
        return store

    async def ping(self) -> None:
        """See Store. Also raises Unavailable if the server takes no writes."""
        with translated():
            if await self._pulse.fetchval(_SQL["pulse"]):
                await self._pulse.expire_connections()
                raise Unavailable("PostgreSQL takes no writes (a standby, or default_transaction_read_only)")

    async def advise(self, others: int) -> None:
        """Log warnings about the server. The process may open the store's connections and `others` more."""
        with translated():
            async with self._pulse.acquire() as connection:
                await advise(connection, self._pool.get_max_size() + self._pulse.get_max_size() + others)

    async def close(self) -> None:
        """See Store."""
        await close_pool(self._pulse)
        await close_pool(self._pool)


async def _check(connection: Connected) -> None:
    try:
        await check_queries(connection)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError) as error:
        where = ", ".join(getattr(error, "__notes__", ()))
        raise SettingsError(
            f"the database's schema is not that of this version ({error}; {where}): run `tidings migrate`"
        ) from error
