"""Inboxes in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from tidings.backends.postgres.connection import ConnectionPool, translated
from tidings.backends.postgres.statements import load
from tidings.model.history import InboxItem

_SQL = load("inbox")
_MARKS = frozenset({"seen_at", "read_at", "archived_at"})
_LAST_ID = UUID(int=(1 << 128) - 1)


class PostgresInbox:
    """See Inbox."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        """See Inbox."""
        if not items:
            return
        rows = sorted(
            (
                (
                    item.user_id, item.id, item.title, item.body, item.link, item.category,
                    item.created_at, item.seen_at, item.read_at, item.archived_at,
                )
                for item in items
            ),
            key=lambda row: row[:2],
        )  # fmt: skip
        with translated():
            await self._pool.execute(_SQL["add"], tenant, *zip(*rows, strict=True))

    async def list(
        self, tenant: str, user_id: str, before: UUID | None, limit: int, *, archived: bool, unread_only: bool
    ) -> Sequence[InboxItem]:
        """See Inbox."""
        where = (tenant, user_id, before or _LAST_ID, limit)
        with translated():
            if unread_only and not archived:
                rows = await self._pool.fetch(_SQL["list_unread"], *where)
            else:
                rows = await self._pool.fetch(_SQL["list"], *where, archived, unread_only)
        return [InboxItem(id, user_id, *fields) for id, *fields in rows]

    async def unread(self, tenant: str, user_id: str) -> int:
        """See Inbox."""
        with translated():
            count: int = await self._pool.fetchval(_SQL["unread"], tenant, user_id)
        return count

    async def remove(self, tenant: str, user_id: str, before: int) -> int:
        """See Inbox."""
        with translated():
            return len(await self._pool.fetch(_SQL["remove"], tenant, user_id, before))

    async def prune(self, before: int, most: int) -> int:
        """See Inbox."""
        with translated():
            deleted: int = await self._pool.fetchval(_SQL["prune"], before, most)
        return deleted

    async def trim(self, since: int, until: int, keep: int, most: int) -> int:
        """See Inbox."""
        with translated():
            deleted: int = await self._pool.fetchval(_SQL["trim"], since, until, keep, most)
        return deleted

    async def mark(self, tenant: str, user_id: str, ids: Sequence[UUID] | None, field: str, at: int | None) -> int:
        """See Inbox."""
        if field not in _MARKS:
            raise ValueError(f"{field!r} cannot be set: use one of {', '.join(sorted(_MARKS))}")
        with translated():
            rows = await self._pool.fetch(_SQL["mark"], tenant, user_id, ids, field, at)
        return len(rows)
