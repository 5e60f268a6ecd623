"""The users' inboxes.

Every method that takes a `tenant` sees only that tenant's rows. Adapters raise `Unavailable` when the database does not
answer; unless stated otherwise, nothing was written then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from tidings.model.history import InboxItem


class Inbox(Protocol):
    """The users' inboxes."""

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        """Put items into inboxes. An item whose id is already in the inbox is left as it is."""
        ...

    async def list(
        self, tenant: str, user_id: str, before: UUID | None, limit: int, *, archived: bool, unread_only: bool
    ) -> Sequence[InboxItem]:
        """The user's items with ids below `before`, newest first. Archived items are included only if `archived`."""
        ...

    async def unread(self, tenant: str, user_id: str) -> int:
        """The number of the user's items that are neither read nor archived."""
        ...

    async def remove(self, tenant: str, user_id: str, before: int) -> int:
        """Delete the user's items that were created before `before`; returns how many."""
        ...

    async def mark(self, tenant: str, user_id: str, ids: Sequence[UUID] | None, field: str, at: int | None) -> int:
        """Set `field` of these items to `at`, or clear it if `at` is None; returns how many items changed.

        `field` is `seen_at`, `read_at` or `archived_at`. With `ids` None, all of the user's items are meant. A field
        that is already set keeps its first instant.
        """
        ...


class SweptInbox(Inbox, Protocol):
    """Inboxes from which the rounds delete old items."""

    async def prune(self, before: int, most: int) -> int:
        """Delete up to `most` items of any user that were created before `before`; returns how many."""
        ...

    async def trim(self, since: int, until: int, keep: int, most: int) -> int:
        """Keep only the `keep` newest items of each user who got an item from `since` to `until`.

        Deletes up to `most` items and returns how many. The instant of an item is here the one in its id.
        """
        ...
