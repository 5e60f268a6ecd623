"""The queue in PostgreSQL: one table for each topic and group; claims use SKIP LOCKED."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Self
from uuid import uuid4

import asyncpg

from tidings.backends.postgres.claims import LeasedClaim, OpenClaim
from tidings.backends.postgres.connection import (
    CONNECT_WITHIN_S,
    ConnectionPool,
    PooledConnection,
    close_pool,
    open_pool,
    translated,
)
from tidings.backends.postgres.statements import load
from tidings.backends.postgres.waking import QueueTable, Waker
from tidings.backends.postgres.writing import Writing, prepare, put_statement, quoted
from tidings.model.errors import LeaseLost, Unavailable
from tidings.ports.queue import Claim, Extent, Item, Subscription

CLAIMS = 20
"""The most unleased claims that one process holds. Each is an open transaction on its own connection."""
HELD_WITHIN_S = 30
"""Seconds after which the server ends an unleased claim. Its process has frozen, and other claimers need the items."""
WRITERS = 8
"""Connections for everything but unleased claims, which have their own, so that neither waits for the other."""
MOST_CONNECTIONS = CLAIMS + WRITERS + 1
"""The most connections that one queue opens: claims, writers and the listener."""

_DECLARE_LOCK = 7166200102
_MOST_NAME_BYTES = 55
_SQL = load("queue")
_TABLES = load("templates/queue")


class PostgresQueue:
    """See Queue. Create it with `open`, on a migrated database."""

    atomic = True

    def __init__(self, dsn: str, claims: ConnectionPool, writers: ConnectionPool, most_claims: int) -> None:
        self._claims = claims
        self._writers = writers
        self._room = asyncio.Semaphore(most_claims)
        self._waker = Waker(dsn, self._reload)
        self._relations: dict[tuple[str, str], str] = {}
        self._readers: dict[str, tuple[str, ...]] = {}
        self._held: set[OpenClaim] = set()
        self._abandoned: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def open(cls, dsn: str, claims: int = CLAIMS, writers: int = WRITERS) -> Self:
        """Connect. Raises Unavailable if the server does not answer, SettingsError if it refuses the DSN."""
        # No sequential scans: a plan made for a small table would later sort a hundred thousand rows for each claim.
        claim_pool = await open_pool(
            dsn,
            claims,
            "tidings-queue-claim",
            least=0,  # a process that claims nothing needs none
            enable_seqscan="off",
            idle_in_transaction_session_timeout=f"{HELD_WITHIN_S}s",
        )
        writer_pool = await open_pool(dsn, writers, "tidings-queue", enable_seqscan="off")
        queue = cls(dsn, claim_pool, writer_pool, claims)
        try:
            await queue._reload()
            await queue._waker.start()
        except BaseException:
            await queue.close()
            raise
        return queue

    @property
    def pool(self) -> ConnectionPool:
        """The connections for statements that need only one round trip."""
        return self._writers

    async def declare(self, subscriptions: Mapping[str, Sequence[str]]) -> None:
        """See Queue."""
        wanted = [(topic, group) for topic, groups in subscriptions.items() for group in groups]
        await self._reload()
        missing = [pair for pair in wanted if pair not in self._relations]
        if not missing:
            return
        with translated():
            async with self._writers.acquire() as connection, connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _DECLARE_LOCK)
                for topic, group in missing:
                    relation = _relation(topic, group)
                    for name in ("create", "store_plainly"):
                        await connection.execute(_on(relation, name))
                    await connection.execute(_SQL["subscribe"], topic, group, relation)
        await self._reload()
        await self._waker.announce_subscriptions()

    async def put(self, items: Sequence[Item]) -> None:
        """See Queue."""
        if not items:
            return
        writing = await self.writing(items)
        with translated():
            await self._writers.execute(put_statement(writing.relations), *writing.arguments)
        self._waker.announce(writing.touched)

    async def claim(
        self, topic: str, group: str, max_items: int, max_wait_s: float, lease_s: float | None = None
    ) -> Claim | None:
        """See Queue."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max_wait_s
        table = self._waker.table(await self._relation_of(topic, group))
        table.used = True
        while True:
            if self._closed:
                raise Unavailable("the queue is closed")
            # Ask the server only if something arrived since the last look. The waker finds arrivals nobody announced.
            if table.arrivals != table.drained or max_wait_s <= 0:
                seen = table.arrivals
                claim: OpenClaim | LeasedClaim | None
                if lease_s is None:
                    claim = await self._take(table, max_items, deadline - loop.time())
                else:
                    claim = await self._take_leased(table, max_items, lease_s)
                if claim is not None:
                    if len(claim.items) == max_items:
                        table.wake()  # there may be more items: wake the next claimer
                    else:
                        table.drained = max(table.drained, seen)
                    return claim
                if loop.time() >= deadline:
                    return None  # perhaps without a look: all connections for claims were in use
                table.drained = max(table.drained, seen)
            elif loop.time() >= deadline:
                return None
            await table.wait(table.drained, deadline - loop.time())

    async def depths(self, queues: Sequence[Subscription]) -> Sequence[int]:
        """See Queue. All of them are counted at one instant."""
        if not queues:
            return []
        relations = tuple([await self._relation_of(topic, group) for topic, group in queues])
        tables = [self._waker.table(relation) for relation in relations]
        for table in tables:
            table.used = True
        with translated():
            rows = await self._writers.fetch(_counting(relations), relations, [table.bound.low for table in tables])
        return [count for _, count in rows]

    async def extent(self, topic: str, group: str) -> Extent:
        """See Queue."""
        relation = await self._relation_of(topic, group)
        with translated():
            filled: int = await self._writers.fetchval(_on(relation, "filled"), "queue." + quoted(relation))
            oldest: int | None = await self._writers.fetchval(_on(relation, "oldest"), relation)
        return Extent((filled,), (filled if oldest is None else oldest - 1,))

    async def close(self) -> None:
        """See Queue. Leased claims stay until their lease ends, so that begun items come back marked."""
        self._closed = True
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=CONNECT_WITHIN_S)
        for claim in list(self._held):
            with contextlib.suppress(Unavailable):
                await claim.release()
        await self._waker.close()
        await close_pool(self._claims)
        await close_pool(self._writers)

    async def writing(self, items: Sequence[Item]) -> Writing:
        """The items as the parameters of one statement. Raises ValueError for an undeclared topic."""
        try:
            return prepare(items, self._readers)
        except KeyError:
            await self._reload()
        try:
            return prepare(items, self._readers)
        except KeyError as error:
            raise ValueError(f"the topic {error.args[0]!r} was not declared") from None

    async def give_back(self, connection: PooledConnection) -> None:
        """Return a claim's connection to the pool."""
        self._room.release()
        # If that fails, the pool drops the connection. The claim has ended either way.
        with contextlib.suppress(Unavailable), translated():
            await self._claims.release(connection)

    def ended(self, claim: OpenClaim, changed: Iterable[str]) -> None:
        """An unleased claim has ended, and these tables may have new items."""
        self._held.discard(claim)
        self._waker.announce(changed)

    def returned(self, relation: str, number: int) -> None:
        """Claimed items may be back in the table, with their old ids, the lowest of which is `number`."""
        self._waker.lower(relation, number)

    async def _take(self, table: QueueTable, max_items: int, max_wait_s: float) -> OpenClaim | None:
        if self._room.locked():
            try:
                async with asyncio.timeout(max(0.0, max_wait_s)):
                    await self._room.acquire()
            except TimeoutError:
                return None
        else:
            await self._room.acquire()
        try:
            with translated():
                connection = await self._claims.acquire(timeout=CONNECT_WITHIN_S)
        except BaseException:
            self._room.release()
            raise
        try:
            with translated():
                await connection.execute("BEGIN")
                rows = await connection.fetch(_on(table.relation, "claim"), max_items, table.bound.low)
                if not rows:
                    await connection.execute("COMMIT")
        except BaseException:
            await self.give_back(connection)
            raise
        if not rows:
            await self.give_back(connection)
            return None
        claim = OpenClaim(self, table.relation, connection, rows)
        self._held.add(claim)
        return claim

    async def _take_leased(self, table: QueueTable, max_items: int, lease_s: float) -> LeasedClaim | None:
        # The statement commits by itself. If this coroutine is cancelled, finish the statement and give the items back:
        # otherwise they would be out of reach until the lease ends.
        taking = asyncio.create_task(self._lease(table, max_items, lease_s))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            returning = asyncio.create_task(_return(taking))
            self._abandoned.add(returning)
            returning.add_done_callback(self._abandoned.discard)
            raise

    async def _lease(self, table: QueueTable, max_items: int, lease_s: float) -> LeasedClaim | None:
        token = uuid4()
        with translated():
            rows = await self._writers.fetch(
                _on(table.relation, "lease"), max_items, token, table.relation, lease_s, table.bound.low
            )
        return LeasedClaim(self, self._waker.announce, table.relation, token, rows) if rows else None

    async def _relation_of(self, topic: str, group: str) -> str:
        relation = self._relations.get((topic, group))
        if relation is None:
            await self._reload()
            relation = self._relations.get((topic, group))
        if relation is None:
            raise ValueError(f"the group {group!r} was not declared as a reader of the topic {topic!r}")
        return relation

    async def _reload(self) -> None:
        with translated():
            rows: list[asyncpg.Record] = await self._writers.fetch(_SQL["subscriptions"])
        readers: dict[str, list[str]] = {}
        for topic, group, relation in rows:
            self._relations[topic, group] = relation
            readers.setdefault(topic, []).append(relation)
        self._readers = {topic: tuple(sorted(relations)) for topic, relations in readers.items()}


async def _return(taking: asyncio.Task[LeasedClaim | None]) -> None:
    """Release the claim of a cancelled caller. If the database is away, the end of the lease does it."""
    with contextlib.suppress(Unavailable, LeaseLost):
        claim = await taking
        if claim is not None:
            await claim.release()


def _relation(topic: str, group: str) -> str:
    """The table's name for a topic and group. PostgreSQL cuts names at 63 bytes, so a long one ends in a digest."""
    name = f"{topic}/{group}"
    if len(name.encode()) <= _MOST_NAME_BYTES:
        return name
    digest = hashlib.blake2b(f"{topic}\0{group}".encode(), digest_size=6).hexdigest()
    return name.encode()[: _MOST_NAME_BYTES - 13].decode(errors="ignore") + "/" + digest


@lru_cache(maxsize=64)
def _counting(relations: tuple[str, ...]) -> str:
    """The statement that counts the items of these tables."""
    counts = [_on(relation, "count").replace("{place}", str(place)) for place, relation in enumerate(relations, 1)]
    return _TABLES["depths"].replace("{counts}", " UNION ALL ".join(counts))


def _on(relation: str, name: str) -> str:
    """The statement `name` on this table."""
    statement = _texts.get((relation, name))
    if statement is None:
        statement = _texts[relation, name] = _TABLES[name].replace("{queue}", "queue." + quoted(relation))
    return statement


_texts: dict[tuple[str, str], str] = {}
