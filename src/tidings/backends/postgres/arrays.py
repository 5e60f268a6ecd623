"""Codecs for the array types of our statements, many times cheaper than the driver's own.

The driver inspects and writes every element separately, 30 to 50 µs per notification; these codecs join a column in C.
PostgreSQL's binary format (src/backend/utils/adt/arrayfuncs.c, array_recv): dimensions, whether
there are NULLs, the element type; of each dimension its length and first index; of each element its length (-1: NULL)
and bytes. All integers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable
from typing import Any, Generic, TypeVar
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as StoredUUID  # noqa: N811 - the driver's, cheaper to make

T = TypeVar("T")

_HEAD = struct.Struct(">5i")
_LENGTH = struct.Struct(">i")
_NULL = _LENGTH.pack(-1)
_BOOLEANS = (b"\0", b"\1")


class ArrayCodec(Generic[T]):
    """A codec for one-dimensional arrays of one type. `write` turns elements into bytes and raises for None."""

    def __init__(
        self,
        name: str,
        oids: tuple[int, int],
        write: Callable[[Iterable[T]], list[bytes]],
        read: Callable[[bytes], T],
        size: int | None = None,
    ) -> None:
        self.name = name
        self.oid, self._element = oids
        self._write = write
        self._read = read
        self._fixed = None if size is None else _LENGTH.pack(size)
        self._empty = struct.pack(">3i", 0, 0, self._element)

    def encode(self, values: Collection[T | None]) -> bytes:
        """Elements as PostgreSQL's binary array. Raises TypeError, ValueError, AttributeError or struct.error."""
        if not values:
            return self._empty
        try:
            parts = self._write(values)  # type: ignore[arg-type]  # it raises for None
        except (TypeError, AttributeError, struct.error):
            if None not in values:
                raise
            return self._encode_with_nulls(values)
        head = _HEAD.pack(1, 0, self._element, len(parts), 1)
        if self._fixed is not None:
            return head + self._fixed + self._fixed.join(parts)
        pieces = [head] * (2 * len(parts))
        pieces[0::2] = map(_LENGTH.pack, map(len, parts))
        pieces[1::2] = parts
        return head + b"".join(pieces)

    def decode(self, wire: bytes) -> list[T | None]:
        """The reverse of `encode`. Raises ValueError for an array of several dimensions."""
        dimensions = _LENGTH.unpack_from(wire)[0]
        if dimensions == 0:
            return []
        if dimensions != 1:
            raise ValueError(f"an array has {dimensions} dimensions, where one is read")
        values: list[T | None] = []
        at = _HEAD.size
        for _ in range(_LENGTH.unpack_from(wire, 12)[0]):
            length = _LENGTH.unpack_from(wire, at)[0]
            at += 4
            if length < 0:
                values.append(None)
            else:
                values.append(self._read(wire[at : at + length]))
                at += length
        return values

    def _encode_with_nulls(self, values: Collection[T | None]) -> bytes:
        some = iter(self._write([value for value in values if value is not None]))
        pieces = [_HEAD.pack(1, 1, self._element, len(values), 1)]
        for value in values:
            if value is None:
                pieces.append(_NULL)
            else:
                part = next(some)
                pieces += (_LENGTH.pack(len(part)), part)
        return b"".join(pieces)


def register(connection: Any) -> None:
    """Make `connection` send and read all arrays with these codecs.

    The driver's public `set_type_codec` refuses arrays and asks the server for the type. These types have fixed oids
    (src/include/catalog/pg_type.dat), so this calls the function behind it directly.
    """
    settings = connection._protocol.get_settings()  # noqa: SLF001 - see above
    for codec in CODECS:
        settings.add_python_codec(
            codec.oid, codec.name, "pg_catalog", [], "scalar", codec.encode, codec.decode, "binary"
        )


def _write_bytes(values: Iterable[bytes]) -> list[bytes]:
    raw = list(values)
    if None in raw:
        raise TypeError
    return raw


def _write_texts(values: Iterable[str]) -> list[bytes]:
    return [value.encode() for value in values]


def _write_uuids(values: Iterable[UUID]) -> list[bytes]:
    return [value.int.to_bytes(16, "big") for value in values]


def _write_booleans(values: Iterable[bool]) -> list[bytes]:
    return [_BOOLEANS[value] for value in values]


def _integers(name: str, oids: tuple[int, int], layout: str) -> ArrayCodec[int]:
    packing = struct.Struct(layout)

    def write(values: Iterable[int]) -> list[bytes]:
        return list(map(packing.pack, values))

    def read(wire: bytes) -> int:
        value: int = packing.unpack(wire)[0]
        return value

    return ArrayCodec(name, oids, write, read, packing.size)


CODECS: tuple[ArrayCodec[Any], ...] = (
    ArrayCodec("_bool", (1000, 16), _write_booleans, b"\1".__eq__, 1),
    ArrayCodec("_bytea", (1001, 17), _write_bytes, bytes),
    _integers("_int2", (1005, 21), ">h"),
    _integers("_int4", (1007, 23), ">i"),
    ArrayCodec("_text", (1009, 25), _write_texts, bytes.decode),
    _integers("_int8", (1016, 20), ">q"),
    ArrayCodec("_uuid", (2951, 2950), _write_uuids, StoredUUID, 16),
)
