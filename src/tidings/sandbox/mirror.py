"""Copies new inbox items to the sandbox's viewer, because no vendor sees them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import msgspec
from msgspec import Struct
from pyreqwest.client import Client, ClientBuilder

from tidings.model.history import InboxItem
from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.ports.inbox import Inbox

MAX_WAITING = 10_000
_BATCH = 500
_TIMEOUT = timedelta(seconds=2)


class InappItem(Struct, frozen=True):
    """An item of a user's inbox, to be shown in the viewer."""

    id: str
    user_id: str
    title: str
    body: str
    link: str | None = None


class MirroredInbox:
    """An inbox that also sends its new items to the sandbox at `url`, with the viewer's `token`.

    The copy never delays or fails the inbox. Items wait in a bounded queue, which drops its oldest; `lost` counts the
    dropped items and those that the sandbox did not take. Items of the tenants `unseen` are not copied.
    """

    def __init__(self, inbox: Inbox, url: str, token: str, unseen: frozenset[str] = frozenset()) -> None:
        self._inbox = inbox
        self._bearer = f"Bearer {token}"
        self._unseen = unseen
        self._url = f"{url.rstrip('/')}/_sandbox/inapp"
        self._waiting: deque[InappItem] = deque(maxlen=MAX_WAITING)
        self._showing: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self.lost = 0

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        """Put items into inboxes, then queue them for the viewer."""
        await self._inbox.add(tenant, items)
        if tenant in self._unseen:
            return
        self.lost += max(0, len(self._waiting) + len(items) - MAX_WAITING)
        self._waiting.extend(
            InappItem(to_text(DELIVERY_PREFIX, item.id), item.user_id, item.title, item.body, item.link)
            for item in items
        )
        if self._showing is None or self._showing.done():
            self._showing = asyncio.create_task(self._show())

    async def list(
        self, tenant: str, user_id: str, before: UUID | None, limit: int, *, archived: bool, unread_only: bool
    ) -> Sequence[InboxItem]:
        """As the inbox behind it."""
        return await self._inbox.list(tenant, user_id, before, limit, archived=archived, unread_only=unread_only)

    async def unread(self, tenant: str, user_id: str) -> int:
        """As the inbox behind it."""
        return await self._inbox.unread(tenant, user_id)

    async def remove(self, tenant: str, user_id: str, before: int) -> int:
        """As the inbox behind it."""
        return await self._inbox.remove(tenant, user_id, before)

    async def mark(self, tenant: str, user_id: str, ids: Sequence[UUID] | None, field: str, at: int | None) -> int:
        """As the inbox behind it."""
        return await self._inbox.mark(tenant, user_id, ids, field, at)

    async def close(self) -> None:
        """Stop copying; items that still wait are dropped."""
        if self._showing is not None:
            self._showing.cancel()
            await asyncio.gather(self._showing, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def _show(self) -> None:
        if self._client is None:
            self._client = ClientBuilder().timeout(_TIMEOUT).no_proxy().build()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            request = self._client.post(self._url).header("Content-Type", "application/json")
            request = request.header("Authorization", self._bearer)
            try:
                response = await request.body_bytes(msgspec.json.encode(batch)).build().send()
                taken = response.status < 300
            except Exception:
                taken = False
            if not taken:
                self.lost += len(batch)
