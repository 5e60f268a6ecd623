"""When a recurrence comes next, and what to do with one that is due.

policy/expansion.py computes the wall-clock times of a rule, at a bounded cost, and policy/wall_clock.py their instants.
So each wall-clock time comes once, however the clock is set. A time that the clock jumps over comes at the jump, where
RFC 5545 leaves it out: a reminder an hour off is better than none. Several times in one gap come as one. A date that
the zone does not have is left out.
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
from tidings.policy.wall_clock import has_date, instant_of, local_time

MOST_MISSED = 2_000
"""How many missed occurrences one step passes over."""


class Occurrence(Struct, frozen=True, gc=False):
    """One wall-clock time of a recurrence, and its instant in milliseconds since the epoch."""

    local: datetime
    due: int


class Fire(Struct, frozen=True, gc=False):
    """Send the occurrence that is due; `then` is the progress after it."""

    then: Progress


class Advance(Struct, frozen=True, gc=False):
    """Send nothing now; store the progress `then`."""

    then: Progress


Step: TypeAlias = Fire | Advance


def first(rrule_: str, start: datetime, where: tzinfo, now: int) -> Occurrence | None:
    """The first occurrence after `now`; None when none is left. Raises Invalid for a text that is no rule."""
    return next(_occurrences(rrule_, start, where, local_time(where, now), now, Budget()), None)


def stored(recurrence: Recurrence) -> list[Occurrence]:
    """The next occurrence, from the stored progress; an empty list when the recurrence has ended or is paused."""
    progress = recurrence.progress
    if progress.local is None or progress.due is None:
        return []
    return [Occurrence(datetime.fromisoformat(progress.local), progress.due)]


def upcoming(recurrence: Recurrence, where: tzinfo, count: int, steps: int = STEPS) -> list[Occurrence]:
    """The next `count` occurrences, beginning with the stored one; fewer when the search would take over `steps`."""
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


def step(recurrence: Recurrence, where: tzinfo, now: int, *, repeated: bool) -> Step:
    """What to do with a recurrence that is due.

    `where` is its (or its user's) present timezone. `repeated`: a worker got it before, so this occurrence may have
    been sent already; sending it again gives the same notification.

    Only the occurrence in the stored progress is ever sent, so every worker that looks sends the same one; another
    occurrence is stored first. Of several missed occurrences only the latest is sent.
    """
    progress = recurrence.progress
    if progress.local is None or progress.due is None:
        return Advance(progress)
    local = datetime.fromisoformat(progress.local)
    if not repeated and (due := instant_of(local, where)) > now:
        return Advance(replace(progress, due=due))  # the timezone has changed, and its clock does not show the time yet
    missed = list(_missed(recurrence, where, local, progress.due, now))
    if missed:
        latest = missed[-1]
        skipped = progress.skipped + len(missed)
        return Advance(replace(progress, local=latest.local.isoformat(), due=latest.due, skipped=skipped))
    following = next(_following(recurrence, where, local, progress.due), None)
    then = replace(
        progress,
        local=None if following is None else following.local.isoformat(),
        due=None if following is None else following.due,
    )
    if now - progress.due > recurrence.grace * 1000:
        return Advance(replace(then, skipped=progress.skipped + 1, problem="missed: everything was down at its time"))
    return Fire(replace(then, fired_at=progress.due, problem=""))


def occurrence_id(recurrence: Recurrence) -> UUID:
    """The notification id of the occurrence that is due: always the same for one occurrence.

    Raises:
        ValueError: nothing is due.
    """
    progress = recurrence.progress
    if progress.local is None or progress.due is None:
        raise ValueError("nothing is due")
    digest = hashlib.blake2b(recurrence.id.bytes + progress.local.encode(), digest_size=8).digest()
    return new_id(progress.due, bucket_of(recurrence.id), int.from_bytes(digest, "big"))


def check(rrule_: str, start: datetime) -> None:
    """Raise Invalid unless `rrule_` is a rule that comes true within `HORIZON` years from `start`."""
    rule = recurrence_rule.parse(rrule_)
    for wall in expansion(rrule_, start).after(start - timedelta(seconds=1), Budget()):
        if rule.until is not None and rule.until.tzinfo is None and wall > rule.until:
            break
        if not _is_excluded(rule, wall, None):
            return
    raise _never()


def _missed(recurrence: Recurrence, where: tzinfo, local: datetime, due: int, now: int) -> Iterator[Occurrence]:
    """The occurrences after the one that is due whose time has come too."""
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
    """The occurrences after `local` on the wall clock and after `instant`, in order, no two at the same instant."""
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
    """Whether the rule leaves out the time `wall`, whose instant is `due` (None: not known yet)."""
    excluded = rule.excluded
    if not excluded:
        return False
    at = None if due is None else datetime.fromtimestamp(due // 1000, UTC)
    return wall in excluded or wall.date() in excluded or (at is not None and at in excluded)


def _never() -> Invalid:
    return Invalid("never_occurs", "by this rule there is no time at all from start on", PATH)
