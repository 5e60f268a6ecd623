"""The queue in PostgreSQL: one table per topic and group, items claimed with SKIP LOCKED."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Self
from uuid import uuid4

import asyncpg

from tidings.backends.postgres.claims import LeasedClaim, OpenClaim
from tidings.backends.postgres.connection import (
    CONNECT_WITHIN,
    ConnectionPool,
    PooledConnection,
    close_pool,
    open_pool,
    translated,
)
from tidings.backends.postgres.statements import load
from tidings.backends.postgres.waking import Lane, Waker
from tidings.backends.postgres.writing import Writing, prepare, put_statement, quoted
from tidings.model.errors import LeaseLost, Unavailable
from tidings.ports.queue import Claim, Extent, Item

CLAIMS = 20
"""Unleased claims that one process holds at most: each is an open transaction on a connection."""
HELD_WITHIN = 30
"""Seconds after which the server takes an unleased claim back: its process has frozen, and others wait for it."""
WRITERS = 8
"""Connections for puts, leases and the rest, apart from the claims so that neither waits for the other."""
MOST_CONNECTIONS = CLAIMS + WRITERS + 1
"""What one queue opens at most, the listener with them."""

_DECLARE_LOCK = 7166200102
_LONGEST_NAME = 55
_SQL = load("queue")
_TABLES = load("templates/queue")


class PostgresQueue:
    """See Queue. Made with `open`, on a database that was migrated."""

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
        """Connect. Raises Unavailable when the server does not answer, SettingsError when it refuses."""
        # A plan made while the table was small must not sort a hundred thousand rows for every claim.
        claim_pool = await open_pool(
            dsn,
            claims,
            "tidings-queue-claim",
            least=0,  # a process that claims nothing needs none
            enable_seqscan="off",
            idle_in_transaction_session_timeout=f"{HELD_WITHIN}s",
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
        """For statements of one round trip."""
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
        self, topic: str, group: str, max_items: int, max_wait: float, lease: float | None = None
    ) -> Claim | None:
        """See Queue."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max_wait
        lane = self._waker.lane(await self._relation_of(topic, group))
        lane.used = True
        while True:
            if self._closed:
                raise Unavailable("the queue is closed")
            # What was not told of since the last look is found by the waker's: an idle claimer asks the server nothing.
            if lane.arrivals != lane.drained or max_wait <= 0:
                seen = lane.arrivals
                claim: OpenClaim | LeasedClaim | None
                if lease is None:
                    claim = await self._take(lane, max_items, deadline - loop.time())
                else:
                    claim = await self._take_leased(lane, max_items, lease)
                if claim is not None:
                    if len(claim.items) == max_items:
                        lane.wake()  # there may be more: let the next one look
                    else:
                        lane.drained = max(lane.drained, seen)
                    return claim
                if loop.time() >= deadline:
                    return None  # maybe without a look, for want of room
                lane.drained = max(lane.drained, seen)
            elif loop.time() >= deadline:
                return None
            await lane.wait(lane.drained, deadline - loop.time())

    async def depth(self, topic: str, group: str) -> int:
        """See Queue."""
        relation = await self._relation_of(topic, group)
        lane = self._waker.lane(relation)
        lane.used = True
        with translated():
            count: int = await self._writers.fetchval(_on(relation, "depth"), relation, lane.bound.low)
        return count

    async def extent(self, topic: str, group: str) -> Extent:
        """See Queue."""
        relation = await self._relation_of(topic, group)
        with translated():
            filled: int = await self._writers.fetchval(_on(relation, "filled"), "queue." + quoted(relation))
            oldest: int | None = await self._writers.fetchval(_on(relation, "oldest"), relation)
        return Extent((filled,), (filled if oldest is None else oldest - 1,))

    async def close(self) -> None:
        """See Queue. Leased claims stay with their lease: what was begun must come back marked."""
        self._closed = True
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=CONNECT_WITHIN)
        for claim in list(self._held):
            with contextlib.suppress(Unavailable):
                await claim.release()
        await self._waker.close()
        await close_pool(self._claims)
        await close_pool(self._writers)

    async def writing(self, items: Sequence[Item]) -> Writing:
        """The items as one statement's parameters. Raises ValueError for a topic that nobody declared."""
        try:
            return prepare(items, self._readers)
        except KeyError:
            await self._reload()
        try:
            return prepare(items, self._readers)
        except KeyError as error:
            raise ValueError(f"nobody declared the topic {error.args[0]!r}") from None

    async def give_back(self, connection: PooledConnection) -> None:
        """Return a claim's connection."""
        self._room.release()
        # A connection that cannot be returned is dropped by its pool; what happened on it has happened.
        with contextlib.suppress(Unavailable), translated():
            await self._claims.release(connection)

    def ended(self, claim: OpenClaim, changed: Iterable[str]) -> None:
        """An unleased claim is over."""
        self._held.discard(claim)
        self._waker.announce(changed)

    def returned(self, relation: str, number: int) -> None:
        """Items that had left the table may be back in it, with numbers from this one on."""
        self._waker.lower(relation, number)

    async def _take(self, lane: Lane, max_items: int, max_wait: float) -> OpenClaim | None:
        if self._room.locked():
            try:
                async with asyncio.timeout(max(0.0, max_wait)):
                    await self._room.acquire()
            except TimeoutError:
                return None
        else:
            await self._room.acquire()
        try:
            with translated():
                connection = await self._claims.acquire(timeout=CONNECT_WITHIN)
        except BaseException:
            self._room.release()
            raise
        try:
            with translated():
                await connection.execute("BEGIN")
                rows = await connection.fetch(_on(lane.relation, "claim"), max_items, lane.bound.low)
                if not rows:
                    await connection.execute("COMMIT")
        except BaseException:
            await self.give_back(connection)
            raise
        if not rows:
            await self.give_back(connection)
            return None
        claim = OpenClaim(self, lane.relation, connection, rows)
        self._held.add(claim)
        return claim

    async def _take_leased(self, lane: Lane, max_items: int, lease: float) -> LeasedClaim | None:
        # The statement commits by itself. Were it cancelled half-way, its items would sleep until the lease ends.
        taking = asyncio.create_task(self._lease(lane, max_items, lease))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            returning = asyncio.create_task(_return(taking))
            self._abandoned.add(returning)
            returning.add_done_callback(self._abandoned.discard)
            raise

    async def _lease(self, lane: Lane, max_items: int, lease: float) -> LeasedClaim | None:
        token = uuid4()
        with translated():
            rows = await self._writers.fetch(
                _on(lane.relation, "lease"), max_items, token, lane.relation, lease, lane.bound.low
            )
        return LeasedClaim(self, self._waker.announce, lane.relation, token, rows) if rows else None

    async def _relation_of(self, topic: str, group: str) -> str:
        relation = self._relations.get((topic, group))
        if relation is None:
            await self._reload()
            relation = self._relations.get((topic, group))
        if relation is None:
            raise ValueError(f"nobody declared that the group {group!r} reads the topic {topic!r}")
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
    """Give back what an abandoned claim took. When the database is gone, the lease does it."""
    with contextlib.suppress(Unavailable, LeaseLost):
        claim = await taking
        if claim is not None:
            await claim.release()


def _relation(topic: str, group: str) -> str:
    """The table of a topic and group. PostgreSQL cuts names at 63 bytes, so a long one ends in a digest."""
    name = f"{topic}/{group}"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.blake2b(f"{topic}\0{group}".encode(), digest_size=6).hexdigest()
    return name.encode()[: _LONGEST_NAME - 13].decode(errors="ignore") + "/" + digest


def _on(relation: str, name: str) -> str:
    """The statement `name` for this table."""
    statement = _texts.get((relation, name))
    if statement is None:
        statement = _texts[relation, name] = _TABLES[name].replace("{queue}", "queue." + quoted(relation))
    return statement


_texts: dict[tuple[str, str], str] = {}
