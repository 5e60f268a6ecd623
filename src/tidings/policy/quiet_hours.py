"""Quiet hours: a daily span of the person's wall clock, with the clock's jumps taken as they come.

An instant is quiet when the wall clock shows a time of the span. So when the clock jumps over the end of the span, the
quiet hours end with the jump; when it is set back into the span, they begin once more.
"""

from __future__ import annotations

import hashlib

from tidings.model.user import QuietHours
from tidings.policy.wall_clock import jump, offset, zone

SPREAD = 15 * 60_000
"""Milliseconds over which what quiet hours held leaves after their end, so that not everybody's leaves at once."""

_MINUTE = 60_000
_DAY = 24 * 60 * _MINUTE


def wake_up(quiet: QuietHours | None, timezone: str | None, now: int) -> int | None:
    """When the quiet hours that `now` is in end (milliseconds since the epoch); None when it is in none.

    The answer is the first instant after `now` that is not quiet.
    """
    if quiet is None or quiet.start == quiet.end:
        return None
    where = zone(timezone)
    ahead = offset(where, now)
    if not _is_quiet(quiet, now + ahead):
        return None
    instant = now
    while True:
        # In one offset the wall clock runs evenly, so the end can be reckoned; a jump on the way starts it afresh.
        end = instant + (quiet.end * _MINUTE - instant - ahead) % _DAY
        if offset(where, end) == ahead:
            return end
        instant = jump(where, instant, end, ahead)
        ahead = offset(where, instant)
        if not _is_quiet(quiet, instant + ahead):
            return instant


def spread_after(end: int, key: str) -> int:
    """An instant in the `SPREAD` after `end`: always the same for one `key` and day, evenly strewn over keys."""
    digest = hashlib.blake2b(f"{key}\0{end // _DAY}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return end + int.from_bytes(digest, "big") % SPREAD


def _is_quiet(quiet: QuietHours, wall: int) -> bool:
    minute = wall % _DAY // _MINUTE
    if quiet.start < quiet.end:
        return quiet.start <= minute < quiet.end
    return minute >= quiet.start or minute < quiet.end
