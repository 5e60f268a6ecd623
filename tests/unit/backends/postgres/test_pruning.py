"""Deleting old rows waits for nobody and is bounded, whatever else the database does."""

from __future__ import annotations

import re
from uuid import UUID

import asyncpg
import pytest

from tidings.backends.postgres.statements import FOLDER, load
from tidings.backends.postgres.store import PostgresStore
from tidings.model.accounting import AcceptedCount

FILES = sorted(entry.name.removesuffix(".sql") for entry in FOLDER.iterdir() if entry.name.endswith(".sql"))
PRUNING = [
    pytest.param(text, id=f"{file}.{name}")
    for file in FILES
    for name, text in load(file).items()
    if name.startswith(("prune", "trim"))
]


def test_there_is_something_to_check() -> None:
    assert len(PRUNING) >= 8


@pytest.mark.parametrize("statement", PRUNING)
def test_each_deletes_a_bounded_number_of_rows_that_nobody_holds(statement: str) -> None:
    assert re.search(r"LIMIT (\$\d|\d+) FOR UPDATE (OF \w+ )?SKIP LOCKED", statement)


async def test_a_row_that_somebody_holds_is_left_for_the_next_time(postgres_dsn: str) -> None:
    store, counter = await PostgresStore.open(postgres_dsn), UUID(int=1)
    holder = await asyncpg.connect(postgres_dsn)
    try:
        await store.accounts.count(counter, [AcceptedCount("held", minute, 1) for minute in (1, 2)])
        async with holder.transaction():
            await holder.execute("SELECT 1 FROM accepted_count WHERE minute = 1 FOR UPDATE")
            assert await store.accounts.prune_counts(3, 10) == 1
        assert await store.accounts.prune_counts(3, 10) == 1
    finally:
        await holder.close()
        await store.close()
