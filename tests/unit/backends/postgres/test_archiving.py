"""Archiving with faults: a kill between any two steps, and concurrent writes and reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from support import unique
from support.stores import NOW, accepted, fact, notification
from tidings.backends.memory.clock import VirtualClock
from tidings.backends.objects.folder import Folder
from tidings.backends.parquet.files import ParquetFiles
from tidings.backends.postgres import archiving
from tidings.backends.postgres.leaves import suffix
from tidings.backends.postgres.store import PostgresStore
from tidings.model.accounting import MINUTE_MS, AcceptedCount
from tidings.model.days import DAY_MS, day_of, day_text
from tidings.model.errors import Unavailable
from tidings.model.history import HistoryFilter
from tidings.model.letters import LetterFilter
from tidings.model.notification import Notification
from tidings.model.vocabulary import State
from tidings.pipeline.rounds.retention import Retention
from tidings.report.accounting import Accounting
from tidings.report.archive import Archive
from tidings.telemetry.metrics import Metrics

OLD = NOW - 10 * DAY_MS
KEPT = 5


class Killed(BaseException):
    """Stands for a kill: no code catches it."""


@pytest.fixture
async def store(postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    opened = await PostgresStore.open(postgres_dsn)
    yield opened
    await opened.close()


@pytest.fixture
def objects(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "objects")


def retention(store: PostgresStore, objects: Any, at: int = NOW, days: int = KEPT) -> Retention:
    return Retention(store, store, objects, ParquetFiles(), VirtualClock(at), Metrics(), days)


async def fill(store: PostgresStore, tenant: str, count: int = 30, at: int = OLD) -> list[Notification]:
    """Record notifications of one day. Every third one is in flight."""
    sent = [notification(tenant, at + number * 1000) for number in range(count)]
    states = [State.SENT, State.DELIVERED, State.DEFERRED]
    await store.accounts.count(uuid4(), [AcceptedCount(tenant, one.accepted_at // MINUTE_MS, 1) for one in sent[:1]])
    for number, one in enumerate(sent[1:], 1):
        await store.accounts.count(uuid4(), [AcceptedCount(tenant, one.accepted_at // MINUTE_MS, 1)])
        assert number
    await store.history.append(
        [outcome for number, one in enumerate(sent) for outcome in (accepted(one), fact(one, states[number % 3]))]
    )
    return sent


STEPS = [
    ("begin", "after"), ("seal", "before"), ("seal", "after"), ("clear", "before"), ("clear", "detach"),
]  # fmt: skip


@pytest.mark.parametrize(("step", "when"), STEPS)
async def test_a_kill_at_any_step_loses_nothing_and_the_next_round_goes_on(
    store: PostgresStore, objects: Folder, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    tenant = unique("tenant")
    sent = await fill(store, tenant)
    accounting = Accounting(store.history, store.accounts, store.days, VirtualClock(NOW))
    before = await accounting.account(tenant, NOW - 20 * DAY_MS, NOW)
    true = getattr(store.days, step)
    calls = 0

    async def dies(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if step == "clear" and calls == 1:
            return await true(*args)
        if when == "after":
            await true(*args)
        if when == "detach":
            name = f"notification_{suffix(day_of(sent[0].id))}_archived"
            await store._pool.execute(f"ALTER TABLE notification DETACH PARTITION {name} CONCURRENTLY")
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(store.days, step, dies)
        with pytest.raises(Killed):
            await retention(store, objects).once()
    store.history._leaves.forget()
    assert await accounting.account(tenant, NOW - 20 * DAY_MS, NOW) == before
    await whole(store, objects, tenant, sent)
    await store._pool.execute("UPDATE round SET until = 0")  # its lease has ended
    assert await retention(store, objects, NOW + 3_600_000).once()
    assert await accounting.account(tenant, NOW - 20 * DAY_MS, NOW) == before
    await whole(store, objects, tenant, sent)
    assert len(await store.days.archived()) == 1
    left = await store._pool.fetchval("SELECT count(*) FROM pg_class WHERE relname ~ '_archived$'")
    assert left == 0
    assert await store._pool.fetchval("SELECT count(*) FROM notification_carried") == 10


async def whole(store: PostgresStore, objects: Folder, tenant: str, sent: list[Notification]) -> None:
    """Assert that each notification is in exactly one of store and archive, with all its events."""
    archive = Archive(store.days, objects, ParquetFiles())
    for one in sent:
        stored, archived = await store.history.get(tenant, one.id), await archive.find(one.id)
        assert (stored is None) != (archived is None)
        record = stored or archived
        assert record is not None
        assert len(record.events) == 2


async def test_slices_hold_everything_once(
    store: PostgresStore, objects: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "SLICE_ROWS", 4)
    tenants = [unique("tenant") for _ in range(3)]
    sent = {tenant: await fill(store, tenant, 11) for tenant in tenants}
    orphan = notification(unique("nobody"), OLD)
    await store.history.append([fact(orphan, State.DELIVERED)])
    monkeypatch.setattr(archiving, "SLICE_BYTES", 900)
    assert await retention(store, objects).once()
    [day] = await store.days.archived()
    for tenant in tenants:
        await whole(store, objects, tenant, sent[tenant])
    rows = {kind: sum(part.rows for part in day.parts if part.kind == kind) for kind in ("notifications", "events")}
    assert rows == {"notifications": 3 * 8, "events": 3 * 8 + 1}
    assert max(part.rows for part in day.parts if part.kind == "notifications") <= 4
    firsts = [(part.first_tenant, part.first_id) for part in day.parts if part.kind == "notifications"]
    assert firsts == sorted(firsts)


async def test_remains_of_an_unfinished_attempt_are_removed(store: PostgresStore, objects: Folder) -> None:
    sent = await fill(store, unique("tenant"))
    folder = f"archive/{day_text(day_of(sent[0].id))}"
    await objects.put(f"{folder}/events-0-00099.parquet", b"half")
    assert await retention(store, objects).once()
    [day] = await store.days.archived()
    names = [name async for name in objects.list("archive/")]
    assert sorted([*(part.name for part in day.parts), f"{folder}/manifest-0.json"]) == names


async def test_accounts_hold_while_days_are_rolled_and_archived(store: PostgresStore, objects: Folder) -> None:
    tenant = unique("tenant")
    for days in range(3, 10):
        await fill(store, tenant, 9, NOW - days * DAY_MS)
    accounting = Accounting(store.history, store.accounts, store.days, VirtualClock(NOW))
    expected = await accounting.account(tenant, NOW - 20 * DAY_MS, NOW)
    assert expected.notifications.balanced
    done = asyncio.Event()

    async def look() -> int:
        looks = 0
        while not done.is_set():
            assert await accounting.account(tenant, NOW - 20 * DAY_MS, NOW) == expected
            looks += 1
        return looks

    looking = asyncio.create_task(look())
    try:
        for rounds in range(3):
            assert await retention(store, objects, NOW + rounds * 3_600_000).once()
            await store._pool.execute("UPDATE round SET until = 0")
    finally:
        done.set()
    assert await looking > 3


async def test_a_rolled_day_is_not_read_again_and_a_late_fact_is_seen_at_once(
    store: PostgresStore, objects: Folder
) -> None:
    tenant = unique("tenant")
    sent = await fill(store, tenant, 9, NOW - 4 * DAY_MS)
    accounting = Accounting(store.history, store.accounts, store.days, VirtualClock(NOW))
    assert await store.days.roll(NOW) > 0
    assert await store.days.roll(NOW) == 0, "a day without changes is not read again"
    before = await accounting.account(tenant, NOW - 5 * DAY_MS, NOW)
    assert before.notifications.resting.sent == 3
    # Change the leaf without marking the day: readers of the sums do not see it.
    leaf = suffix(day_of(sent[0].id))
    await store._pool.execute(f"DELETE FROM event_{leaf}")
    assert await accounting.account(tenant, NOW - 5 * DAY_MS, NOW) == before
    await store.history.append([fact(sent[0], State.DELIVERED)])
    after = await accounting.account(tenant, NOW - 5 * DAY_MS, NOW)
    assert (after.notifications.accepted, after.notifications.resting.delivered) == (9, 1)


async def test_listings_skip_closed_days_without_matches(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = unique("tenant")
    for days in range(2, 12):
        await fill(store, tenant, 3, NOW - days * DAY_MS)
    lost = notification(tenant, NOW - 9 * DAY_MS)
    await store.history.append([accepted(lost), fact(lost, State.DEAD)])
    await store.days.roll(NOW)
    looked: list[int] = []
    true = store.history._leaves.fetch

    async def fetch(name: str, day: int, *args: Any, **options: Any) -> Any:
        if name.startswith("find"):
            looked.append(day)
        return await true(name, day, *args, **options)

    monkeypatch.setattr(store.history._leaves, "fetch", fetch)
    page = await store.letters.find(tenant, LetterFilter(), None, 10)
    assert [letter.record.notification.id for letter in page.letters] == [lost.id]
    closed = {day for day in looked if 0 <= day < NOW // DAY_MS}
    assert closed <= {day_of(lost.id), NOW // DAY_MS - 1}
    looked.clear()
    found = await store.history.find(tenant, HistoryFilter(state=State.DEAD), None, 10)
    assert [record.notification.id for record in found.records] == [lost.id]
    assert {day for day in looked if 0 <= day < NOW // DAY_MS} <= {day_of(lost.id), NOW // DAY_MS - 1}
    # A late event is found at once.
    late = notification(tenant, NOW - 7 * DAY_MS)
    await store.history.append([accepted(late), fact(late, State.DEAD)])
    assert len((await store.letters.find(tenant, LetterFilter(), None, 10)).letters) == 2
    everything = await store.history.find(tenant, HistoryFilter(), None, 100)
    assert len(everything.records) == 3 * 10 + 2


async def test_minutes_are_folded_and_what_is_counted_late_counts_once(store: PostgresStore) -> None:
    tenant = unique("tenant")
    at = NOW - 10 * DAY_MS
    await fill(store, tenant, 9, at)
    accounting = Accounting(store.history, store.accounts, store.days, VirtualClock(NOW))
    await store.days.roll(NOW)
    assert await store._pool.fetchval("SELECT count(*) FROM accepted_count") == 0
    late = notification(tenant, at)
    await store.accounts.count(uuid4(), [AcceptedCount(tenant, at // MINUTE_MS, 1)])
    await store.history.append([accepted(late)])
    for hours in range(1, 40, 13):
        await store.days.roll(NOW + hours * 3_600_000)
        account = (await accounting.account(tenant, at - DAY_MS, NOW)).notifications
        assert (account.accepted, account.counted, account.recorded) == (10, 10, 10)


async def test_archiving_waits_for_a_slow_writer_but_not_for_a_frozen_one(
    store: PostgresStore, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = unique("tenant")
    sent = await fill(store, tenant, 3)
    writer: Any = await asyncpg.connect(postgres_dsn)
    try:
        writing = writer.transaction()
        await writing.start()
        await writer.execute(f"LOCK TABLE event_{suffix(day_of(sent[0].id))} IN ROW EXCLUSIVE MODE")
        rolling = asyncio.create_task(store.days.roll(NOW))
        await asyncio.wait([rolling], timeout=0.3)
        assert not rolling.done()
        await writing.commit()
        assert await rolling > 0
        await store.history.append([fact(sent[0], State.DELIVERED)])
        monkeypatch.setattr("tidings.backends.postgres.rolling.LOCK_TIMEOUT", "50ms")
        async with writer.transaction():
            await writer.execute(f"LOCK TABLE event_{suffix(day_of(sent[0].id))} IN ROW EXCLUSIVE MODE")
            with pytest.raises(Unavailable):
                await store.days.begin(day_of(sent[0].id), NOW)
    finally:
        await writer.close()
