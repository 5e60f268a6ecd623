"""When a recurrence comes next, and what to do with one that is due.

Rules count on the wall clock, as RFC 5545 has it; instants follow by policy/wall_clock.py. So each wall-clock time
comes once, whatever the clock does. Where RFC 5545 leaves out a time that the clock jumps over, it comes with the jump:
a reminder that is an hour off is better than none. Times that fall together in a gap come as one. A date that the zone
does not have is left out.

What a rule gives on the wall clock, at a bounded cost, is policy/expansion.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from tidings.model.errors import Invalid
from tidings.model.ids import bucket_of, new_id
from tidings.model.recurrence import Progress, Recurrence
from tidings.policy import recurrence_rule
from tidings.policy.expansion import STEPS, Budget, expansion
from tidings.policy.recurrence_rule import PATH, Rule
from tidings.policy.wall_clock import has_date, instant_of, shown

MOST_MISSED = 2_000
"""Missed occurrences that are passed over in one step."""


class Occurrence(Struct, frozen=True, gc=False):
    """One wall-clock time of a recurrence, and its instant in milliseconds since the epoch."""

    local: datetime
    due: int


class Fire(Struct, frozen=True, gc=False):
    """Send the occurrence that is due; `then` is the progress after it."""

    then: Progress


class Move(Struct, frozen=True, gc=False):
    """Send nothing now; go on from `then`."""

    then: Progress


Step: TypeAlias = Fire | Move


def first(rrule_: str, start: datetime, where: tzinfo, now: int) -> Occurrence | None:
    """The first occurrence after `now`; None when there is none any more. Raises Invalid for a rule that is none."""
    return next(_occurrences(rrule_, start, where, shown(where, now), now, Budget()), None)


def stored(recurrence: Recurrence) -> list[Occurrence]:
    """The occurrence that comes next, which is known without computing; none when nothing will be."""
    progress = recurrence.progress
    if progress.local is None or progress.due is None:
        return []
    return [Occurrence(datetime.fromisoformat(progress.local), progress.due)]


def upcoming(recurrence: Recurrence, where: tzinfo, count: int, steps: int = STEPS) -> list[Occurrence]:
    """The next `count` occurrences, with the one that is due first; fewer when more would take over `steps`."""
    progress = recurrence.progress
    if progress.local is None or progress.due is None:
        return []
    local = datetime.fromisoformat(progress.local)
    found = [Occurrence(local, progress.due)]
    try:
        found.extend(islice(_following(recurrence, where, local, progress.due, Budget(steps)), count - 1))
    except Invalid as problem:
        if problem.code != "too_costly":
            raise
    return found


def step(recurrence: Recurrence, where: tzinfo, now: int, *, again: bool) -> Step:
    """What to do with a recurrence that is due.

    `where` is its (or its user's) present timezone. `again`: it was handed out before, so this occurrence may have been
    sent already; sending it once more gives the same notification.

    Only the occurrence that the stored progress names is ever sent, so that every look at it gives the same one: what
    must be another occurrence is stored first. Of several that were missed the latest is sent.
    """
    progress = recurrence.progress
    if progress.local is None or progress.due is None:
        return Move(progress)
    local = datetime.fromisoformat(progress.local)
    if not again and (due := instant_of(local, where)) > now:
        return Move(replace(progress, due=due))  # the user's clock does not show it yet
    missed = list(_missed(recurrence, where, local, progress.due, now))
    if missed:
        latest = missed[-1]
        skipped = progress.skipped + len(missed)
        return Move(replace(progress, local=latest.local.isoformat(), due=latest.due, skipped=skipped))
    following = next(_following(recurrence, where, local, progress.due), None)
    then = replace(
        progress,
        local=None if following is None else following.local.isoformat(),
        due=None if following is None else following.due,
    )
    if now - progress.due > recurrence.grace * 1000:
        return Move(replace(then, skipped=progress.skipped + 1, problem="missed: everything was down at its time"))
    return Fire(replace(then, fired_at=progress.due, problem=""))


def occurrence_id(recurrence: Recurrence) -> UUID:
    """The id of the notification of the occurrence that is due: the same in every run.

    Raises:
        ValueError: nothing is due.
    """
    progress = recurrence.progress
    if progress.local is None or progress.due is None:
        raise ValueError("nothing is due")
    digest = hashlib.blake2b(recurrence.id.bytes + progress.local.encode(), digest_size=8).digest()
    return new_id(progress.due, bucket_of(recurrence.id), int.from_bytes(digest, "big"))


def check(rrule_: str, start: datetime) -> None:
    """Raises Invalid unless there is such a rule, and it comes true in the `HORIZON` years from `start` on."""
    rule = recurrence_rule.parse(rrule_)
    for wall in expansion(rrule_, start).after(start - timedelta(seconds=1), Budget()):
        if rule.until is not None and rule.until.tzinfo is None and wall > rule.until:
            break
        if not _is_excluded(rule, wall, None):
            return
    raise _never()


def _missed(recurrence: Recurrence, where: tzinfo, local: datetime, due: int, now: int) -> Iterator[Occurrence]:
    """The occurrences after the one that is due whose time has come as well."""
    for occurrence in islice(_following(recurrence, where, local, due), MOST_MISSED):
        if occurrence.due > now:
            return
        yield occurrence


def _following(
    recurrence: Recurrence, where: tzinfo, local: datetime, due: int, budget: Budget | None = None
) -> Iterator[Occurrence]:
    start = datetime.fromisoformat(recurrence.start)
    return _occurrences(recurrence.rrule, start, where, local, due, budget or Budget())


def _occurrences(
    text: str, start: datetime, where: tzinfo, local: datetime, instant: int, budget: Budget
) -> Iterator[Occurrence]:
    """Those later than `local` on the wall clock and than `instant`, in order, no two at the same instant."""
    rule = recurrence_rule.parse(text)
    until = rule.until
    for wall in expansion(text, start).after(local, budget):
        if until is not None and until.tzinfo is None and wall > until:
            return
        due = instant_of(wall, where)
        if until is not None and until.tzinfo is not None and due > until.timestamp() * 1000:
            return
        if due > instant and not _is_excluded(rule, wall, due) and has_date(wall.date(), where):
            yield Occurrence(wall, due)
            instant = due


def _is_excluded(rule: Rule, wall: datetime, due: int | None) -> bool:
    """Whether the rule leaves out this time, which comes at the instant `due` (None: that is not known yet)."""
    excluded = rule.excluded
    if not excluded:
        return False
    at = None if due is None else datetime.fromtimestamp(due // 1000, UTC)
    return wall in excluded or wall.date() in excluded or (at is not None and at in excluded)


def _never() -> Invalid:
    return Invalid("never_occurs", "by this rule there is no time at all from start on", PATH)
