"""When a recurrence comes next, and what to do with one that is due.

Rules count on the wall clock, as RFC 5545 has it; instants follow by policy/wall_clock.py. So each wall-clock time
comes once, whatever the clock does. Where RFC 5545 leaves out a time that the clock jumps over, it comes with the jump:
a reminder that is an hour off is better than none. Times that fall together in a gap come as one. A date that the zone
does not have is left out.

The library counts every occurrence from the start and, for a rule that never comes true, searches until the year 9999.
Therefore a rule without COUNT begins at the period that matters, and the search is moved by whole cycles of the
Gregorian calendar (400 years, in which dates and weekdays repeat) towards the library's end of time: it looks through
some 370 years at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import MAXYEAR, datetime, timedelta, tzinfo
from itertools import islice
from typing import Any, TypeAlias
from uuid import UUID

from dateutil import rrule
from msgspec import Struct
from msgspec.structs import replace

from tidings.model.errors import Invalid
from tidings.model.ids import bucket_of, new_id
from tidings.model.recurrence import Progress, Recurrence
from tidings.policy import recurrence_rule
from tidings.policy.recurrence_rule import PATH, Rule
from tidings.policy.wall_clock import has_date, instant_of, shown

CYCLE = 400
"""Years after which the Gregorian calendar repeats itself, weekdays included."""
MOST_MISSED = 10_000
"""Missed occurrences that are passed over in one step."""

_OF_TIME = frozenset({"BYHOUR", "BYMINUTE", "BYSECOND"})


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
    rule = recurrence_rule.parse(rrule_)
    return next(_occurrences(rule, start, where, shown(where, now), now), None)


def stored(recurrence: Recurrence) -> list[Occurrence]:
    """The occurrence that comes next, which is known without computing; none when nothing will be."""
    progress = recurrence.progress
    if progress.local is None or progress.due is None:
        return []
    return [Occurrence(datetime.fromisoformat(progress.local), progress.due)]


def upcoming(recurrence: Recurrence, where: tzinfo, count: int) -> list[Occurrence]:
    """The next `count` occurrences, with the one that is due first."""
    progress = recurrence.progress
    if progress.local is None or progress.due is None:
        return []
    local = datetime.fromisoformat(progress.local)
    following = _following(recurrence, where, local, progress.due)
    return [Occurrence(local, progress.due), *islice(following, count - 1)]


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
    """Raises Invalid unless there is such a rule, and it comes true at least once from `start` on."""
    rule, before = recurrence_rule.parse(rrule_), start - timedelta(seconds=1)
    # Whether there is such a day is found out without going through its minutes.
    days = {name: numbers for name, numbers in rule.numbers.items() if name not in _OF_TIME}
    daily = Rule(rrule.DAILY, days=rule.days, numbers=days)
    if rule.frequency > rrule.DAILY and next(_locals(daily, start, before), None) is None:
        raise _never()
    if next(_locals(rule, start, before), None) is None:
        raise _never()


def _missed(recurrence: Recurrence, where: tzinfo, local: datetime, due: int, now: int) -> Iterator[Occurrence]:
    """The occurrences after the one that is due whose time has come as well."""
    for occurrence in islice(_following(recurrence, where, local, due), MOST_MISSED):
        if occurrence.due > now:
            return
        yield occurrence


def _following(recurrence: Recurrence, where: tzinfo, local: datetime, due: int) -> Iterator[Occurrence]:
    rule, start = recurrence_rule.parse(recurrence.rrule), datetime.fromisoformat(recurrence.start)
    return _occurrences(rule, start, where, local, due)


def _occurrences(rule: Rule, start: datetime, where: tzinfo, local: datetime, instant: int) -> Iterator[Occurrence]:
    """Those later than `local` on the wall clock and than `instant`, in order, no two at the same instant."""
    for wall in _locals(rule, start, local):
        due = instant_of(wall, where)
        if rule.until is not None and rule.until.tzinfo is not None and due > rule.until.timestamp() * 1000:
            return
        if due > instant and has_date(wall.date(), where):
            yield Occurrence(wall, due)
            instant = due


def _locals(rule: Rule, start: datetime, after: datetime) -> Iterator[datetime]:
    """The wall-clock times of the rule that are later than `after`."""
    shift = (MAXYEAR - max(start, after).year) // CYCLE * CYCLE
    begin = start if rule.count is not None else _begin(rule, start, after)
    until = None if rule.until is None or rule.until.tzinfo is not None else rule.until
    try:
        expanded = rrule.rrule(
            rule.frequency,  # type: ignore[arg-type]  # one of the six that the grammar knows
            dtstart=begin.replace(year=begin.year + shift),
            interval=rule.interval,
            count=rule.count,
            wkst=rule.week_start,
            bysetpos=rule.by("BYSETPOS"),
            **_filters(rule, start),
        )
    except ValueError as error:  # hours or minutes that the interval never meets
        raise _never() from error
    for wall in expanded.xafter(after.replace(year=after.year + shift)):
        wall = wall.replace(year=wall.year - shift)  # noqa: PLW2901 - the same time in its own cycle
        if until is not None and wall > until:
            return
        yield wall


def _filters(rule: Rule, start: datetime) -> dict[str, Any]:
    """The BY… parts, with those that RFC 5545 takes from the start where the rule has none."""
    found: dict[str, Any] = {
        "bymonth": rule.by("BYMONTH"),
        "bymonthday": rule.by("BYMONTHDAY"),
        "byyearday": rule.by("BYYEARDAY"),
        "byweekno": rule.by("BYWEEKNO"),
        "byweekday": rule.days or None,
    }
    if all(found[name] is None for name in ("bymonthday", "byyearday", "byweekno", "byweekday")):
        if rule.frequency == rrule.YEARLY:
            found["bymonth"] = found["bymonth"] or start.month
        if rule.frequency in {rrule.YEARLY, rrule.MONTHLY}:
            found["bymonthday"] = start.day
        if rule.frequency == rrule.WEEKLY:
            found["byweekday"] = start.weekday()
    below_hours, below_minutes = rule.frequency >= rrule.HOURLY, rule.frequency >= rrule.MINUTELY
    found["byhour"] = rule.by("BYHOUR") or (None if below_hours else start.hour)
    found["byminute"] = rule.by("BYMINUTE") or (None if below_minutes else start.minute)
    found["bysecond"] = rule.by("BYSECOND") or start.second
    return found


def _begin(rule: Rule, start: datetime, after: datetime) -> datetime:
    """The beginning of the period of the rule that `after` lies in; the start itself in the first one."""
    every = rule.interval
    if after <= start:
        return start
    day = start.replace(hour=0, minute=0, second=0)
    if rule.frequency == rrule.YEARLY:
        begin = day.replace(year=start.year + (after.year - start.year) // every * every, month=1, day=1)
    elif rule.frequency == rrule.MONTHLY:
        months = (after.year - start.year) * 12 + after.month - start.month
        index = start.month - 1 + months // every * every
        begin = day.replace(year=start.year + index // 12, month=index % 12 + 1, day=1)
    elif rule.frequency == rrule.WEEKLY:
        week = day - timedelta(days=(start.weekday() - rule.week_start) % 7)
        begin = week + timedelta(weeks=(after - week).days // 7 // every * every)
    elif rule.frequency == rrule.DAILY:
        begin = day + timedelta(days=(after - day).days // every * every)
    else:
        unit = timedelta(hours=1) if rule.frequency == rrule.HOURLY else timedelta(minutes=1)
        even = start.replace(second=0, minute=start.minute if rule.frequency == rrule.MINUTELY else 0)
        begin = even + (after - even) // unit // every * every * unit
    return max(begin, start)


def _never() -> Invalid:
    return Invalid("never_occurs", "by this rule there is no time at all from start on", PATH)
