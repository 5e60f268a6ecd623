"""Days of the history: whole days in UTC since the epoch, of the instant that an id begins with."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from msgspec import Struct

from tidings.model.history import Tally

DAY = 86_400_000
"""Milliseconds."""
DAY_MINUTES = 24 * 60


def day_of(id: UUID) -> int:
    """The day of an id."""
    return (id.int >> 80) // DAY


def day_text(day: int) -> str:
    """`2026-01-31`."""
    return datetime.fromtimestamp(day * DAY / 1000, UTC).strftime("%Y-%m-%d")


class DaySum(Struct, frozen=True, gc=False):
    """One tenant's sums of a day.

    `accepted` is the larger of counted and recorded, minute by minute. `missing` is neither recorded nor in any queue
    (of days that are archived; of others the gaps tell). `tally` counts what is `recorded`.
    """

    tenant: str
    day: int
    counted: int
    accepted: int
    recorded: int
    missing: int = 0
    tally: tuple[Tally, ...] = ()


class DayState(Struct, frozen=True, gc=False):
    """How a day can be accounted for.

    `archived`: it is not in the store any more, but for what is carried. `folded`: what was accepted is known of the
    whole day alone, not by minute. `rolled`: its sums hold, so that nothing
    needs to be read. `passes` changes when something of it goes to the archive.
    """

    day: int
    archived: bool = False
    folded: bool = False
    rolled: bool = False
    passes: int = 0


class Part(Struct, frozen=True, gc=False):
    """An object of the archive: rows of one `kind` (`notifications` or `events`), sorted by tenant and id.

    Its rows belong to the notifications from (`first_tenant`, `first_id`) to (`last_tenant`, `last_id`), both included.
    """

    name: str
    kind: str
    rows: int
    bytes: int
    sha256: str
    first_tenant: str
    first_id: UUID
    last_tenant: str
    last_id: UUID


class ArchivedDay(Struct, frozen=True, gc=False):
    """A day in the archive. `archived_at` in milliseconds since the epoch."""

    day: int
    archived_at: int
    parts: tuple[Part, ...]
