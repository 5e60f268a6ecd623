"""The promises of ports/store.py about inboxes, on every adapter."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from support import unique
from support.stores import NOW, delivery, notification
from tidings.model.history import InboxItem
from tidings.model.vocabulary import Channel
from tidings.ports.store import Store


def items_for(tenant: str, count: int, user_id: str = "ann") -> list[InboxItem]:
    """Items, oldest first."""
    return [
        InboxItem(
            id=delivery(notification(tenant, NOW + number, user_id), Channel.INAPP),
            user_id=user_id,
            title=f"Order {number} \U0001f4e6",
            body="It is on its way.",
            link=None if number % 2 else "https://example.org",
            category="orders",
            created_at=NOW + number,
        )
        for number in range(count)
    ]


async def listed(store: Store, tenant: str, *, archived: bool = False, unread_only: bool = False) -> list[InboxItem]:
    return list(await store.inbox.list(tenant, "ann", None, 100, archived=archived, unread_only=unread_only))


async def test_items_come_back_whole_newest_first_in_pages(store: Store, tenant: str) -> None:
    items = items_for(tenant, 7)
    await store.inbox.add(tenant, items)
    got: list[InboxItem] = []
    while page := await store.inbox.list(
        tenant, "ann", got[-1].id if got else None, 3, archived=False, unread_only=False
    ):
        assert len(page) <= 3
        got += page
    assert got == items[::-1]


async def test_an_item_with_a_known_id_is_left_alone(store: Store, tenant: str) -> None:
    (item,) = items_for(tenant, 1)
    await store.inbox.add(tenant, [item])
    await store.inbox.mark(tenant, "ann", [item.id], "read_at", NOW + 5)
    await store.inbox.add(tenant, [replace(item, title="changed"), item])
    assert await listed(store, tenant) == [replace(item, read_at=NOW + 5)]
    await store.inbox.add(tenant, [])


@pytest.mark.parametrize("field", ["seen_at", "read_at", "archived_at"])
async def test_marks_are_set_and_taken_back(store: Store, tenant: str, field: str) -> None:
    items = items_for(tenant, 3)
    await store.inbox.add(tenant, items)
    chosen = [items[0].id, items[2].id]
    assert await store.inbox.mark(tenant, "ann", chosen, field, NOW + 9) == 2
    assert await store.inbox.mark(tenant, "ann", chosen, field, NOW + 9) == 0
    marked = {item.id: getattr(item, field) for item in await listed(store, tenant, archived=True)}
    assert marked == {items[0].id: NOW + 9, items[1].id: None, items[2].id: NOW + 9}
    assert await store.inbox.mark(tenant, "ann", chosen[:1], field, None) == 1
    assert await store.inbox.mark(tenant, "ann", chosen[:1], field, None) == 0
    assert await store.inbox.mark(tenant, "ann", None, field, NOW + 10) == 2


async def test_an_unknown_mark_is_refused(store: Store, tenant: str) -> None:
    with pytest.raises(ValueError, match="title"):
        await store.inbox.mark(tenant, "ann", None, "title", NOW)


async def test_unread_leaves_out_read_and_archived(store: Store, tenant: str) -> None:
    items = items_for(tenant, 5)
    await store.inbox.add(tenant, items)
    assert await store.inbox.unread(tenant, "ann") == 5
    await store.inbox.mark(tenant, "ann", [items[0].id], "read_at", NOW)
    await store.inbox.mark(tenant, "ann", [items[1].id], "archived_at", NOW)
    await store.inbox.mark(tenant, "ann", [items[2].id], "seen_at", NOW)
    assert await store.inbox.unread(tenant, "ann") == 3
    assert {item.id for item in await listed(store, tenant)} == {item.id for item in items} - {items[1].id}
    assert len(await listed(store, tenant, archived=True)) == 5
    assert {item.id for item in await listed(store, tenant, unread_only=True)} == {item.id for item in items[2:]}


async def test_users_and_tenants_are_apart(store: Store, tenant: str) -> None:
    other = unique("other")
    mine, bobs, foreign = items_for(tenant, 2), items_for(tenant, 2, "bob"), items_for(other, 2)
    await store.inbox.add(tenant, mine + bobs)
    await store.inbox.add(other, foreign)
    assert await listed(store, tenant) == mine[::-1]
    assert await store.inbox.mark(tenant, "ann", [bobs[0].id, foreign[0].id], "read_at", NOW) == 0
    assert await store.inbox.mark(tenant, "ann", None, "read_at", NOW) == 2
    assert (await store.inbox.unread(tenant, "bob"), await store.inbox.unread(other, "ann")) == (2, 2)
    assert await store.inbox.unread(tenant, "nobody") == 0
