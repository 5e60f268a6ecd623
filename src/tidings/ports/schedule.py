"""The schedule in the store: what waits, and what is changed while it waits.

Adapters raise `Unavailable` when the database does not answer; nothing was written then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from tidings.model.outcome import Outcome
from tidings.ports.queue import Item


class Scheduled(Struct, frozen=True, gc=False):
    """A row of the schedule that is due. `again`: it was handed out before and may have been put already."""

    id: UUID
    item: Item
    again: bool = False


class Waiting(Struct, frozen=True, gc=False):
    """A row of the schedule, read without taking it. `due` is in milliseconds since the epoch."""

    id: UUID
    notification: UUID
    due: int
    item: Item


class Schedule(Protocol):
    """All waiting: rows with a due time, written by `History.append`."""

    async def due(self, now: int, limit: int, lease: float) -> Sequence[Scheduled]:
        """Up to `limit` rows that are due at `now`, earliest first, leased to the caller for `lease` seconds.

        Leases run by the store's own clock, here and everywhere: a caller whose clock is wrong takes nobody's.
        """
        ...

    async def settle(self, ids: Sequence[UUID]) -> None:
        """These rows were put into their queues: delete them."""
        ...

    async def next_due(self) -> int | None:
        """When the earliest unleased row is due, or the earliest lease ends; None when nothing waits."""
        ...

    async def waiting(self, notification_ids: Collection[UUID]) -> Sequence[Waiting]:
        """What waits of these notifications, earliest first; nothing is taken."""
        ...

    async def held(self, most: int) -> Mapping[str, int]:
        """How many rows wait for a provider, by topic; counting ends at `most` of all."""
        ...

    async def bring_forward(self, topic: str, most: int, now: int) -> None:
        """Make up to `most` of the topic's rows that wait for a provider due at `now`, earliest first."""
        ...


class Changes(Protocol):
    """Notifications that wait for their send time, changed: a plain write of the API, not a stage's."""

    async def waiting(self, tenant: str, notification_id: UUID) -> Waiting | None:
        """The row with which the notification waits for its send time.

        None when it has been handed out or cancelled, or waits for nothing.
        """
        ...

    async def change(self, row: Waiting, changed: Outcome) -> bool:
        """Put `changed` in the place of `row`, in one transaction.

        `changed` is a fact with its notification and its wait: the row becomes that wait, the recorded notification
        that one, and the fact is recorded. False, and nothing was written, when the row is not as it was read any
        more: it was handed out, cancelled, or changed by somebody else.
        """
        ...
