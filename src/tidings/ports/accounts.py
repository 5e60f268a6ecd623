"""The accounts in the store, and the rounds that check them. The rules at the head of ports/store.py hold here too.

Minutes are whole minutes since the epoch; `since` is inclusive, `until` exclusive.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol
from uuid import UUID

from tidings.model.accounting import AcceptedCount, Gap


class Accounts(Protocol):
    """Counts of accepted notifications, kept apart from the history, and the gaps between the two."""

    async def count(self, counter: UUID, counts: Sequence[AcceptedCount]) -> None:
        """Store the totals so far of one counter, by tenant and minute. Repeating a call is harmless."""
        ...

    async def accepted(self, since: int, until: int, tenant: str | None = None) -> Sequence[AcceptedCount]:
        """The sums over all counters, of one tenant or of all, sorted by minute and tenant."""
        ...

    async def prune_counts(self, before: int, most: int) -> int:
        """Delete up to `most` counts of minutes before `before`; returns how many rows."""
        ...

    async def mark_gaps(self, gaps: Sequence[Gap]) -> None:
        """Store or replace these gaps. A gap with nothing missing is deleted."""
        ...

    async def prune_gaps(self, before: int, most: int) -> int:
        """Delete up to `most` confirmed gaps of minutes before `before`; returns how many."""
        ...

    async def gaps(self, tenant: str | None = None) -> Sequence[Gap]:
        """All stored gaps, of one tenant or of all, sorted by minute and tenant."""
        ...


class Watched(Protocol):
    """Notifications that were in flight when the audit last looked at them, with the instant of the next look."""

    async def watch(self, looks: Sequence[tuple[UUID, int]]) -> None:
        """Set the instant of the next look at each notification; it replaces an earlier one.

        If a notification occurs several times, its last instant counts.
        """
        ...

    async def due(self, now: int, limit: int) -> Sequence[UUID]:
        """Up to `limit` notifications whose next look is due at `now`, earliest first."""
        ...

    async def unwatch(self, ids: Collection[UUID]) -> None:
        """Remove these notifications, which rest."""
        ...


class Rounds(Protocol):
    """Leases and positions of the rounds. One process at a time makes a round."""

    async def begin(self, name: str, holder: UUID, lease_s: float) -> int | None:
        """Lease the round `name` for `lease_s` seconds of the store's clock. Returns its position, 0 for a new round.

        None if another holder has the lease. The holder itself may renew its lease at any time.
        """
        ...

    async def advance(self, name: str, holder: UUID, position: int) -> bool:
        """Store the position. False, and nothing is stored, if another holder has taken the round."""
        ...

    async def release(self, name: str, holder: UUID) -> None:
        """End the holder's lease, so that another process can take the round at once."""
        ...
