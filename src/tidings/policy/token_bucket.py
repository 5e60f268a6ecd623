"""A token bucket: at most `rate` a second over time, at most `burst` at once.

Instants are milliseconds of a clock that only goes forward; `now` is an argument.
"""

from __future__ import annotations

import math


class TokenBucket:
    """A bucket that is full at the start. `rate` is in tokens per second, `burst` in tokens."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._filled_at: int | None = None

    def tokens(self, now: int) -> float:
        """How many tokens are there at `now`; negative while more were taken than there were."""
        if self._filled_at is None:
            self._filled_at = now
        elif now > self._filled_at:
            self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate / 1000)
            self._filled_at = now
        return self._tokens

    def take(self, count: float, now: int, leave: float = 0.0) -> bool:
        """Take `count` tokens if at least `leave` remain; returns False and takes none otherwise."""
        if self.tokens(now) - count < leave:
            return False
        self._tokens -= count
        return True

    def wait_ms(self, count: int, now: int, leave: float = 0.0) -> int:
        """How long until `count` tokens can be taken, if nobody else takes any."""
        lacking = count + leave - self.tokens(now)
        return max(0, math.ceil(lacking / self.rate * 1000))
