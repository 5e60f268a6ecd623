"""The days of the history: their sums once they are closed, and their way into the archive.

The rules at the head of ports/store.py hold here too. A day is a number: whole days in UTC since the epoch. A
notification belongs to the day of the instant in its id.
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
"""The columns of a slice's CSV file, by kind. Bytes are hexadecimal; NULL is empty without quotes."""


class Slice(Struct, frozen=True, gc=False):
    """Some notifications of one day, sorted by tenant and id, or their events, as the CSV file `file`.

    `first` and `last` are tenant and id of the first and the last notification. `rows` is the number of rows and
    `digest` the sum of the first 60 bits of each row's MD5. The store computes both, and the archive's file must give
    the same when it is read back.
    """

    day: int
    kind: str
    file: Path
    rows: int
    digest: int
    first: tuple[str, UUID]
    last: tuple[str, UUID]


class Days(Protocol):
    """Sums up closed days and archives old ones."""

    async def roll(self, now: int) -> int:
        """Sum up the closed days that have changed since they were last summed up; returns how many.

        Days for which no more notifications can be accepted are folded: the accepted count is kept for the whole day,
        not for its minutes.
        """
        ...

    async def states(self, first: int, last: int) -> Sequence[DayState]:
        """The states of the days from `first` to `last` (both included).

        A day that is neither rolled, folded nor archived may be absent.
        """
        ...

    async def sums(self, tenant: str, first: int, last: int) -> tuple[Sequence[DayState], Sequence[DaySum]]:
        """The states of these days, and the tenant's sums of those that are rolled, folded or archived, at one moment.

        The sums of an archived day cover the notifications in the archive. Carried ones are read like any history.
        """
        ...

    async def closed(self, before: int) -> Sequence[int]:
        """The days before `before` that are in the store, oldest first."""
        ...

    async def begin(self, day: int, now: int) -> str | None:
        """Begin to archive the day: set the notifications in flight apart, to be carried. Undoes an unfinished attempt.

        Returns None, or why the day cannot be archived yet: an accepted notification is not recorded and may still
        come, or the day is being written to.

        Raises:
            Unavailable: the database does not answer, or another transaction locks the day's rows for too long.
        """
        ...

    def slices(self, day: int, folder: Path) -> AsyncIterator[Slice]:
        """The resting notifications of the day and their events, slice by slice.

        The files are made in `folder`. The caller may delete a slice's file before it asks for the next slice.
        """
        ...

    async def seal(self, day: int, parts: Sequence[Part], now: int) -> bool:
        """Mark the day as archived: `parts` hold its resting notifications, and those in flight are carried.

        False, and nothing is changed, if the day was written to since `begin`.
        """
        ...

    async def clear(self) -> int:
        """Drop the tables of sealed days; returns how many. Call it again after a crash."""
        ...

    async def begin_carried(self, quiet_since: int) -> Sequence[int]:
        """Begin to archive the carried notifications that rest and have had no event since `quiet_since`.

        Returns the days that they belong to. Call `slices` for each of these days, then `seal_carried`.
        """
        ...

    async def seal_carried(self, parts: Sequence[tuple[int, Part]], now: int) -> bool:
        """End the carrying of the notifications that `begin_carried` found; `parts` of `(day, part)` hold them.

        False, and nothing is changed, if carried notifications were written to since.
        """
        ...

    async def archived(self, first: int | None = None, last: int | None = None) -> Sequence[ArchivedDay]:
        """The archived days from `first` to `last` (both included), oldest first, with their parts."""
        ...

    async def tenants(self, day: int) -> Sequence[str]:
        """The tenants that have notifications in the archive of this day."""
        ...
