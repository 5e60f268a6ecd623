"""Leaves of the history: locks and plans of statements with a year of days, and days without leaves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from support import unique
from support.stores import NOW, accepted, delivery, fact, notification
from tidings.backends.postgres.leaves import CARRIED, LAST_ID, segments, statement
from tidings.backends.postgres.store import PostgresStore
from tidings.model.days import DAY_MS
from tidings.model.errors import Unavailable
from tidings.model.history import HistoryFilter
from tidings.model.letters import LetterFilter
from tidings.model.outcome import Wait
from tidings.model.vocabulary import State

TODAY = NOW // DAY_MS
YEAR = 400
MOST_LOCKS = 20
"""The most tables and indexes that one statement may lock: those of its leaf, and small ones."""


@pytest.fixture
async def store(postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    opened = await PostgresStore.open(postgres_dsn, 1)
    yield opened
    await opened.close()


@pytest.fixture
async def connection(postgres_dsn: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(postgres_dsn)
    yield opened
    await opened.close()


async def make_days(connection: Any, count: int) -> None:
    """Create the leaves of the `count` days before today."""
    for first in range(TODAY - count, TODAY, 50):
        await connection.execute("SELECT ensure_partitions($1, 50)", first)


async def test_nothing_locks_or_plans_over_the_other_days(
    store: PostgresStore, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_days(connection, YEAR)
    tenant = unique("tenant")
    sent = [notification(tenant, NOW - 5 * DAY_MS + number) for number in range(40)]
    lost = notification(tenant, NOW - 5 * DAY_MS, category="news")
    pid = await store._pool.fetchval("SELECT pg_backend_pid()")
    counted: dict[str, int] = {}
    monkeypatch.setattr("asyncpg.pool.Pool.fetch", counting(connection, pid, counted))
    facts = [outcome for one in sent for outcome in (accepted(one), fact(one, State.SENT))]
    wait = Wait(NOW, "deliveries.sms.normal", "k", b"x")
    await store.history.append(
        [*facts, accepted(lost), fact(lost, State.DEFERRED, wait=wait), fact(lost, State.DEAD, attempt=2)]
    )
    assert await store.history.get(tenant, sent[0].id) is not None
    assert len(await store.history.attempted([(delivery(one), 1) for one in sent])) == 40
    assert len((await store.history.find(tenant, HistoryFilter(user_id="ann"), sent[-1].id, 10)).records) == 10
    assert len(await store.history.get_many([one.id for one in sent])) == 40
    assert (
        sum(one.count for one in await store.history.states(sent[0].accepted_at // 60_000, NOW // 60_000, tenant)) == 41
    )
    assert await store.history.tally(tenant, NOW - 5 * DAY_MS, NOW - 4 * DAY_MS)
    assert len((await store.letters.find(tenant, LetterFilter(category="news"), None, 10)).letters) == 1
    assert await store.changes.waiting(tenant, lost.id) is None
    await store.cancellations.cancel(tenant, lost.id, NOW)
    assert len(counted) >= 8, counted
    assert {name: count for name, count in counted.items() if count > MOST_LOCKS} == {}


def counting(connection: Any, pid: int, counted: dict[str, int]) -> Any:
    """A `Pool.fetch` that counts the tables and indexes that each statement locks, by its first words."""

    async def fetch(pool: Any, query: str, *args: object, **_: object) -> Any:
        async with pool.acquire() as used, used.transaction():
            rows = await used.fetch(query, *args)
            held = await connection.fetchval(
                "SELECT count(*) FROM pg_locks WHERE pid = $1 AND locktype = 'relation'", pid
            )
            name = " ".join(query.split())[:60]
            counted[name] = max(counted.get(name, 0), held)
            return rows

    return fetch


@pytest.mark.parametrize("name", ["get", "events_of", "attempted", "find_of_user", "append_new", "append"])
async def test_a_plan_has_the_tables_of_one_day(connection: Any, name: str) -> None:
    await make_days(connection, 50)
    prepared = await connection.prepare(statement(name, TODAY - 5))
    blanks = [
        {"uuid": UUID(int=0), "text": "", "int4": 0, "int8": 0}.get(one.name) for one in prepared.get_parameters()
    ]
    plan = str(await prepared.explain(*blanks))
    assert plan.count("Relation Name") <= 4, plan


class TestSegments:
    def test_days_come_newest_first_with_carried_segments_between_them(self) -> None:
        low, high = 2 * DAY_MS << 80, 9 * DAY_MS << 80
        found = segments([3, 4, 6], low, high)
        assert [(one.day, one.low.int >> 80, one.high.int >> 80) for one in found] == [
            (CARRIED, 7 * DAY_MS, 9 * DAY_MS), (6, 6 * DAY_MS, 7 * DAY_MS), (CARRIED, 5 * DAY_MS, 6 * DAY_MS),
            (4, 4 * DAY_MS, 5 * DAY_MS), (3, 3 * DAY_MS, 4 * DAY_MS), (CARRIED, 2 * DAY_MS, 3 * DAY_MS),
        ]  # fmt: skip

    def test_segments_are_cut_to_the_wanted_range(self) -> None:
        at = (3 * DAY_MS + 5) << 80
        assert [(one.day, one.low.int, one.high.int) for one in segments([3], at, at + 7)] == [(3, at, at + 7)]
        assert segments([3], at, at) == []
        assert segments([], 0, 5)[0].day == CARRIED

    def test_every_id_lies_in_one_segment(self) -> None:
        found = segments([1, 2, 5], 0, LAST_ID)[::-1]
        assert found[0].low.int == 0
        assert found[-1].high.int == LAST_ID
        assert all(one.high == other.low for one, other in itertools.pairwise(found))


class TestDaysThatAreNotThere:
    async def test_a_fact_creates_the_leaves_of_its_day(self, store: PostgresStore, connection: Any) -> None:
        sent = notification(unique("tenant"), NOW - 50 * DAY_MS)
        assert await store.history.append([accepted(sent), fact(sent, State.SENT)]) == {}
        assert await store.history.get(sent.tenant, sent.id) is not None
        assert await connection.fetchval("SELECT state FROM day WHERE number = $1", TODAY - 50) == "open"

    @pytest.mark.parametrize(("days", "why"), [(-401, "too_old"), (9, "too_far"), (40_000, "too_far")])
    async def test_a_fact_of_an_impossible_day_is_counted_and_the_rest_is_written(
        self, store: PostgresStore, days: int, why: str
    ) -> None:
        tenant = unique("tenant")
        good, bad = notification(tenant), notification(tenant, NOW + days * DAY_MS)
        outcomes = [accepted(good), accepted(bad), fact(bad, State.SENT), fact(good, State.SENT)]
        assert await store.history.append(outcomes) == {why: 2}
        assert await store.history.get(tenant, bad.id) is None
        record = await store.history.get(tenant, good.id)
        assert record is not None
        assert len(record.events) == 2

    async def test_a_batch_of_several_days_is_one_transaction(
        self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tenant = unique("tenant")
        days = [notification(tenant, NOW - number * DAY_MS) for number in range(3)]
        outcomes = [outcome for one in days for outcome in (accepted(one), fact(one, State.DEAD))]
        await store.history.append([*outcomes, *outcomes])
        await store.history.append(outcomes)
        assert [
            record.notification.id for record in (await store.history.find(tenant, HistoryFilter(), None, 9)).records
        ] == [one.id for one in days]
        assert len((await store.letters.find(tenant, LetterFilter(), None, 9)).letters) == 3

    async def test_ids_of_impossible_instants_are_unknown(self, store: PostgresStore) -> None:
        for id in (UUID(int=0), UUID(int=LAST_ID), UUID(int=LAST_ID & ~0xFF)):
            assert await store.history.get("acme", id) is None
            assert await store.history.attempted([(id, 1)]) == set()
            assert await store.history.get_many([id]) == []
        page = await store.history.find("acme", HistoryFilter(since=-(1 << 60), until=1 << 60), UUID(int=LAST_ID), 5)
        assert page.records == ()

    async def test_processes_can_create_leaves_at_the_same_time(self, postgres_dsn: str) -> None:
        at = (TODAY + 1000) * DAY_MS
        stores = [await PostgresStore.open(postgres_dsn, 2) for _ in range(4)]
        try:
            made = await asyncio.gather(*(one.history.maintain(at) for one in stores))
            assert sum(made) == 3 * 9
        finally:
            for one in stores:
                await one.close()

    async def test_a_coming_day_that_is_locked_is_left_and_a_needed_one_raises(
        self, store: PostgresStore, connection: Any
    ) -> None:
        at = (TODAY + 1000) * DAY_MS
        await connection.execute("ALTER FUNCTION ensure_partitions(bigint, integer) SET lock_timeout = '50ms'")
        async with connection.transaction():
            await connection.execute("LOCK TABLE event IN SHARE UPDATE EXCLUSIVE MODE")  # the lock of a long ANALYZE
            with pytest.raises(Unavailable):
                await store.history.maintain(at)
        assert await store.history.maintain(at) == 3 * 9
