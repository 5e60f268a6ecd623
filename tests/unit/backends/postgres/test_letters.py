"""Dead letters are found through an index by tenant, however many others have; by category through another one."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from support import unique
from support.stores import NOW, accepted, fact, notification
from tidings.backends.postgres.leaves import CARRIED, statement
from tidings.backends.postgres.store import PostgresStore
from tidings.model.letters import LetterFilter
from tidings.model.vocabulary import State

CONDITIONS = [[8, 9], 1, 255, None, None, None]


@pytest.mark.parametrize(("name", "index"), [("find", "letter_carried_pkey"), ("find_of_category", "letter_carried_")])
async def test_they_are_found_through_their_index_alone(postgres_dsn: str, name: str, index: str) -> None:
    more = ["news"] if name == "find_of_category" else []
    connection = await asyncpg.connect(postgres_dsn)
    try:
        plan = await connection.fetch(
            f"EXPLAIN {statement(name, CARRIED, 'letters')}", "shop", UUID(int=0), UUID(int=1 << 127), 1000,
            *CONDITIONS, *more,
        )  # fmt: skip
    finally:
        await connection.close()
    lines = [row[0] for row in plan]
    assert any(index in line for line in lines), lines
    assert not any("Seq Scan" in line for line in lines), lines


async def test_a_small_tenant_and_a_rare_category_read_nothing_of_the_others(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One query that reads a few rows finds them among many of other tenants and categories."""
    monkeypatch.setattr("tidings.backends.postgres.letters._STRETCH", 5)
    monkeypatch.setattr("tidings.backends.postgres.letters._MOST_STRETCHES", 1)
    store = await PostgresStore.open(postgres_dsn)
    try:
        large, small = unique("large"), unique("small")
        for owner, category, at in (
            (small, "orders", 0),
            (large, "orders", 1),
            *((large, "news", n) for n in range(2, 40)),
        ):
            sent = notification(owner, NOW + at, category=category)
            await store.history.append([accepted(sent), fact(sent, State.DEAD)])
        page = await store.letters.find(small, LetterFilter(), None, 10)
        assert (len(page.letters), page.cursor) == (1, None)
        page = await store.letters.find(large, LetterFilter(category="orders"), None, 10)
        assert (len(page.letters), page.cursor) == (1, None)
        page = await store.letters.find(large, LetterFilter(category="nothing"), None, 10)
        assert (len(page.letters), page.cursor) == (0, None)
    finally:
        await store.close()


async def test_a_letter_that_came_before_its_notification_is_found_by_its_category(postgres_dsn: str) -> None:
    store = await PostgresStore.open(postgres_dsn)
    try:
        tenant = unique("tenant")
        sent = notification(tenant, category="orders")
        await store.history.append([fact(sent, State.DEAD)])
        await store.history.append([accepted(sent)])
        for category, count in (("orders", 1), ("news", 0)):
            page = await store.letters.find(tenant, LetterFilter(category=category), None, 10)
            assert len(page.letters) == count
    finally:
        await store.close()
