"""Inboxes in memory."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from msgspec.structs import replace

from tidings.model.history import InboxItem
from tidings.model.ids import instant_of
from tidings.ports.users import UserKey

_MARKS = frozenset({"seen_at", "read_at", "archived_at"})


class MemoryInbox:
    """See Inbox."""

    def __init__(self) -> None:
        self._items: dict[UserKey, dict[UUID, InboxItem]] = {}

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        """See Inbox."""
        for item in items:
            self._items.setdefault((tenant, item.user_id), {}).setdefault(item.id, item)

    async def list(
        self, tenant: str, user_id: str, before: UUID | None, limit: int, *, archived: bool, unread_only: bool
    ) -> Sequence[InboxItem]:
        """See Inbox."""
        items = sorted(self._of(tenant, user_id).values(), key=lambda item: item.id, reverse=True)
        return [
            item
            for item in items
            if (before is None or item.id < before)
            and (archived or item.archived_at is None)
            and not (unread_only and item.read_at is not None)
        ][:limit]

    async def unread(self, tenant: str, user_id: str) -> int:
        """See Inbox."""
        return sum(item.read_at is None and item.archived_at is None for item in self._of(tenant, user_id).values())

    async def remove(self, tenant: str, user_id: str, before: int) -> int:
        """See Inbox."""
        items = self._of(tenant, user_id)
        old = [id for id, item in items.items() if item.created_at < before]
        for id in old:
            del items[id]
        return len(old)

    async def prune(self, before: int, most: int) -> int:
        """See Inbox."""
        old = [
            (key, id) for key, items in self._items.items() for id, item in items.items() if item.created_at < before
        ]
        for key, id in old[:most]:
            del self._items[key][id]
        return len(old[:most])

    async def trim(self, since: int, until: int, keep: int, most: int) -> int:
        """See Inbox."""
        old = []
        for key, items in self._items.items():
            if any(since <= instant_of(id) < until for id in items):
                old += [(key, id) for id in sorted(items, reverse=True)[keep:]]
        for key, id in old[:most]:
            del self._items[key][id]
        return len(old[:most])

    async def mark(self, tenant: str, user_id: str, ids: Sequence[UUID] | None, field: str, at: int | None) -> int:
        """See Inbox; an item that is marked already keeps its first instant."""
        if field not in _MARKS:
            raise ValueError(f"{field!r} cannot be set: use one of {', '.join(sorted(_MARKS))}")
        items = self._of(tenant, user_id)
        changed = 0
        for id in list(items) if ids is None else ids:
            item = items.get(id)
            if item is not None and (getattr(item, field) is None) != (at is None):
                items[id] = replace(item, **{field: at})
                changed += 1
        return changed

    def empty(self, tenant: str, user_id: str) -> None:
        """Forget a user's items."""
        self._items.pop((tenant, user_id), None)

    def _of(self, tenant: str, user_id: str) -> dict[UUID, InboxItem]:
        return self._items.get((tenant, user_id), {})
