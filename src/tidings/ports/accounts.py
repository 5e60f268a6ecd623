"""The accounts in the store, and the rounds that check them. What ports/store.py says at its head holds here too.

Minutes are whole minutes since the epoch; `since` is inclusive, `until` exclusive.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol
from uuid import UUID

from tidings.model.accounting import AcceptedCount, Gap


class Accounts(Protocol):
    """What was accepted, counted apart from the history; and the gaps between the two."""

    async def count(self, counter: UUID, counts: Sequence[AcceptedCount]) -> None:
        """Keep what `counter` has counted so far of each tenant and minute. Repeating it is harmless."""
        ...

    async def accepted(self, since: int, until: int, tenant: str | None = None) -> Sequence[AcceptedCount]:
        """The sums over all counters, of one tenant or of all, by minute and tenant."""
        ...

    async def forget(self, before: int) -> int:
        """Delete the counts of the minutes before this one; how many rows."""
        ...

    async def mark_gaps(self, gaps: Sequence[Gap]) -> None:
        """Keep or replace these; one that misses nothing is deleted."""
        ...

    async def sweep_gaps(self, before: int, most: int) -> int:
        """Forget up to `most` gaps that are confirmed, of minutes before this one; how many."""
        ...

    async def gaps(self, tenant: str | None = None) -> Sequence[Gap]:
        """All that are open, by minute and tenant."""
        ...


class Watched(Protocol):
    """Notifications that were in flight when they were looked at last, with the instant of the next look."""

    async def watch(self, looks: Sequence[tuple[UUID, int]]) -> None:
        """Look at each notification at its instant (milliseconds since the epoch), and not when it was said before.

        The last instant counts where there are several for one.
        """
        ...

    async def due(self, now: int, limit: int) -> Sequence[UUID]:
        """Up to `limit` whose instant has come, earliest first."""
        ...

    async def unwatch(self, ids: Collection[UUID]) -> None:
        """They rest: no further look."""
        ...


class Rounds(Protocol):
    """Rounds that one process at a time makes, and how far they have come."""

    async def begin(self, name: str, holder: UUID, lease: float) -> int | None:
        """Take the round `name` for `lease` seconds of the store's clock: its position (0: the first one ever).

        None while another holder has it. Its own holder takes it again at any time.
        """
        ...

    async def advance(self, name: str, holder: UUID, position: int) -> bool:
        """Keep how far it is; False, and nothing is kept, when another holder has it meanwhile."""
        ...

    async def release(self, name: str, holder: UUID) -> None:
        """Leave it to others at once."""
        ...
