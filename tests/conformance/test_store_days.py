"""The promises of ports/days.py (closed days, archive), on every adapter, with real files."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from support import unique
from support.stores import NOW, accepted, delivery, fact, notification
from tidings.backends.memory.clock import VirtualClock
from tidings.backends.objects.folder import Folder
from tidings.backends.parquet.files import ParquetFiles
from tidings.model.accounting import MINUTE_MS, AcceptedCount, Gap
from tidings.model.days import DAY_MS, day_of
from tidings.model.history import HistoryFilter, NotificationRecord
from tidings.model.notification import Notification
from tidings.model.outcome import Outcome, Wait
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State
from tidings.pipeline.rounds.retention import Retention
from tidings.policy.stuck import in_flight
from tidings.ports.store import Store
from tidings.report.accounting import Accounting, AccountView
from tidings.report.archive import Archive
from tidings.telemetry.metrics import Metrics

KEPT = 5
OLD = NOW - 10 * DAY_MS
DICE = random.Random(7)


class House:
    """A store and the other parts that retention needs. Days older than KEPT are archived."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.objects = Folder(folder)
        self.clock = VirtualClock(NOW)
        self.metrics = Metrics()
        self.archive = Archive(store.days, self.objects, ParquetFiles())
        self._one: Retention | None = None
        self.accounting = Accounting(store.history, store.accounts, store.days, self.clock)

    def retention(self, days: int = KEPT) -> Retention:
        """A retention, as one process has it."""
        return Retention(self.store, self.store, self.objects, ParquetFiles(), self.clock, self.metrics, days)

    async def round(self) -> None:
        """Make a round."""
        self._one = self._one or self.retention()
        assert await self._one.once()

    async def account(self, tenant: str, since: int = NOW - 20 * DAY_MS, until: int = NOW + DAY_MS) -> AccountView:
        return await self.accounting.account(tenant, since, until)

    async def send(self, *outcomes: Outcome) -> None:
        """Record these outcomes and count the accepted notifications among them."""
        counts: Counter[tuple[str, int]] = Counter(
            (one.tenant, one.notification.accepted_at // MINUTE_MS) for one in outcomes if one.notification is not None
        )
        await self.store.accounts.count(
            uuid4(), [AcceptedCount(tenant, minute, count) for (tenant, minute), count in counts.items()]
        )
        assert await self.store.history.append(outcomes) == {}


@pytest.fixture
def house(store: Store, tmp_path: Path) -> House:
    return House(store, tmp_path / "objects")


def planned(of: Notification, channel: Channel) -> Outcome:
    """The outcome `pending` that the notification's row holds."""
    return Outcome(
        delivery(of, channel), of.tenant, of.accepted_at, State.PENDING, attempt=1, address=Address(channel, "x")
    )


def drawn(tenant: str, at: int) -> list[Outcome]:
    """A random notification and its outcomes."""
    sent = notification(tenant, at, DICE.choice(["ann", "bob", None]), metadata=b'{"text":"a\\nb,\\"c\\""}')
    facts = [Outcome(sent.id, tenant, at, State.PENDING, notification=sent)]
    for channel in DICE.sample(list(Channel), DICE.randrange(3)):
        if DICE.random() < 0.7:
            facts.append(planned(sent, channel))
        facts += [
            fact(
                sent, DICE.choice(list(State)), channel, attempt=DICE.randrange(1, 4), step=DICE.randrange(2),
                at=at + DICE.randrange(100_000), reason=DICE.choice(["", "busy"]),
                detail=DICE.choice(["", 'a "word", and\nanother\r\n\t\\x', "Größe 📦", "''", "NULL"]),
            )
            for _ in range(DICE.randrange(1, 3))
        ]  # fmt: skip
    return facts


def id_of(facts: list[Outcome]) -> UUID:
    notification = facts[0].notification
    assert notification is not None
    return notification.id


def sums(account: AccountView) -> Any:
    """The sums that must not change when days are rolled up and archived."""
    return account.notifications, account.deliveries, account.tally


async def everything(house: House, tenant: str) -> dict[UUID, NotificationRecord]:
    """All records of the tenant in the store."""
    found: dict[UUID, NotificationRecord] = {}
    before = None
    while True:
        page = await house.store.history.find(tenant, HistoryFilter(), before, 100)
        found |= {record.notification.id: record for record in page.records}
        if page.cursor is None:
            return found
        before = page.cursor


async def test_nothing_is_lost_and_the_accounts_stay_the_same(house: House, tenant: str) -> None:
    other = unique("other")
    for number in range(120):
        await house.send(*drawn(DICE.choice([tenant, other]), OLD + number * 500_000))
    await house.send(*drawn(tenant, NOW))
    before = {owner: await everything(house, owner) for owner in (tenant, other)}
    accounts = {owner: sums(await house.account(owner)) for owner in before}
    retention = house.retention()
    for _ in range(3):
        assert await retention.once()
        assert {owner: sums(await house.account(owner)) for owner in before} == accounts
    assert accounts[tenant][0].balanced
    days = await house.archive.list()
    assert [one.day for one in days] == sorted({day_of(id) for ids in before.values() for id in ids} - {NOW // DAY_MS})
    for owner, records in before.items():
        left = await everything(house, owner)
        assert left.keys() < records.keys()
        for id, record in records.items():
            archived = await house.archive.find(id)
            assert (archived is None) == (id in left)
            assert (archived or left[id]) == record
            assert await house.archive.find(id, unique("stranger")) is None
        assert all(_flies(left[id]) for id in left if day_of(id) < NOW // DAY_MS - KEPT)


def _flies(record: NotificationRecord) -> bool:
    return bool(in_flight(record))


async def test_a_waiting_notification_is_carried_then_sent_then_archived(house: House, tenant: str) -> None:
    waiting, done = notification(tenant, OLD), notification(tenant, OLD + 5)
    wait = Wait(NOW + DAY_MS, "deliveries.sms.normal", "k", b"x")
    await house.send(
        accepted(waiting), accepted(done), fact(waiting, State.DEFERRED, wait=wait), fact(done, State.SENT)
    )
    await house.round()
    assert list(await everything(house, tenant)) == [waiting.id]
    assert await house.archive.find(done.id) is not None
    assert await house.store.history.get(tenant, waiting.id) is not None
    (row,) = await house.store.schedule.waiting([waiting.id])
    assert row.due == NOW + DAY_MS
    before = (await house.account(tenant)).notifications
    assert (before.accepted, before.in_flight.total, before.resting.sent, before.balanced) == (2, 1, 1, True)
    # It is sent. A receipt about an archived notification comes too late.
    late = fact(waiting, State.SENT, attempt=2, at=NOW)
    assert await house.store.history.append([late]) == {}
    assert await house.store.history.append([fact(done, State.DELIVERED)]) == {"archived": 1}
    assert await house.store.history.append([accepted(done), fact(done, State.SENT)]) == {"archived": 2}
    assert await house.store.history.attempted([(late.id, 2)]) == {(late.id, 2)}
    await house.round()
    assert await house.store.history.get(tenant, waiting.id) is not None, "receipts may still come"
    await house.clock.advance(4 * DAY_MS / 1000)
    await house.round()
    assert await everything(house, tenant) == {}
    record = await house.archive.find(waiting.id)
    assert record is not None
    assert (record.notification, record.events[-1].state) == (waiting, State.SENT)
    after = (await house.account(tenant)).notifications
    assert (after.accepted, after.recorded, after.resting.sent, after.balanced) == (2, 2, 2, True)


async def test_a_day_with_unrecorded_accepted_notifications_is_not_archived(house: House, tenant: str) -> None:
    queued = notification(tenant, OLD)
    await house.store.accounts.count(uuid4(), [AcceptedCount(tenant, OLD // MINUTE_MS, 1)])
    other = notification(tenant, OLD + 1)
    await house.store.history.append([accepted(other), fact(other, State.SENT)])
    await house.store.accounts.count(uuid4(), [AcceptedCount(tenant, OLD // MINUTE_MS, 1)])
    await house.round()
    assert list(await house.archive.list()) == []
    await house.store.accounts.mark_gaps([Gap(tenant, OLD // MINUTE_MS, 1)])
    await house.round()
    assert list(await house.archive.list()) == [], "the notification may still be in a queue"
    await house.store.history.append([accepted(queued), fact(queued, State.SENT)])
    await house.store.accounts.mark_gaps([Gap(tenant, OLD // MINUTE_MS, 0)])
    await house.round()
    assert len(await house.archive.list()) == 1
    assert await house.archive.find(queued.id) is not None


async def test_missing_notifications_stay_missing_in_the_archive(house: House, tenant: str) -> None:
    sent = notification(tenant, OLD)
    await house.send(accepted(sent), fact(sent, State.SENT))
    await house.store.accounts.count(uuid4(), [AcceptedCount(tenant, OLD // MINUTE_MS, 2)])
    await house.store.accounts.mark_gaps([Gap(tenant, OLD // MINUTE_MS, 2, confirmed=True)])
    before = await house.account(tenant)
    assert (before.notifications.accepted, before.notifications.missing, before.notifications.balanced) == (3, 2, False)
    await house.round()
    assert len(await house.archive.list()) == 1
    assert sums(await house.account(tenant)) == sums(before)
    assert await house.store.accounts.gaps() == []


async def test_a_period_that_cuts_an_archived_day_counts_the_whole_day(house: House, tenant: str) -> None:
    sent = notification(tenant, OLD)
    await house.send(accepted(sent), fact(sent, State.SENT))
    await house.round()
    account = await house.account(tenant, OLD + 60_000, OLD + 120_000)
    assert account.notifications.accepted == 1
    assert (account.since[-14:], account.until[-14:]) == ("T00:00:00.000Z"[-14:], "T00:00:00.000Z"[-14:])


async def test_a_damaged_object_prevents_archiving_the_day(house: House, tenant: str) -> None:
    sent = notification(tenant, OLD)
    await house.send(accepted(sent), fact(sent, State.SENT))
    true_get = house.objects.get

    async def get(name: str) -> bytes | None:
        body = await true_get(name)
        return None if body is None else body[:-7] + b"\0" * 7

    house.objects.get = get  # type: ignore[method-assign]
    await house.round()
    assert list(await house.archive.list()) == []
    assert await house.store.history.get(tenant, sent.id) is not None
    house.objects.get = true_get  # type: ignore[method-assign]
    await house.round()
    assert await house.archive.find(sent.id) is not None


async def test_nothing_is_archived_if_retention_is_off(house: House, tenant: str) -> None:
    sent = notification(tenant, OLD)
    await house.send(accepted(sent), fact(sent, State.SENT))
    assert await house.retention(0).once()
    assert list(await house.archive.list()) == []


async def test_one_process_at_a_time_makes_the_rounds(house: House) -> None:
    assert await house.retention().once()
    assert not await house.retention().once()


async def test_a_fact_recorded_while_its_day_is_archived_is_not_lost(house: House, tenant: str) -> None:
    sent = notification(tenant, OLD)
    await house.send(accepted(sent), fact(sent, State.SENT))
    days = house.store.days
    assert await days.begin(day_of(sent.id), NOW) is None
    await house.store.history.append([fact(sent, State.DELIVERED)])
    assert not await days.seal(day_of(sent.id), [], NOW)
    assert await house.store.history.get(tenant, sent.id) is not None
    await house.round()
    record = await house.archive.find(sent.id)
    assert record is not None
    assert record.events[-1].state is State.DELIVERED
