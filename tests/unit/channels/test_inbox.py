"""The inbox: one write for each tenant, and a failing store leaves its deliveries uncertain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from support.vendors import NOW, InboxVendor, MemoryInbox, id_of, tools_for
from tidings.channels.inapp.inbox import WRITE_S, WRITES, Inbox
from tidings.channels.parallel import NOT_BEGUN
from tidings.channels.registry import build
from tidings.model.errors import SettingsError, Unavailable
from tidings.model.history import InboxItem
from tidings.model.sending import Retry, Sent, Uncertain


class OneTenantDown(MemoryInbox):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[tuple[str, int]] = []

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        self.writes.append((tenant, len(items)))
        if tenant == "down":
            raise Unavailable("the shard does not answer", retry_after_s=3.0)
        await super().add(tenant, items)


async def test_one_write_for_each_tenant() -> None:
    inbox, vendor = OneTenantDown(), InboxVendor()
    provider = build("inbox", {}, tools_for(inbox))
    batch = [vendor.delivery(n, tenant="down" if n % 3 == 0 else "shop") for n in range(9)]
    results = await provider.send(batch)
    assert inbox.writes == [("down", 3), ("shop", 6)]
    down = Uncertain("store_unavailable", "the shard does not answer")
    assert results == [down if n % 3 == 0 else Sent(delivered=True) for n in range(9)]


class Slow(MemoryInbox):
    """An inbox whose writes never end for tenants with names that begin with `slow`."""

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        if tenant.startswith("slow"):
            await asyncio.Event().wait()
        await super().add(tenant, items)


async def test_a_hanging_write_affects_only_its_own_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.channels.inapp.inbox.WRITE_S", 0.05)
    vendor = InboxVendor()
    batch = [vendor.delivery(n, tenant="slow" if n == 0 else "shop") for n in range(3)]
    results = await build("inbox", {}, tools_for(Slow())).send(batch)
    assert results == [Uncertain("store_unavailable", "no answer within 0.05 s"), *[Sent(delivered=True)] * 2]


async def test_deliveries_whose_write_was_not_begun_are_not_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.channels.inapp.inbox.WRITE_S", 0.05)
    inbox, vendor = Slow(), InboxVendor()
    batch = [vendor.delivery(n, tenant=f"slow-{n}" if n < WRITES else "shop") for n in range(WRITES + 2)]
    results = await build("inbox", {}, tools_for(inbox)).send(batch)
    assert [type(result) for result in results] == [Uncertain] * WRITES + [Retry] * 2
    assert results[-1] == NOT_BEGUN
    assert inbox.items == {}


async def test_an_error_affects_only_its_own_tenant() -> None:
    class Wrong(MemoryInbox):
        async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
            if tenant == "wrong":
                raise ValueError("not a text")
            await super().add(tenant, items)

    vendor = InboxVendor()
    batch = [vendor.delivery(n, tenant="wrong" if n == 0 else "shop") for n in range(3)]
    results = await build("inbox", {}, tools_for(Wrong())).send(batch)
    assert results == [Uncertain("provider_error", "ValueError('not a text')"), *[Sent(delivered=True)] * 2]


def test_a_call_has_time_for_its_last_write() -> None:
    assert Inbox.timeout_s > 2 * WRITE_S


async def test_the_item_has_all_fields() -> None:
    inbox = MemoryInbox()
    delivery = InboxVendor().delivery(1, to="ada", link="https://shop.example/1", category="orders")
    await build("inbox", {}, tools_for(inbox)).send([delivery])
    assert inbox.items[("shop", id_of(1))] == InboxItem(
        id=id_of(1),
        user_id="ada",
        title="Your order",
        body="Hello",
        link="https://shop.example/1",
        category="orders",
        created_at=NOW,
    )


def test_without_a_store_there_is_no_inbox() -> None:
    with pytest.raises(SettingsError, match="needs a store"):
        build("inbox", {}, tools_for())
