"""Days of the history: the number of whole UTC days from the epoch to the instant in an id."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from msgspec import Struct

from tidings.model.history import Tally

DAY_MS = 86_400_000
DAY_MINUTES = 24 * 60


def day_of(id: UUID) -> int:
    """The day on which the id was made."""
    return (id.int >> 80) // DAY_MS


def day_text(day: int) -> str:
    """The day as a date: `2026-01-31`."""
    return datetime.fromtimestamp(day * DAY_MS / 1000, UTC).strftime("%Y-%m-%d")


class DaySum(Struct, frozen=True, gc=False):
    """One tenant's sums of a day, in notifications.

    `accepted` adds up the larger of counted and recorded of each minute. `missing` are neither recorded nor in any
    queue; only archived days state it, for the others see `Gap`. `tally` splits up what is `recorded`.
    """

    tenant: str
    day: int
    counted: int
    accepted: int
    recorded: int
    missing: int = 0
    tally: tuple[Tally, ...] = ()


class DayState(Struct, frozen=True, gc=False):
    """What is known about a day.

    `archived`: the store keeps only what is carried. `folded`: accepted notifications are counted for the whole day, no
    longer by minute. `rolled`: the day's sums are current, so the history need not be read. `passes` changes whenever
    rows of the day go to the archive.
    """

    day: int
    archived: bool = False
    folded: bool = False
    rolled: bool = False
    passes: int = 0


class Part(Struct, frozen=True, gc=False):
    """One object of the archive: rows of one `kind` (`notifications` or `events`), sorted by tenant and id.

    The rows belong to the notifications from (`first_tenant`, `first_id`) to (`last_tenant`, `last_id`), both included.
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
