"""The promises of ports/store.py about pruning, on every adapter. Each deletes a bounded number of rows."""

from __future__ import annotations

from uuid import UUID, uuid4

from msgspec.structs import replace

from support.stores import NOW, notification
from tidings.model.accounting import Gap
from tidings.model.history import InboxItem
from tidings.model.ids import new_id
from tidings.model.letters import LetterFilter, Replay, ReplayState
from tidings.ports.store import Store

HOUR = 3_600_000
_numbers = iter(range(1, 1_000_000))


def item(user_id: str, at: int, created_at: int | None = None) -> InboxItem:
    """An inbox item of a notification that was accepted at `at`."""
    id = new_id(at, 1, next(_numbers))
    return InboxItem(id, user_id, "title", "body", None, "news", at if created_at is None else created_at)


async def ids(store: Store, tenant: str, user_id: str) -> list[UUID]:
    items = await store.inbox.list(tenant, user_id, None, 10_000, archived=True, unread_only=False)
    return [one.id for one in items]


async def test_old_inbox_items(store: Store, tenant: str) -> None:
    old = [item("ann", NOW - HOUR + number) for number in range(-3, 0)]
    kept = [item("ann", NOW - HOUR), item("bob", NOW), item("ann", NOW - 9 * HOUR, created_at=NOW)]
    await store.inbox.add(tenant, [*old, *kept])
    assert await store.inbox.prune(NOW - HOUR, 2) == 2
    assert await store.inbox.prune(NOW - HOUR, 2) == 1
    assert await store.inbox.prune(NOW - HOUR, 2) == 0
    assert set(await ids(store, tenant, "ann")) == {kept[0].id, kept[2].id}
    assert await ids(store, tenant, "bob") == [kept[1].id]


async def test_inbox_items_beyond_the_newest(store: Store, tenant: str) -> None:
    many = [item("ann", NOW - number * 1000) for number in range(8)]
    few = [item("bob", NOW - number * 1000) for number in range(3)]
    quiet = [item("eve", NOW - HOUR - number * 1000) for number in range(8)]
    await store.inbox.add(tenant, [*many, *few, *quiet])
    assert await store.inbox.trim(NOW - 1000, NOW + 1, 3, 2) == 2
    assert await store.inbox.trim(NOW - 1000, NOW + 1, 3, 100) == 3
    assert await store.inbox.trim(NOW - 1000, NOW + 1, 3, 100) == 0
    assert await ids(store, tenant, "ann") == [one.id for one in many[:3]]
    assert len(await ids(store, tenant, "bob")) == 3
    assert len(await ids(store, tenant, "eve")) == 8, "she got no new item"


async def test_the_unread_are_listed_alone(store: Store, tenant: str) -> None:
    items = [item("ann", NOW - number) for number in range(5)]
    await store.inbox.add(tenant, items)
    await store.inbox.mark(tenant, "ann", [items[1].id], "read_at", NOW)
    await store.inbox.mark(tenant, "ann", [items[2].id], "archived_at", NOW)
    listed = await store.inbox.list(tenant, "ann", None, 2, archived=False, unread_only=True)
    assert [one.id for one in listed] == [items[0].id, items[3].id]
    rest = await store.inbox.list(tenant, "ann", listed[-1].id, 2, archived=False, unread_only=True)
    assert [one.id for one in rest] == [items[4].id]
    everything = await store.inbox.list(tenant, "ann", None, 9, archived=True, unread_only=True)
    assert [one.id for one in everything] == [items[0].id, items[2].id, items[3].id, items[4].id]


async def test_old_cancellations(store: Store, tenant: str) -> None:
    old = [notification(tenant, at=NOW - HOUR - 1) for _ in range(3)]
    lately_cancelled, young = notification(tenant, at=NOW - HOUR - 1), notification(tenant, at=NOW)
    for one, at in [*((each, NOW - HOUR - 1) for each in old), (lately_cancelled, NOW), (young, NOW)]:
        await store.cancellations.cancel(tenant, one.id, at)
    assert await store.cancellations.prune(NOW - HOUR, 2) == 2
    assert await store.cancellations.prune(NOW - HOUR, 2) == 1
    assert await store.cancellations.prune(NOW - HOUR, 2) == 0
    ids = [*(each.id for each in old), lately_cancelled.id, young.id]
    left = (await store.standings.look_up(notifications=ids)).cancelled
    assert left == {lately_cancelled.id, young.id}


async def test_old_gaps_that_are_confirmed(store: Store, tenant: str) -> None:
    minute = NOW // 60_000
    gaps = [
        Gap(tenant, minute - 3, 1, confirmed=True), Gap(tenant, minute - 2, 1, confirmed=True),
        Gap(tenant, minute - 4, 1), Gap(tenant, minute, 1, confirmed=True),
    ]  # fmt: skip
    await store.accounts.mark_gaps(gaps)
    assert await store.accounts.prune_gaps(minute - 1, 1) == 1
    assert await store.accounts.prune_gaps(minute - 1, 9) == 1
    assert await store.accounts.prune_gaps(minute - 1, 9) == 0
    assert await store.accounts.gaps(tenant) == [gaps[2], gaps[3]]


async def test_replays_that_ended_long_ago(store: Store, tenant: str) -> None:
    def asked() -> Replay:
        return Replay(uuid4(), tenant, LetterFilter(), 1, "key", "prefix", NOW - 9 * HOUR)

    old, young, running = asked(), asked(), asked()
    for one in (old, young, running):
        await store.replays.add(one)
    for one, at in ((old, NOW - HOUR - 1), (young, NOW)):
        assert await store.replays.cancel(tenant, one.id, at)
    assert await store.replays.prune(NOW - HOUR, 10) == 1
    assert await store.replays.prune(NOW - HOUR, 10) == 0
    assert await store.replays.get(tenant, old.id) is None
    known = await store.replays.get(tenant, young.id)
    assert known is not None
    assert known.state is ReplayState.CANCELLED
    assert await store.replays.get(tenant, running.id) == replace(running)
