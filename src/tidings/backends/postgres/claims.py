"""Claims: batches that belong to one claimer, as an open transaction or as a lease."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
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


class Home(Protocol):
    """What a claim needs of its queue."""

    async def writing(self, items: Sequence[Item]) -> Writing:
        """The items as one statement's parameters."""
        ...

    async def give_back(self, connection: PooledConnection) -> None:
        """Return a claim's connection; an open transaction on it is rolled back."""
        ...

    def ended(self, claim: OpenClaim, changed: Iterable[str]) -> None:
        """The claim is over, and these tables have something new."""
        ...

    def returned(self, relation: str, number: int) -> None:
        """Items that had left the table may be back in it, with numbers from this one on."""
        ...

    @property
    def pool(self) -> ConnectionPool:
        """For statements of one round trip."""
        ...


class OpenClaim:
    """A claim as an open transaction: the items are deleted in it, so they return when it does not commit."""

    def __init__(self, home: Home, relation: str, connection: PooledConnection, rows: list[asyncpg.Record]) -> None:
        rows.sort(key=_by_id)
        self._home = home
        self._relation = relation
        self._connection: PooledConnection | None = connection
        self._rows = rows
        self.items: Sequence[Received] = received(rows)

    async def begin(self, places: Collection[int]) -> None:
        """See Claim."""
        raise ValueError("without a lease nothing outside may be begun")

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        """See Claim."""
        writing = await self._home.writing(outputs)
        connection = self._take_connection()
        if connection is None:
            raise LeaseLost("the claim is over already")
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
            await self._home.give_back(connection)
            self._home.ended(self, changed)

    async def release(self) -> None:
        """See Claim."""
        connection = self._take_connection()
        if connection is None:
            return
        try:
            with translated():
                await connection.execute("ROLLBACK")
        finally:
            await self._home.give_back(connection)
            self._home.ended(self, (self._relation,))

    def _take_connection(self) -> PooledConnection | None:
        connection, self._connection = self._connection, None
        return connection


class LeasedClaim:
    """A claim as a row with an end: it outlives its process, and ends only while the lease stands."""

    def __init__(self, home: Home, announce: Announce, relation: str, token: UUID, rows: list[asyncpg.Record]) -> None:
        # The statement sorts them, as it must: the positions in the claim's row are these.
        self._home = home
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
            stands = await self._home.pool.fetchval(_SQL["begin"], self._token, positions)
        if not stands:
            raise LeaseLost("the lease ran out before these items were begun")
        # Only now: of what was not confirmed nothing was handed over, so it goes back unmarked.
        self._begun.update(positions)

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        """See Claim. One statement: of a call that is not answered and a later one only one finds the claim's row."""
        writing = await self._home.writing(outputs)
        statement = lease_done_statement(writing.relations, self._relation)
        back = [index + 1 for index in released]
        begun = sorted(self._begun.intersection(back))
        try:
            with translated():
                ended = await self._home.pool.fetchval(statement, self._token, back, begun, *writing.arguments)
        finally:
            if back:
                self._home.returned(self._relation, self._first)
        if not ended:
            raise LeaseLost("the lease ran out before the batch was done")
        self._announce((*writing.touched, self._relation) if released else writing.touched)

    async def release(self) -> None:
        """See Claim."""
        await self.done(released=range(len(self.items)))


class Announce(Protocol):
    """Tells claimers that tables have something new."""

    def __call__(self, relations: Iterable[str]) -> None:
        """Tell them."""
        ...


def received(rows: Iterable[asyncpg.Record]) -> list[Received]:
    """Rows of id, key, headers, body, redelivered as items."""
    return [
        Received(key_text(key), body, {} if headers is None else _decode_headers(headers), redelivered)
        for _, key, headers, body, redelivered in rows
    ]
