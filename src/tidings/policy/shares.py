"""Each tenant's fair share of a lane: so much a second, and so much at once. What exceeds it is its surplus.

The surplus is sent too, with whatever is left of the system. So a share is no limit: it is what a tenant is sure of
however much the others send.
"""

from __future__ import annotations

from math import inf

from msgspec import Struct

from tidings.model.vocabulary import Priority
from tidings.policy.token_bucket import TokenBucket

MOST_REMEMBERED = 10_000


class ShareRules(Struct, frozen=True, kw_only=True):
    """The share of each tenant in each lane: notifications a second over time, and at once.

    `per_second` 0: everything is within its share.
    """

    per_second: float = 100.0
    burst: int = 200


class Shares:
    """What each tenant has left of its shares, in this process. Instants are milliseconds that only go forward."""

    def __init__(self, rules: ShareRules) -> None:
        self._rules = rules
        self._buckets: dict[tuple[str, Priority], TokenBucket] = {}

    @property
    def exist(self) -> bool:
        """Whether there are shares at all."""
        return self._rules.per_second > 0

    def cover(self, tenant: str, priority: Priority, count: int, now: int) -> bool:
        """Whether so many are within the share; of more than a burst, whether a whole burst is there."""
        if not self.exist:
            return True
        return self._bucket(tenant, priority, now).tokens(now) >= min(count, self._rules.burst)

    def take(self, tenant: str, priority: Priority, count: int, now: int, *, owing: bool = False) -> int:
        """Take up to `count` out of the share; how many of them are within it.

        `owing`: what exceeds it is owed, so that the tenant has less of its share until that is paid off.
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
        """A full bucket is as good as none. Where none is full, all are forgotten, which gives each a burst."""
        self._buckets = {key: one for key, one in self._buckets.items() if one.tokens(now) < one.burst}
        if len(self._buckets) >= MOST_REMEMBERED:
            self._buckets.clear()
