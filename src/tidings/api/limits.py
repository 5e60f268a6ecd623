"""How much a tenant and a key may ask for: token buckets, and the headers that tell where they stand.

Headers as in draft-ietf-httpapi-ratelimit-headers-06: the fields of the bucket that is nearest to its end, and all of
them in the policy. A caller without limits costs nothing and sees none of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tidings.api.problems import Refused
from tidings.model.tenant import ApiKey, DefaultRates, Rate
from tidings.ports.tokens import Drawn, Tokens

AHEAD = 0.1
"""Seconds' worth of tokens that a process draws ahead where others draw from the same bucket."""

MOST_REMEMBERED = 10_000

Headers = list[tuple[bytes, bytes]]


class _Bucket:
    """This process's part of one bucket. `of` and `unit` name it for people."""

    def __init__(self, tokens: Tokens, name: str, rate: Rate, of: str, unit: str) -> None:
        self.rate = rate
        self.of = of
        self.unit = unit
        self._tokens = tokens
        self._name = name
        self._ahead = AHEAD * rate.per_second if tokens.shared else 0.0
        self._mine = 0.0
        self._seen = Drawn(0.0, rate.burst, 0.0, 0.0)
        window = math.ceil(rate.burst / rate.per_second)
        self.policy = f'{rate.burst};w={window};comment="{unit} by {of}"'.encode()

    async def take(self, count: int) -> float:
        """Take `count` tokens; 0, or the seconds until that is possible, and then nothing was taken."""
        if self._mine < count:
            lacking = count - self._mine
            self._seen = drawn = await self._tokens.draw(self._name, self.rate, lacking, max(lacking, self._ahead))
            if not drawn.tokens:
                return drawn.wait
            self._mine += drawn.tokens
        self._mine -= count
        return 0.0

    def give_back(self, count: int) -> None:
        """What was taken is not needed."""
        self._mine += count

    @property
    def left(self) -> float:
        """How many tokens there are, as far as this process knows."""
        return self._mine + self._seen.left

    def fields(self) -> Headers:
        """Where it stands."""
        return [
            (b"ratelimit-limit", b"%d" % self.rate.burst),
            (b"ratelimit-remaining", b"%d" % max(0, math.floor(self.left))),
            (b"ratelimit-reset", b"%d" % math.ceil(self._seen.full)),
        ]


class Allowance:
    """The buckets of one key and its tenant."""

    def __init__(self, buckets: Sequence[_Bucket]) -> None:
        self._requests = [bucket for bucket in buckets if bucket.unit == _REQUESTS]
        self._notifications = [bucket for bucket in buckets if bucket.unit == _NOTIFICATIONS]
        self._policy = (b"ratelimit-policy", b", ".join(bucket.policy for bucket in buckets))

    async def spend(self, requests: int, notifications: int) -> tuple[Headers, Refused | None]:
        """Take all of it, or nothing and say why."""
        asked = [(bucket, requests) for bucket in self._requests if requests]
        asked += [(bucket, notifications) for bucket in self._notifications if notifications]
        for place, (bucket, count) in enumerate(asked):
            wait = await bucket.take(count)
            if wait:
                for taken, given in asked[:place]:
                    taken.give_back(given)
                return [*bucket.fields(), self._policy], _refusal(bucket, wait)
        nearest = min((bucket for bucket, _ in asked), key=lambda bucket: bucket.left / bucket.rate.burst, default=None)
        return ([] if nearest is None else nearest.fields()) + [self._policy], None


class Visit:
    """One request, whose `caller` is known once the limiter has let it enter.

    `headers` tell where the caller's limits stand; they go out with whatever is answered.
    """

    __slots__ = ("allowance", "caller", "headers")

    caller: ApiKey

    def __init__(self) -> None:
        self.headers: Headers = []
        self.allowance: Allowance | None = None

    async def spend(self, requests: int = 0, notifications: int = 0) -> None:
        """Raises Refused (429) when that is more than the caller may ask for now."""
        if self.allowance is not None:
            self.headers, refused = await self.allowance.spend(requests, notifications)
            if refused is not None:
                raise refused

    async def admit(self, notifications: int) -> None:
        """See pipeline/accept/stage.py: raises Refused (429) when so many are too many now."""
        await self.spend(0, notifications)


class Limiter:
    """Knows what each key may ask for."""

    def __init__(self, tokens: Tokens, defaults: DefaultRates) -> None:
        self._tokens = tokens
        self._defaults = defaults
        self._known: dict[bytes, tuple[ApiKey, Allowance | None]] = {}
        self._buckets: dict[tuple[str, Rate], _Bucket] = {}

    def enter(self, visit: Visit, caller: ApiKey) -> None:
        """The request comes from `caller`."""
        visit.caller = caller
        known = self._known.get(caller.digest)
        if known is None or known[0] is not caller:  # the keyring reads keys anew every second
            known = self._remember(caller)
        visit.allowance = known[1]

    def _remember(self, caller: ApiKey) -> tuple[ApiKey, Allowance | None]:
        if max(len(self._known), len(self._buckets)) >= MOST_REMEMBERED:
            self._known.clear()
            self._buckets.clear()
        tenant, key = f"tenant {caller.tenant}", f"key {caller.prefix}"
        buckets = [
            self._bucket(f"{name}/{unit}", rate, of, unit)
            for name, of, own, default in (
                (f"tenant/{caller.tenant}", tenant, caller.tenant_limits, self._defaults.tenant),
                (f"key/{caller.tenant}/{caller.id}", key, caller.limits, self._defaults.key),
            )
            for unit, rate in (
                (_REQUESTS, own.requests or default.requests),
                (_NOTIFICATIONS, own.notifications or default.notifications),
            )
            if rate is not None and rate.per_second
        ]
        known = self._known[caller.digest] = caller, Allowance(buckets) if buckets else None
        return known

    def _bucket(self, name: str, rate: Rate, of: str, unit: str) -> _Bucket:
        """The keys of a tenant share its bucket, and one bucket lives as long as its rate."""
        bucket = self._buckets.get((name, rate))
        if bucket is None:
            bucket = self._buckets[name, rate] = _Bucket(self._tokens, name, rate, of, unit)
        return bucket


def _refusal(bucket: _Bucket, wait: float) -> Refused:
    rate = bucket.rate
    return Refused(
        429,
        "rate_limited",
        f"the {bucket.of} may ask for {rate.per_second:g} {bucket.unit} a second and {rate.burst} at once; go on in "
        f"{wait:.3g} s",
        headers=[(b"retry-after", b"%d" % math.ceil(wait))],
    )


_REQUESTS, _NOTIFICATIONS = "requests", "notifications"
