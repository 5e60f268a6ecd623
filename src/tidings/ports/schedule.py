"""The schedule in the store: queue items to enqueue at a later instant, and changes to them while they wait.

Instants are milliseconds since the epoch. Adapters raise `Unavailable` when the database does not answer; nothing was
written then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from tidings.model.outcome import Outcome
from tidings.ports.queue import Item


class Scheduled(Struct, frozen=True, gc=False):
    """A due row of the schedule: a queue item to enqueue now.

    `repeated`: the row was handed out before, so its item may already be in the queue.
    """

    id: UUID
    item: Item
    repeated: bool = False


class Waiting(Struct, frozen=True, gc=False):
    """A row of the schedule as it was read, without a lease on it."""

    id: UUID
    notification: UUID
    due: int
    item: Item


class Schedule(Protocol):
    """Queue items to enqueue at their due time. Every delay uses this. `History.append` writes the rows."""

    async def due(self, now: int, limit: int, lease_s: float) -> Sequence[Scheduled]:
        """Up to `limit` rows that are due at `now`, earliest first, leased to the caller for `lease_s` seconds.

        All leases of the store run by the store's clock: a caller with a wrong clock cannot take over a live lease.
        """
        ...

    async def settle(self, ids: Sequence[UUID]) -> None:
        """Delete these rows, whose items the caller has put into their queues."""
        ...

    async def next_due(self) -> int | None:
        """The earliest instant at which an unleased row is due or a lease ends; None if no row waits."""
        ...

    async def waiting(self, notification_ids: Collection[UUID]) -> Sequence[Waiting]:
        """The waiting rows of these notifications, earliest first. No row is leased."""
        ...

    async def held(self, most: int) -> Mapping[str, int]:
        """The number of rows that wait for a provider, by topic. Counting stops at `most` rows in total."""
        ...

    async def bring_forward(self, topic: str, most: int, now: int) -> None:
        """Make up to `most` rows of the topic that wait for a provider due at `now`, earliest first."""
        ...


class Changes(Protocol):
    """Changes to notifications that wait for their send time. The API writes them directly; no stage is involved."""

    async def waiting(self, tenant: str, notification_id: UUID) -> Waiting | None:
        """The row of a notification that waits for its send time.

        None if there is no such row, if it was handed out, or if the notification was cancelled.
        """
        ...

    async def change(self, row: Waiting, changed: Outcome) -> bool:
        """Replace the row and the recorded notification by `changed`, in one transaction.

        `changed` is an outcome with its notification and its wait: the row becomes the wait, the recorded notification
        becomes the outcome's, and the outcome is recorded. False, and nothing is written, if the row is no longer as it
        was read: it was handed out, cancelled or changed.
        """
        ...
