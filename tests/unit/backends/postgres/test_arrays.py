"""Our array codecs: their bytes are those that PostgreSQL sends for the driver's own arrays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidings.backends.postgres.arrays import CODECS, ArrayCodec
from tidings.backends.postgres.connection import connect

TYPES = {
    "_bool": ("boolean[]", st.booleans()),
    "_bytea": ("bytea[]", st.binary()),
    "_int2": ("smallint[]", st.integers(-(2**15), 2**15 - 1)),
    "_int4": ("integer[]", st.integers(-(2**31), 2**31 - 1)),
    "_text": ("text[]", st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    "_int8": ("bigint[]", st.integers(-(2**63), 2**63 - 1)),
    "_uuid": ("uuid[]", st.uuids()),
}
BY_NAME = {codec.name: codec for codec in CODECS}
codecs = pytest.mark.parametrize("name", sorted(BY_NAME))
on_a_server = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def columns(name: str) -> st.SearchStrategy[list[Any]]:
    return st.lists(TYPES[name][1]) | st.lists(st.none() | TYPES[name][1])


@pytest.fixture
async def plain(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection with the driver's own codecs."""
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def ours(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await connect(postgres_dsn, "tidings-test")
    yield connection
    await connection.close()


def test_every_codec_is_tried() -> None:
    assert set(BY_NAME) == set(TYPES)


@codecs
@given(data=st.data())
def test_what_is_written_is_read(name: str, data: st.DataObject) -> None:
    values = data.draw(columns(name))
    assert BY_NAME[name].decode(BY_NAME[name].encode(values)) == values


@codecs
@on_a_server
@given(data=st.data())
async def test_the_bytes_are_those_of_postgresql(
    name: str, data: st.DataObject, plain: asyncpg.Connection[asyncpg.Record]
) -> None:
    values = data.draw(columns(name))
    wire = await plain.fetchval(f"SELECT array_send($1::{TYPES[name][0]})", values)
    assert BY_NAME[name].encode(values) == wire


@codecs
@on_a_server
@given(data=st.data())
async def test_columns_pass_the_server(
    name: str, data: st.DataObject, ours: asyncpg.Connection[asyncpg.Record]
) -> None:
    values = data.draw(columns(name))
    kind = TYPES[name][0]
    assert await ours.fetchval(f"SELECT $1::{kind}", values) == values
    assert [value for (value,) in await ours.fetch(f"SELECT unnest($1::{kind})", values)] == values


async def test_an_absent_array_is_null(ours: asyncpg.Connection[asyncpg.Record]) -> None:
    assert await ours.fetchval("SELECT $1::text[] IS NULL", None)
    assert await ours.fetchval("SELECT NULL::uuid[]") is None


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("text[]", [1]), ("text[]", ["\ud800"]), ("bytea[]", ["text"]), ("bytea[]", [b"", None, 1]),
        ("integer[]", [2**31]), ("integer[]", [None, "1"]), ("bigint[]", [2**63]), ("uuid[]", ["no uuid"]),
        ("text[]", ["\0"]),
    ],
)  # fmt: skip
async def test_a_wrong_element_is_the_callers_fault(
    kind: str, wrong: list[Any], ours: asyncpg.Connection[asyncpg.Record]
) -> None:
    with pytest.raises(asyncpg.DataError):
        await ours.execute(f"SELECT $1::{kind}", wrong)
    assert await ours.fetchval("SELECT 1") == 1


async def test_an_array_of_several_dimensions_is_refused(ours: asyncpg.Connection[asyncpg.Record]) -> None:
    with pytest.raises(ValueError, match="2 dimensions"):
        await ours.fetchval("SELECT ARRAY[[1, 2], [3, 4]]")
    assert await ours.fetchval("SELECT 1") == 1


def test_a_long_column_keeps_its_lengths() -> None:
    codec: ArrayCodec[bytes] = BY_NAME["_bytea"]
    values = [bytes([place % 256]) * place for place in range(3000)]
    assert codec.decode(codec.encode(values)) == values
