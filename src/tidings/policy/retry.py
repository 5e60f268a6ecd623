"""When, and whether, a failed attempt is made again."""

from __future__ import annotations

import math

_MOST_DOUBLINGS = 62


def retry_at(attempt: int, now: int, asked_after: float | None, base: float, cap: float, randomness: float) -> int:
    """When to try again after attempt number `attempt` (from 1) failed at `now`, in milliseconds since the epoch.

    Exponential backoff with full jitter: a share `randomness` (0 to 1) of `base` seconds, doubled for each earlier
    attempt. A provider that asked for `asked_after` seconds gets them, and the jitter on top so that not everybody
    returns at once. No wait is longer than `cap` seconds; an answer that is no number of seconds counts as none.
    """
    jitter = min(math.ldexp(base, min(attempt - 1, _MOST_DOUBLINGS)), cap) * randomness
    asked = 0.0
    if asked_after is not None and asked_after > 0:
        asked = asked_after
    return now + math.ceil(min(asked + jitter, cap) * 1000)


def may_retry(attempt: int, attempts: int, due: int, expires_at: int | None) -> bool:
    """Whether attempt number `attempt` of at most `attempts` may be followed by another one at `due`."""
    return attempt < attempts and (expires_at is None or due < expires_at)
