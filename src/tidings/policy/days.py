"""Days of the history: for which there is room, which are to be archived, and which object holds a notification."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from uuid import UUID

from tidings.model.days import DAY, DAY_MINUTES, DayState, Part

AHEAD = 7
"""For how many days there is room in advance."""
BACK = 400
"""Days: a fact about something older was never one of ours."""
SETTLED = 3
"""Days after which nobody counts any more what was accepted on a day, nor asks for a part of it."""


class Place(StrEnum):
    """Where a fact of a day goes that has no room: room is made, or the fact is not written, and counted."""

    MAKE = "make"
    ARCHIVED = "archived"
    TOO_OLD = "too_old"
    TOO_FAR = "too_far"


def place(day: int, today: int, *, archived: bool) -> Place:
    """What becomes of a fact whose day has no room. Days since the epoch."""
    if archived:
        return Place.ARCHIVED
    if day > today + AHEAD:
        return Place.TOO_FAR
    return Place.TOO_OLD if day < today - BACK else Place.MAKE


def ripe(days: Collection[int], today: int, kept: int) -> list[int]:
    """The days that are older than `kept` days, oldest first; none when everything is kept (0)."""
    return sorted(day for day in days if kept and day < today - kept)


def worth_rolling(day: int, now: int, rolled_at: int | None) -> bool:
    """Whether a closed day that has changed since `rolled_at` is to be rolled up (again) at `now`, in milliseconds.

    The older it is, the seldomer: a receipt that comes a week late must not have the whole day read every hour.
    """
    closed_for = now - (day + 1) * DAY
    if closed_for < DAY // 24:
        return False
    return rolled_at is None or now - rolled_at >= max(DAY // 24, closed_for // 8)


def whole_days(since: int, until: int, folded: Collection[int]) -> tuple[int, int]:
    """The stretch of minutes, widened where it cuts a day of which only the whole is known."""
    first, last = since // DAY_MINUTES, (until - 1) // DAY_MINUTES
    if first in folded:
        since = first * DAY_MINUTES
    if last in folded:
        until = (last + 1) * DAY_MINUTES
    return since, until


def stretches(since: int, until: int, states: Sequence[DayState]) -> tuple[list[DayState], list[tuple[int, int]]]:
    """The days of which the sums say all, and the stretches of minutes that are read.

    A day counts by its sums when the whole of it is asked for and they hold. Archived days are read as well: what is
    carried of them is in no sum.
    """
    summed = [
        state
        for state in sorted(states, key=lambda state: state.day)
        if state.rolled
        and not state.archived
        and since <= state.day * DAY_MINUTES
        and (state.day + 1) * DAY_MINUTES <= until
    ]
    found: list[tuple[int, int]] = []
    reached = since
    for state in summed:
        if reached < state.day * DAY_MINUTES:
            found.append((reached, state.day * DAY_MINUTES))
        reached = (state.day + 1) * DAY_MINUTES
    if reached < until:
        found.append((reached, until))
    return summed, found


def parts_of(parts: Sequence[Part], tenant: str, id: UUID, kind: str) -> list[Part]:
    """The objects of a kind that can hold the tenant's notification `id`."""
    return [
        part
        for part in parts
        if part.kind == kind and (part.first_tenant, part.first_id) <= (tenant, id) <= (part.last_tenant, part.last_id)
    ]
