"""The promises of Changes in ports/schedule.py, on every adapter, with their races."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from support import unique
from support.stores import NOW, fact, notification
from tidings.model.notification import Notification
from tidings.model.outcome import Outcome, Wait
from tidings.model.vocabulary import Reason, State
from tidings.model.wire import decode_notification, encode
from tidings.ports.schedule import Waiting
from tidings.ports.store import Store

HOUR = 3_600_000


async def waits(store: Store, tenant: str, due: int = NOW + HOUR) -> Notification:
    """A notification that waits for its send time."""
    sent = notification(tenant, send_at=due)
    await store.history.append([deferred(sent, due, Reason.SEND_AT)])
    return sent


def deferred(sent: Notification, due: int, reason: Reason) -> Outcome:
    """The outcome of waiting until `due`."""
    wait = Wait(due, "requests.normal", f"{sent.tenant}/ann", encode(replace(sent, step=sent.step + 1)))
    return Outcome(
        sent.id, sent.tenant, NOW, State.DEFERRED, step=sent.step, reason=reason, notification=sent, wait=wait
    )


def later(row: Waiting, due: int, metadata: bytes = b"{}") -> Outcome:
    """The outcome that moves `row` to `due`."""
    waiting = decode_notification(row.item.body)
    return deferred(replace(waiting, send_at=due, metadata=metadata), due, Reason.CHANGED)


async def found(store: Store, sent: Notification) -> Waiting:
    row = await store.changes.waiting(sent.tenant, sent.id)
    assert row is not None
    return row


async def test_a_change_replaces_the_waiting_row(store: Store, tenant: str) -> None:
    sent = await waits(store, tenant)
    row = await found(store, sent)
    assert (row.notification, row.due, row.item.topic) == (sent.id, NOW + HOUR, "requests.normal")
    change = later(row, NOW + 2 * HOUR, b'{"n":1}')
    assert change.wait is not None
    change = replace(change, wait=replace(change.wait, topic="requests.bulk"))
    assert await store.changes.change(row, change)
    assert await store.schedule.due(NOW + HOUR, 10, 30.0) == []
    record = await store.history.get(tenant, sent.id)
    assert record is not None
    assert (record.notification.send_at, record.notification.metadata) == (NOW + 2 * HOUR, b'{"n":1}')
    assert [(event.state, event.step, event.reason) for event in record.events] == [
        (State.DEFERRED, 0, "send_at"),
        (State.DEFERRED, 1, "changed"),
    ]
    (moved,) = await store.schedule.due(NOW + 2 * HOUR, 10, 30.0)
    assert (moved.item.topic, moved.repeated) == ("requests.bulk", False)
    assert decode_notification(moved.item.body).step == 2


async def test_a_row_can_be_changed_repeatedly(store: Store, tenant: str) -> None:
    sent = await waits(store, tenant)
    for hours in range(2, 6):
        row = await found(store, sent)
        assert await store.changes.change(row, later(row, NOW + hours * HOUR))
    record = await store.history.get(tenant, sent.id)
    assert record is not None
    assert [event.step for event in record.events] == [0, 1, 2, 3, 4]
    assert (await found(store, sent)).due == NOW + 5 * HOUR


async def test_only_a_row_that_waits_for_its_send_time_can_be_changed(store: Store, tenant: str) -> None:
    sent = notification(tenant)
    assert await store.changes.waiting(tenant, sent.id) is None
    retry = Wait(NOW + HOUR, "deliveries.sms.normal", "key", b"x")
    await store.history.append([replace(deferred(sent, NOW, Reason.SEND_AT), wait=None)])
    await store.history.append([fact(sent, State.DEFERRED, wait=retry)])
    assert await store.changes.waiting(tenant, sent.id) is None
    assert [row.item.topic for row in await store.schedule.waiting([sent.id])] == ["deliveries.sms.normal"]


async def test_another_tenants_row_is_not_visible(store: Store, tenant: str) -> None:
    sent = await waits(store, tenant)
    assert await store.changes.waiting(unique("tenant"), sent.id) is None


async def test_a_row_that_was_handed_out_cannot_be_changed(store: Store, tenant: str) -> None:
    sent = await waits(store, tenant)
    row = await found(store, sent)
    assert len(await store.schedule.due(NOW + HOUR, 10, 30.0)) == 1
    assert await store.changes.waiting(tenant, sent.id) is None
    assert not await store.changes.change(row, later(row, NOW + 2 * HOUR))
    record = await store.history.get(tenant, sent.id)
    assert record is not None
    assert (len(record.events), record.notification.send_at) == (1, NOW + HOUR)


async def test_a_cancelled_row_cannot_be_changed(store: Store, tenant: str) -> None:
    sent = await waits(store, tenant)
    row = await found(store, sent)
    await store.cancellations.cancel(tenant, sent.id, NOW)
    assert await store.changes.waiting(tenant, sent.id) is None
    assert not await store.changes.change(row, later(row, NOW + 2 * HOUR))
    assert len(await store.schedule.due(NOW, 10, 30.0)) == 1


async def test_a_cancellation_after_a_change_makes_the_new_row_due(store: Store, tenant: str) -> None:
    sent = await waits(store, tenant)
    row = await found(store, sent)
    assert await store.changes.change(row, later(row, NOW + 2 * HOUR))
    await store.cancellations.cancel(tenant, sent.id, NOW)
    assert len(await store.schedule.due(NOW, 10, 30.0)) == 1


async def test_of_two_changes_of_the_same_row_one_wins(store: Store, tenant: str) -> None:
    sent = await waits(store, tenant)
    row = await found(store, sent)
    changes = [later(row, NOW + hours * HOUR) for hours in range(2, 8)]
    done = await asyncio.gather(*(store.changes.change(row, change) for change in changes))
    assert done.count(True) == 1
    winner = changes[done.index(True)]
    assert winner.wait is not None
    assert (await found(store, sent)).due == winner.wait.due


@pytest.mark.parametrize("round", range(10))
async def test_changing_and_handing_out_a_row_never_both_succeed(store: Store, tenant: str, round: int) -> None:
    sent = await waits(store, tenant)
    row = await found(store, sent)
    change = store.changes.change(row, later(row, NOW + 2 * HOUR))
    due = store.schedule.due(NOW + HOUR, 10, 30.0)
    if round % 2:
        changed, taken = await asyncio.gather(change, due)
    else:
        taken, changed = await asyncio.gather(due, change)
    # One that meets the other's lock may find nothing to do, but the two never both succeed.
    assert not (changed and taken)
    waiting = await store.changes.waiting(tenant, sent.id)
    assert (waiting is None) == bool(taken)
    assert waiting is None or waiting.due == NOW + (2 if changed else 1) * HOUR


@pytest.mark.parametrize("round", range(10))
async def test_a_cancelled_notification_does_not_wait_whichever_write_is_first(
    store: Store, tenant: str, round: int
) -> None:
    sent = await waits(store, tenant)
    row = await found(store, sent)
    change = store.changes.change(row, later(row, NOW + 2 * HOUR))
    cancel = store.cancellations.cancel(tenant, sent.id, NOW)
    await (asyncio.gather(change, cancel) if round % 2 else asyncio.gather(cancel, change))
    assert await store.changes.waiting(tenant, sent.id) is None
    assert len(await store.schedule.due(NOW, 10, 30.0)) == 1


async def test_reading_a_waiting_row_does_not_lease_it(store: Store, tenant: str) -> None:
    first, second = await waits(store, tenant, NOW + 2 * HOUR), await waits(store, tenant, NOW + HOUR)
    rows = await store.schedule.waiting([first.id, second.id])
    assert [(row.notification, row.due) for row in rows] == [
        (second.id, NOW + HOUR),
        (first.id, NOW + 2 * HOUR),
    ]
    assert await store.schedule.waiting([]) == []
    assert len(await store.schedule.due(NOW + 2 * HOUR, 10, 30.0)) == 2
