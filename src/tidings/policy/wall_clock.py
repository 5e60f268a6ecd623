"""Converts between a timezone's wall-clock times and instants.

A time that the clock jumps over comes at the jump: the first instant after the gap. A time that the clock shows twice
comes the first time. So every wall-clock time of a date comes once. A date that a zone skipped (Apia, 2011-12-30) never
comes as a date, but a time of that date that was named outright comes at the jump, like any other.
"""

from __future__ import annotations

import errno
import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tidings.model.errors import Unavailable

_TIME = re.compile(r"[0-9]{2}:[0-9]{2}(?::[0-9]{2})?")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T" + _TIME.pattern)
NEITHER = "this is neither HH:MM nor YYYY-MM-DDTHH:MM"
_FIRST_YEAR, _LAST_YEAR = 1970, 9990
_DAY = timedelta(days=1)
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1)


_NO_SUCH_FILE = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL})


@lru_cache(maxsize=2048)
def zone(name: str | None) -> tzinfo:
    """The timezone of an IANA name; UTC for None and for a name that this machine's database does not know.

    Results are cached, errors are not.

    Raises:
        Unavailable: the database cannot be read now (too many open files, a failing disk).
    """
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return UTC
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            return UTC
        raise Unavailable(f"the timezone database cannot be read: {error.strerror}") from error


def parse(text: str) -> time | datetime:
    """A time of day from `09:00` or `09:00:30`, a wall-clock time from `2026-12-24T09:00`; neither has an offset.

    Raises:
        ValueError: the text is neither, there is no such date or time, or its year is not one of 1970 to 9990. The
            message is a sentence for people.
    """
    day, separator, clock = text.rpartition("T")
    if not (_MOMENT if separator else _TIME).fullmatch(text):
        raise ValueError(NEITHER)
    try:
        at = time.fromisoformat(clock)
    except ValueError:
        raise ValueError(f"{clock} is out of range: hours are 00 to 23, minutes and seconds 00 to 59") from None
    if not separator:
        return at
    try:
        wall = datetime.combine(date.fromisoformat(day), at)
    except ValueError:
        raise ValueError(f"{day} is out of range: the calendar has no such day") from None
    if not _FIRST_YEAR <= wall.year <= _LAST_YEAR:
        raise ValueError(f"the year {wall.year:04} is out of range: it is one of {_FIRST_YEAR} to {_LAST_YEAR}")
    return wall


def offset(where: tzinfo, instant: int) -> int:
    """How far the zone's wall clock is ahead of UTC at an instant, both in milliseconds."""
    return _milliseconds(datetime.fromtimestamp(instant // 1000, where).utcoffset())


def local_time(where: tzinfo, instant: int) -> datetime:
    """The time that the zone's wall clock shows at an instant, to the millisecond."""
    return _EPOCH + (instant + offset(where, instant)) * _MILLISECOND


def instant_of(wall: datetime, where: tzinfo) -> int:
    """When the zone's wall clock first shows `wall` or, if it never does, when it jumps over `wall`.

    The instant is in milliseconds since the epoch.
    """
    local = (wall - _EPOCH) // _MILLISECOND
    first = local - _milliseconds(wall.replace(tzinfo=where, fold=0).utcoffset())
    if first + offset(where, first) == local:
        return first
    # In a gap `fold` chooses the offset before the jump or after it (PEP 495): the jump lies between the two readings.
    before = local - _milliseconds(wall.replace(tzinfo=where, fold=1).utcoffset())
    return jump(where, before, first, offset(where, before))


def has_date(day: date, where: tzinfo) -> bool:
    """Whether the zone's calendar has the date."""
    midnight = datetime.combine(day, time())
    return local_time(where, instant_of(midnight, where)).date() == day


def next_time(clock: time, where: tzinfo, now: int) -> datetime:
    """The next wall-clock time with this time of day: the earliest whose instant is after `now`."""
    day = local_time(where, now).date() - _DAY
    while True:
        wall = datetime.combine(day, clock)
        if has_date(day, where) and instant_of(wall, where) > now:
            return wall
        day += _DAY


def next_wall(text: str, where: tzinfo, now: int) -> datetime:
    """The wall-clock time in `send_at_local`; a time of day means the next one after `now`. Raises ValueError."""
    wall = parse(text)
    return wall if isinstance(wall, datetime) else next_time(wall, where, now)


def jump(where: tzinfo, before: int, after: int, known_ms: int) -> int:
    """The first instant in (`before`, `after`] at which the zone's offset is no longer `known_ms`.

    Clocks are set on whole seconds. The zone must have another offset at `after`.
    """
    assert before < after, "there is no jump to find"  # noqa: S101 - the caller knows that there is one
    low, high = before // 1000, after // 1000
    while high - low > 1:
        middle = (low + high) // 2
        if offset(where, middle * 1000) == known_ms:
            low = middle
        else:
            high = middle
    return high * 1000


def _milliseconds(ahead: timedelta | None) -> int:
    return 0 if ahead is None else ahead // _MILLISECOND
