"""Quiet hours: a daily span on the user's wall clock.

An instant is quiet when the wall clock shows a time of the span. So when the clock jumps over the end of the span, the
quiet hours end with the jump; when it is set back into the span, they begin once more.
"""

from __future__ import annotations

import hashlib

from tidings.model.user import QuietHours
from tidings.policy.wall_clock import jump, offset, zone

SPREAD_MS = 15 * 60_000
"""Held deliveries leave within this time after the end of the quiet hours, so that they do not all leave at once."""

_MINUTE_MS = 60_000
_DAY_MS = 24 * 60 * _MINUTE_MS


def wake_up(quiet: QuietHours | None, timezone: str | None, now: int) -> int | None:
    """The first instant after `now` that is not quiet; None when `now` is not quiet. Milliseconds since the epoch."""
    if quiet is None or quiet.start == quiet.end:
        return None
    where = zone(timezone)
    ahead_ms = offset(where, now)
    if not _is_quiet(quiet, now + ahead_ms):
        return None
    instant = now
    while True:
        # While the offset stays the same, the end follows by arithmetic. If the clock jumps before it, start again
        # there.
        end = instant + (quiet.end * _MINUTE_MS - instant - ahead_ms) % _DAY_MS
        if offset(where, end) == ahead_ms:
            return end
        instant = jump(where, instant, end, ahead_ms)
        ahead_ms = offset(where, instant)
        if not _is_quiet(quiet, instant + ahead_ms):
            return instant


def spread_after(end: int, key: str) -> int:
    """An instant within `SPREAD_MS` after `end`: the same for one `key` and day, evenly distributed over keys."""
    digest = hashlib.blake2b(f"{key}\0{end // _DAY_MS}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return end + int.from_bytes(digest, "big") % SPREAD_MS


def _is_quiet(quiet: QuietHours, wall: int) -> bool:
    minute = wall % _DAY_MS // _MINUTE_MS
    if quiet.start < quiet.end:
        return quiet.start <= minute < quiet.end
    return minute >= quiet.start or minute < quiet.end
