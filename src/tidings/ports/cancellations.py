"""Cancelled notifications.

Every method that takes a `tenant` sees only that tenant's rows. Adapters raise `Unavailable` when the database does not
answer; unless stated otherwise, nothing was written then.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID


class Cancellations(Protocol):
    """Marks on notifications that must no longer be sent."""

    async def cancel(self, tenant: str, notification_id: UUID, now: int) -> None:
        """Mark the notification and make its rows in the schedule due now, so that it ends soon. Idempotent."""
        ...

    async def prune(self, before: int, most: int) -> int:
        """Delete up to `most` marks if notification and cancellation are older than `before`; returns how many."""
        ...
