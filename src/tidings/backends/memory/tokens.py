"""Token buckets in the process, for installations with one API process."""

from __future__ import annotations

from tidings.model.tenant import Rate
from tidings.policy.token_bucket import TokenBucket
from tidings.ports.clock import Clock
from tidings.ports.tokens import Drawn

MOST_BUCKETS = 100_000


class MemoryTokens:
    """See Tokens."""

    shared = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    async def draw(self, bucket: str, rate: Rate, least: float, most: float) -> Drawn:
        """See Tokens."""
        now = self._clock.elapsed()
        known = self._buckets.get(bucket)
        if known is None or known.rate != rate.per_second or known.burst != rate.burst:
            if len(self._buckets) >= MOST_BUCKETS:
                self._buckets.clear()
            known = self._buckets[bucket] = TokenBucket(rate.per_second, rate.burst)
        there = known.tokens(now)
        wanted = max(least, min(most, there))
        # A draw larger than the bucket is granted by a full bucket, which then owes the rest.
        granted = known.take(wanted, now, min(0.0, rate.burst - wanted))
        left = known.tokens(now)
        wait = 0.0 if granted else max(0.001, (min(least, rate.burst) - left) / rate.per_second)
        return Drawn(wanted if granted else 0.0, left, wait, (rate.burst - left) / rate.per_second)
