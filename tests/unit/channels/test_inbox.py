"""The inbox: one write for each tenant, and a store that fails is a reason to wait."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from support_vendors import NOW, InboxVendor, MemoryInbox, id_of, tools_for
from tidings.channels.registry import build
from tidings.model.errors import SettingsError, Unavailable
from tidings.model.history import InboxItem
from tidings.model.sending import Sent, Uncertain


class OneTenantDown(MemoryInbox):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[tuple[str, int]] = []

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        self.writes.append((tenant, len(items)))
        if tenant == "down":
            raise Unavailable("the shard does not answer", retry_after=3.0)
        await super().add(tenant, items)


async def test_one_write_for_each_tenant() -> None:
    inbox, vendor = OneTenantDown(), InboxVendor()
    provider = build("inbox", {}, tools_for(inbox))
    batch = [vendor.delivery(n, tenant="down" if n % 3 == 0 else "shop") for n in range(9)]
    results = await provider.send(batch)
    assert inbox.writes == [("down", 3), ("shop", 6)]
    down = Uncertain("store_unavailable", "the shard does not answer")
    assert results == [down if n % 3 == 0 else Sent(delivered=True) for n in range(9)]


async def test_the_item_says_all() -> None:
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
