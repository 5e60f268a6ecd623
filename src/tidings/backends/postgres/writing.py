"""Statements that put items into any number of tables at once: a batch is one round trip and one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec
from msgspec import Struct

from tidings.ports.queue import Item

_encode_headers = msgspec.msgpack.Encoder().encode
Columns = tuple[list[bytes], list[bytes], list[bytes | None]]
"""Keys, bodies, headers."""


class Writing(Struct, frozen=True):
    """Items as the parameters of one statement: each three of `arguments` are columns for one entry of `relations`."""

    relations: tuple[tuple[str, ...], ...]
    arguments: tuple[object, ...]

    @property
    def touched(self) -> frozenset[str]:
        """The tables that get items."""
        return frozenset(name for names in self.relations for name in names)


def key_bytes(key: str) -> bytes:
    """A key as stored, in a bytea: PostgreSQL's text cannot hold NUL."""
    return key.encode("utf-8", "surrogatepass")


def key_text(stored: bytes) -> str:
    """The reverse of `key_bytes`."""
    return stored.decode("utf-8", "surrogatepass")


def prepare(items: Sequence[Item], relations: Mapping[str, tuple[str, ...]]) -> Writing:
    """Group `items` by topic. `relations` maps a topic to its tables. Raises KeyError for a topic that is not in it."""
    columns: dict[str, Columns] = {}
    for item in items:
        known = columns.get(item.topic)
        if known is None:
            known = columns[item.topic] = ([], [], [])
        known[0].append(item.key.encode("utf-8", "surrogatepass"))
        known[1].append(item.body)
        known[2].append(_encode_headers(item.headers) if item.headers else None)
    # Sorted, so that the same set of topics gives the same statement text, which is prepared only once.
    topics = sorted(columns)
    return Writing(
        tuple(relations[topic] for topic in topics), tuple(column for topic in topics for column in columns[topic])
    )


@lru_cache(maxsize=1024)
def put_statement(relations: tuple[tuple[str, ...], ...]) -> str:
    """The statement that inserts items. Parameters: `Writing.arguments`."""
    return f"WITH {', '.join(_inserts(relations, 1, ''))} SELECT 1"


@lru_cache(maxsize=1024)
def done_statement(relations: tuple[tuple[str, ...], ...], own: str) -> str:
    """The statement that puts the outputs and the released items of an unleased claim of the table `own`.

    Parameters: the columns id, key, headers, body, redelivered of the released items, then `Writing.arguments`.
    """
    back = (
        f"back AS (INSERT INTO queue.{quoted(own)} (id, key, headers, body, redelivered) "  # noqa: S608 - quoted
        "SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[], $5::boolean[]))"
    )
    return f"WITH {', '.join([back, *_inserts(relations, 6, '')])} SELECT 1"


@lru_cache(maxsize=1024)
def lease_done_statement(relations: tuple[tuple[str, ...], ...], own: str) -> str:
    """The statement that ends a leased claim of the table `own` and puts its outputs, if the lease still lasts.

    Returns the number of claims ended: 1 or 0. Parameters: the token, the positions (from 1) of the released items,
    those of them that were begun, then `Writing.arguments`.
    """
    ended = (
        "ended AS (DELETE FROM queue.claim WHERE token = $1 AND until > clock_timestamp() "
        "RETURNING ids, keys, headers, bodies, marks)"
    )
    back = (
        f"back AS (INSERT INTO queue.{quoted(own)} (id, key, headers, body, redelivered) "  # noqa: S608 - quoted
        "SELECT ids[place], keys[place], headers[place], bodies[place], marks[place] OR place = ANY ($3::integer[]) "
        "FROM ended, unnest($2::integer[]) AS place)"
    )
    inserts = _inserts(relations, 4, " WHERE EXISTS (SELECT FROM ended)")
    return f"WITH {', '.join([ended, back, *inserts])} SELECT count(*) FROM ended"  # noqa: S608 - quoted


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _inserts(relations: tuple[tuple[str, ...], ...], first: int, condition: str) -> list[str]:
    return [
        f"put_{place}_{number} AS (INSERT INTO queue.{quoted(name)} (key, body, headers) SELECT * FROM "  # noqa: S608 - quoted
        f"unnest(${at}::bytea[], ${at + 1}::bytea[], ${at + 2}::bytea[]){condition})"
        for place, names in enumerate(relations)
        for at in [first + 3 * place]
        for number, name in enumerate(names)
    ]
