"""Days of the history: which have partitions, which are to be archived, and which object holds a notification."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from uuid import UUID

from tidings.model.days import DAY_MINUTES, DAY_MS, DayState, Part

AHEAD_DAYS = 7
"""How many days ahead have their partitions."""
BACK_DAYS = 400
"""A fact of an older day is not about a notification of this installation."""
SETTLED_DAYS = 8
"""How long after a day's end new ids of that day may still be made (an occurrence may be sent a week late)."""
QUIET_DAYS = 3
"""After so long without a fact a resting delivery is taken to rest for good: receipts come up to this late."""


class Place(StrEnum):
    """What happens to a fact of a day without a partition: one is made, or the fact is only counted."""

    MAKE = "make"
    ARCHIVED = "archived"
    TOO_OLD = "too_old"
    TOO_FAR = "too_far"


def place(day: int, today: int, *, archived: bool) -> Place:
    """What happens to a fact of a `day` that has no partition. Days are counted from the epoch."""
    if archived:
        return Place.ARCHIVED
    if day > today + AHEAD_DAYS:
        return Place.TOO_FAR
    return Place.TOO_OLD if day < today - BACK_DAYS else Place.MAKE


def ripe(days: Collection[int], today: int, kept: int) -> list[int]:
    """The days that are older than `kept` days, oldest first; none when everything is kept (0)."""
    return sorted(day for day in days if kept and day < today - kept)


def worth_rolling(day: int, now: int, rolled_at: int | None) -> bool:
    """Whether to sum up (again) at `now` a closed day that has changed since `rolled_at`, both in milliseconds.

    The older the day, the less often: a receipt that comes a week late must not have the whole day read every hour.
    """
    closed_for_ms = now - (day + 1) * DAY_MS
    if closed_for_ms < DAY_MS // 24:
        return False
    return rolled_at is None or now - rolled_at >= max(DAY_MS // 24, closed_for_ms // 8)


def whole_days(since: int, until: int, folded: Collection[int]) -> tuple[int, int]:
    """The minutes from `since` to `until`, widened to whole days where they cut a folded day."""
    first, last = since // DAY_MINUTES, (until - 1) // DAY_MINUTES
    if first in folded:
        since = first * DAY_MINUTES
    if last in folded:
        until = (last + 1) * DAY_MINUTES
    return since, until


def stretches(since: int, until: int, states: Sequence[DayState]) -> tuple[list[DayState], list[tuple[int, int]]]:
    """How to count the minutes from `since` to `until`: the days to take from their sums, and the stretches to read.

    A day is taken from its sums when the whole day is asked for and the sums are current. Archived days are read too,
    because no sum includes what is carried of them.
    """
    summed = [
        state
        for state in sorted(states, key=lambda state: state.day)
        if state.rolled
        and not state.archived
        and since <= state.day * DAY_MINUTES
        and (state.day + 1) * DAY_MINUTES <= until
    ]
    to_read: list[tuple[int, int]] = []
    reached = since
    for state in summed:
        if reached < state.day * DAY_MINUTES:
            to_read.append((reached, state.day * DAY_MINUTES))
        reached = (state.day + 1) * DAY_MINUTES
    if reached < until:
        to_read.append((reached, until))
    return summed, to_read


def parts_of(parts: Sequence[Part], tenant: str, id: UUID, kind: str) -> list[Part]:
    """The objects of this kind that may hold rows of the tenant's notification `id`."""
    return [
        part
        for part in parts
        if part.kind == kind and (part.first_tenant, part.first_id) <= (tenant, id) <= (part.last_tenant, part.last_id)
    ]
