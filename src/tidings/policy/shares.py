"""Each tenant's fair share of a lane, a rate and a burst. The notifications beyond it are the tenant's surplus.

The surplus is sent too, with the capacity that is left. So a share is not a limit: it is what a tenant can count on,
however much the others send.
"""

from __future__ import annotations

from math import inf

from msgspec import Struct

from tidings.model.vocabulary import Priority
from tidings.policy.token_bucket import TokenBucket

MOST_REMEMBERED = 10_000
"""How many buckets (one for a tenant in a lane) a process keeps."""


class ShareRules(Struct, frozen=True, kw_only=True):
    """The share of each tenant in each lane: `per_second` notifications over time, `burst` at once.

    `per_second` 0: there are no shares, and nothing is surplus.
    """

    per_second: float = 100.0
    burst: int = 200


class Shares:
    """What each tenant has left of its shares in this process. Instants are milliseconds that only go forward."""

    def __init__(self, rules: ShareRules) -> None:
        self._rules = rules
        self._buckets: dict[tuple[str, Priority], TokenBucket] = {}

    @property
    def exist(self) -> bool:
        """Whether the rules set any share."""
        return self._rules.per_second > 0

    def cover(self, tenant: str, priority: Priority, count: int, now: int) -> bool:
        """Whether `count` notifications are within the share; more than a burst count as a whole burst."""
        if not self.exist:
            return True
        return self._bucket(tenant, priority, now).tokens(now) >= min(count, self._rules.burst)

    def take(self, tenant: str, priority: Priority, count: int, now: int, *, owing: bool = False) -> int:
        """Take up to `count` notifications out of the share; returns how many are within it.

        `owing`: take the others too, so that the tenant has none of its share until it has made up for them.
        """
        if not self.exist:
            return count
        bucket = self._bucket(tenant, priority, now)
        within = max(0, min(count, int(bucket.tokens(now))))
        bucket.take(count if owing else within, now, -inf)
        return within

    def _bucket(self, tenant: str, priority: Priority, now: int) -> TokenBucket:
        key = tenant, priority
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MOST_REMEMBERED:
                self._forget(now)
            bucket = self._buckets[key] = TokenBucket(self._rules.per_second, self._rules.burst)
        return bucket

    def _forget(self, now: int) -> None:
        """Drop full buckets: a new one is the same. If none is full, drop all, which gives each tenant a burst."""
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if bucket.tokens(now) < bucket.burst}
        if len(self._buckets) >= MOST_REMEMBERED:
            self._buckets.clear()
