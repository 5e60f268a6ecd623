"""History: append-only facts about notifications and deliveries, which only `record` writes.

Every method that takes a `tenant` sees only that tenant's rows. Adapters raise `Unavailable` when the database does not
answer; unless stated otherwise, nothing was written then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from tidings.model.accounting import StateCount
from tidings.model.history import HistoryFilter, NotificationRecord, Tally
from tidings.model.outcome import Outcome
from tidings.ports.attempting import Attempting
from tidings.ports.handing import Handing


class Page(Struct, frozen=True, gc=False):
    """A page of notifications, newest first. `cursor` is the next page's `before`, None on the last page."""

    records: tuple[NotificationRecord, ...]
    cursor: UUID | None


class History(Attempting, Handing, Protocol):
    """The append-only history. A delivery's state is the furthest of its events (policy/transitions.py)."""

    async def append(self, outcomes: Sequence[Outcome]) -> Mapping[str, int]:
        """Write a batch in one transaction: notifications, events, waits and suppressions. Idempotent for each outcome.

        A device that becomes suppressed is removed from the profile that has it. Returns how many outcomes were left
        out, by reason: `archived` (their notification is in the archive), `too_old` or `too_far` (the id's day is so
        far in the past or the future that no clock of ours can have made the id).
        """
        ...

    async def get(self, tenant: str, notification_id: UUID) -> NotificationRecord | None:
        """The notification with its events; None if it is not recorded."""
        ...

    async def find(self, tenant: str, filter: HistoryFilter, before: UUID | None, limit: int) -> Page:
        """Notifications that match, newest first, with ids below `before`. A page may be short and not be the last."""
        ...

    async def tally(self, tenant: str, since: int | None = None, until: int | None = None) -> Sequence[Tally]:
        """Deliveries and notifications of the tenant from `since` to `until` (exclusive), by state and reason."""
        ...

    async def states(
        self, since: int, until: int, tenant: str | None = None, *, in_flight: bool = False
    ) -> Sequence[StateCount]:
        """The notifications whose ids were made in these minutes, counted by state; of one tenant or of all.

        `since` (inclusive) and `until` (exclusive) are minutes since the epoch. With `in_flight`, the counts of states
        in flight carry the ids of their notifications.
        """
        ...

    async def get_many(self, notification_ids: Collection[UUID]) -> Sequence[NotificationRecord]:
        """Those of these notifications that are recorded, of any tenant, with their events."""
        ...

    async def maintain(self, now: int) -> int:
        """Prepare for the coming days; returns how many tables were missing. Call it at the start and daily."""
        ...
