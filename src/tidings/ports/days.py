"""The days of the history: their sums once they are closed, and their way into the archive.

What ports/store.py says at its head holds here too. Days are whole days in UTC since the epoch, of the instant that an
id begins with.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from tidings.model.days import ArchivedDay, DayState, DaySum, Part

NOTIFICATIONS = "notifications"
EVENTS = "events"
COLUMNS: dict[str, tuple[str, ...]] = {
    NOTIFICATIONS: (
        "tenant", "id", "user_id", "category", "pending_at", "pending_slots", "pending_addresses", "body",
    ),
    EVENTS: (
        "tenant", "id", "rank", "step", "attempt", "at", "reason", "provider", "reference", "detail", "address",
    ),
}  # fmt: skip
"""The columns of a slice's files, by kind. Bytes are in hexadecimal, NULL is empty without quotes."""


class Slice(Struct, frozen=True, gc=False):
    """Some notifications of one day, sorted by tenant and id, or their events: written as CSV into `file`.

    `first` and `last` are tenant and id of the first and the last notification. `rows` and `digest` (the sum over the
    rows of the first 60 bits of each one's MD5) are what the store itself says about them, to be held against what is
    read back from the archive.
    """

    day: int
    kind: str
    file: Path
    rows: int
    digest: int
    first: tuple[str, UUID]
    last: tuple[str, UUID]


class Days(Protocol):
    """Closed days are summed up; old ones are archived."""

    async def roll(self, now: int) -> int:
        """Sum up the closed days that have changed since they were; how many. `now` in milliseconds since the epoch.

        Days that nobody counts for any more are folded: what was accepted is kept of the day, not of its minutes.
        """
        ...

    async def states(self, first: int, last: int) -> Sequence[DayState]:
        """How these days (both included) can be accounted for; ordinary ones may be absent."""
        ...

    async def sums(self, tenant: str, first: int, last: int) -> tuple[Sequence[DayState], Sequence[DaySum]]:
        """The same, with the tenant's sums of the days that are rolled, folded or archived, as of one moment.

        Sums of an archived day are those of what is in the archive; what is carried is read like any history.
        """
        ...

    async def closed(self, before: int) -> Sequence[int]:
        """The days before this one that are in the store, oldest first."""
        ...

    async def begin(self, day: int, now: int) -> str | None:
        """Begin to archive the day: what is in flight is set apart, to be carried on. Undoes an attempt that broke off.

        Why it cannot be archived yet, or None: something accepted is not recorded and may still come, or it is written
        to just now. Raises Unavailable, also when somebody holds the day's rows for too long.
        """
        ...

    def slices(self, day: int, folder: Path) -> AsyncIterator[Slice]:
        """All that rests of the day, a slice at a time; its file may be removed when the next is asked for."""
        ...

    async def seal(self, day: int, parts: Sequence[Part], now: int) -> bool:
        """The parts hold all that rests: from now on the day is archived, and what is in flight is carried.

        False, and nothing is changed, when something was written to the day since `begin`.
        """
        ...

    async def clear(self) -> int:
        """Drop what sealed days left in the store; how many tables. To be called again after a crash."""
        ...

    async def begin_carried(self, quiet_since: int) -> Sequence[int]:
        """Begin to archive what is carried, rests, and had no fact since that instant: the days that it belongs to.

        `slices` and `seal_carried` of these days follow.
        """
        ...

    async def seal_carried(self, parts: Sequence[tuple[int, Part]], now: int) -> bool:
        """The parts hold what `begin_carried` found: it is not carried any more. False as for `seal`."""
        ...

    async def archived(self, first: int | None = None, last: int | None = None) -> Sequence[ArchivedDay]:
        """The days in the archive, from `first` to `last` (both included), oldest first, with their parts."""
        ...

    async def tenants(self, day: int) -> Sequence[str]:
        """Who has something in the archive of this day."""
        ...
