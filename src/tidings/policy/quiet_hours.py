"""Quiet hours: a daily span of the person's wall clock, with the clock's jumps taken as they come.

An instant is quiet when the wall clock shows a time of the span. So when the clock jumps over the end of the span, the
quiet hours end with the jump; when it is set back into the span, they begin once more.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tidings.model.user import QuietHours

_MINUTE = 60_000
_DAY = 24 * 60 * _MINUTE


@lru_cache(maxsize=2048)
def zone(name: str | None) -> tzinfo:
    """The timezone of an IANA name; UTC for None and for a name that this machine's database does not know."""
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def wake_up(quiet: QuietHours | None, timezone: str | None, now: int) -> int | None:
    """When the quiet hours that `now` is in end (milliseconds since the epoch); None when it is in none.

    The answer is the first instant after `now` that is not quiet.
    """
    if quiet is None or quiet.start == quiet.end:
        return None
    where = zone(timezone)
    offset = _offset(where, now)
    if not _is_quiet(quiet, now + offset):
        return None
    instant = now
    while True:
        # In one offset the wall clock runs evenly, so the end can be reckoned; a jump on the way starts it afresh.
        end = instant + (quiet.end * _MINUTE - instant - offset) % _DAY
        if _offset(where, end) == offset:
            return end
        instant = _jump(where, instant, end, offset)
        offset = _offset(where, instant)
        if not _is_quiet(quiet, instant + offset):
            return instant


def _offset(where: tzinfo, instant: int) -> int:
    """What the zone's wall clock is ahead of UTC, in milliseconds."""
    ahead = datetime.fromtimestamp(instant // 1000, where).utcoffset()
    return 0 if ahead is None else (ahead.days * 86_400 + ahead.seconds) * 1000


def _is_quiet(quiet: QuietHours, wall: int) -> bool:
    minute = wall % _DAY // _MINUTE
    if quiet.start < quiet.end:
        return quiet.start <= minute < quiet.end
    return minute >= quiet.start or minute < quiet.end


def _jump(where: tzinfo, before: int, after: int, offset: int) -> int:
    """The first instant in (`before`, `after`] at which the zone no longer has `offset`; jumps are on whole seconds."""
    low, high = before // 1000, after // 1000
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(where, middle * 1000) == offset:
            low = middle
        else:
            high = middle
    return high * 1000
