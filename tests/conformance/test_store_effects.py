"""What a recorded fact causes besides its event, and what a cancellation changes, on every adapter."""

from __future__ import annotations

import asyncio

from support import unique
from support.stores import NOW, accepted, delivery, fact, notification
from tidings.model.ids import slot_of
from tidings.model.outcome import Wait
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State
from tidings.ports.store import Store


class TestSideEffects:
    async def test_a_wait_is_scheduled_once(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        wait = Wait(NOW + 5000, "deliveries.sms.normal", f"{tenant}\x00ann", b"\x01body\xff")
        deferred = fact(sent, State.DEFERRED, reason="retry", wait=wait)
        await store.history.append([accepted(sent), deferred, deferred])
        await store.history.append([deferred])
        assert await store.schedule.due(NOW, 10, 30.0) == []
        (row,) = await store.schedule.due(NOW + 5000, 10, 30.0)
        assert (row.item.topic, row.item.key, row.item.body) == (wait.topic, wait.key, wait.body)
        await store.schedule.settle([row.id])
        await store.history.append([deferred])
        assert await store.schedule.due(NOW + 100_000, 10, 30.0) == []

    async def test_concurrent_appends_schedule_a_wait_once(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        deferred = fact(sent, State.DEFERRED, wait=Wait(NOW, "t", "k", b"x"))
        await asyncio.gather(*(store.history.append([accepted(sent), deferred]) for _ in range(8)))
        assert len(await store.schedule.due(NOW + 1, 10, 30.0)) == 1

    async def test_suppress_puts_the_address_on_the_list(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        address = Address(Channel.EMAIL, "gone@example.org")
        await store.history.append(
            [accepted(sent), fact(sent, State.FAILED, Channel.EMAIL, reason="bounced", suppress=True, address=address)]
        )
        asked = [(tenant, address), (tenant, Address(Channel.EMAIL, "other@example.org")), (unique("other"), address)]
        assert (await store.standings.look_up(addresses=asked)).suppressed == {(tenant, address): "bounced"}


class TestCancellations:
    async def test_marks_are_kept_per_notification(self, store: Store, tenant: str) -> None:
        first, second = notification(tenant), notification(tenant)
        await store.history.append([accepted(first), accepted(second)])
        await store.cancellations.cancel(tenant, first.id, NOW)
        await store.cancellations.cancel(tenant, first.id, NOW + 1)
        assert (await store.standings.look_up(notifications=[first.id, second.id])).cancelled == {first.id}
        assert not (await store.standings.look_up(notifications=[])).cancelled

    async def test_a_cancellation_makes_waiting_rows_due(self, store: Store, tenant: str) -> None:
        sent, other = notification(tenant), notification(tenant)
        for waiting in (sent, other):
            wait = Wait(NOW + 3_600_000, "t", "k", waiting.id.bytes)
            await store.history.append([accepted(waiting), fact(waiting, State.DEFERRED, wait=wait)])
        await store.cancellations.cancel(tenant, sent.id, NOW)
        rows = await store.schedule.due(NOW, 10, 30.0)
        assert [row.item.body for row in rows] == [sent.id.bytes]

    async def test_a_cancellation_makes_later_rows_due(self, store: Store, tenant: str) -> None:
        sent = notification(tenant)
        await store.cancellations.cancel(tenant, sent.id, NOW)
        wait = Wait(NOW + 3_600_000, "t", "k", b"late")
        await store.history.append([accepted(sent), fact(sent, State.DEFERRED, wait=wait)])
        assert [row.item.body for row in await store.schedule.due(NOW, 10, 30.0)] == [b"late"]


def test_the_ids_of_the_examples_are_right() -> None:
    sent = notification("t")
    assert slot_of(sent.id) == 0
    assert slot_of(delivery(sent)) > 0
