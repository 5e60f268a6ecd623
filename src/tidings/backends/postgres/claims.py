"""Claims: a batch of items held by an open transaction or by a lease."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Protocol
from uuid import UUID

import asyncpg
import msgspec

from tidings.backends.postgres.connection import ConnectionPool, PooledConnection, translated
from tidings.backends.postgres.statements import load
from tidings.backends.postgres.writing import Writing, done_statement, key_text, lease_done_statement
from tidings.model.errors import LeaseLost
from tidings.ports.queue import Item, Received

_SQL = load("queue")
_decode_headers = msgspec.msgpack.Decoder(dict[str, str]).decode
_by_id = itemgetter(0)


class ClaimedQueue(Protocol):
    """The queue, as far as its claims need it."""

    async def writing(self, items: Sequence[Item]) -> Writing:
        """The items as the parameters of one statement."""
        ...

    async def give_back(self, connection: PooledConnection) -> None:
        """Return a claim's connection to the pool, which rolls back an open transaction."""
        ...

    def ended(self, claim: OpenClaim, changed: Iterable[str]) -> None:
        """The claim has ended, and the tables `changed` may have new items."""
        ...

    def returned(self, relation: str, number: int) -> None:
        """Claimed items may be back in the table, with their old ids, the lowest of which is `number`."""
        ...

    @property
    def pool(self) -> ConnectionPool:
        """The connections for statements that need only one round trip."""
        ...


class OpenClaim:
    """A claim held by an open transaction that has deleted the items: if it does not commit, they are back."""

    def __init__(
        self, queue: ClaimedQueue, relation: str, connection: PooledConnection, rows: list[asyncpg.Record]
    ) -> None:
        rows.sort(key=_by_id)
        self._queue = queue
        self._relation = relation
        self._connection: PooledConnection | None = connection
        self._rows = rows
        self.items: Sequence[Received] = received(rows)

    async def begin(self, places: Collection[int]) -> None:
        """See Claim."""
        raise ValueError("a claim without a lease cannot begin items: claim with a lease")

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        """See Claim."""
        writing = await self._queue.writing(outputs)
        connection = self._take_connection()
        if connection is None:
            raise LeaseLost("the claim has already ended")
        changed: Iterable[str] = (self._relation,)
        try:
            with translated():
                if outputs or released:
                    back = [self._rows[index] for index in released]
                    columns = [list(column) for column in zip(*back, strict=True)] if back else [[], [], [], [], []]
                    statement = done_statement(writing.relations, self._relation)
                    await connection.execute(statement, *columns, *writing.arguments)
                await connection.execute("COMMIT")
            changed = (*writing.touched, self._relation) if released else writing.touched
        finally:
            await self._queue.give_back(connection)
            self._queue.ended(self, changed)

    async def release(self) -> None:
        """See Claim."""
        connection = self._take_connection()
        if connection is None:
            return
        try:
            with translated():
                await connection.execute("ROLLBACK")
        finally:
            await self._queue.give_back(connection)
            self._queue.ended(self, (self._relation,))

    def _take_connection(self) -> PooledConnection | None:
        connection, self._connection = self._connection, None
        return connection


class LeasedClaim:
    """A claim held by a row with an end: it outlives its process, and can be done only while the lease lasts."""

    def __init__(
        self, queue: ClaimedQueue, announce: Announce, relation: str, token: UUID, rows: list[asyncpg.Record]
    ) -> None:
        # The statement returns the rows in the order of the arrays in the claim's row: `begin` counts on it.
        assert all(one[0] < other[0] for one, other in pairwise(rows))  # noqa: S101 - positions depend on it
        self._queue = queue
        self._announce = announce
        self._relation = relation
        self._token = token
        self._first: int = rows[0][0]
        self._begun: set[int] = set()
        self.items: Sequence[Received] = received(rows)

    async def begin(self, places: Collection[int]) -> None:
        """See Claim."""
        positions = [index + 1 for index in places]
        with translated():
            stands = await self._queue.pool.fetchval(_SQL["begin"], self._token, positions)
        if not stands:
            raise LeaseLost("the lease ran out before these items were begun")
        # Only after the confirmation: items whose begin was not confirmed are not handed over and go back unmarked.
        self._begun.update(positions)

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        """See Claim. One statement deletes the claim's row, so of two calls only one has an effect."""
        writing = await self._queue.writing(outputs)
        statement = lease_done_statement(writing.relations, self._relation)
        back = [index + 1 for index in released]
        begun = sorted(self._begun.intersection(back))
        try:
            with translated():
                ended = await self._queue.pool.fetchval(statement, self._token, back, begun, *writing.arguments)
        finally:
            if back:
                self._queue.returned(self._relation, self._first)
        if not ended:
            raise LeaseLost("the lease ran out before the batch was done")
        self._announce((*writing.touched, self._relation) if released else writing.touched)

    async def release(self) -> None:
        """See Claim."""
        await self.done(released=range(len(self.items)))


class Announce(Protocol):
    """Tells claimers that tables have new items."""

    def __call__(self, relations: Iterable[str]) -> None:
        """Tell the claimers of these tables."""
        ...


def received(rows: Iterable[asyncpg.Record]) -> list[Received]:
    """The items of rows with the columns id, key, headers, body, redelivered."""
    return [
        Received(key_text(key), body, {} if headers is None else _decode_headers(headers), redelivered)
        for _, key, headers, body, redelivered in rows
    ]
