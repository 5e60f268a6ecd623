"""How much a tenant and a key may ask for: token buckets, and the headers that show their state.

The headers follow draft-ietf-httpapi-ratelimit-headers-06. Limit, remaining and reset describe the bucket that has the
smallest part left; the policy lists all buckets. A caller without limits costs nothing and gets no headers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tidings.api.problems import Refused
from tidings.model.tenant import ApiKey, DefaultRates, Rate
from tidings.ports.tokens import Drawn, Tokens

DRAW_AHEAD_S = 0.1
"""How many seconds' worth of tokens a process draws ahead from a bucket that it shares with other processes."""

MOST_REMEMBERED = 10_000
"""Keys, or buckets, that a process remembers."""

Headers = list[tuple[bytes, bytes]]


class _Bucket:
    """One bucket, with the tokens that this process has drawn from it.

    `owner` ("tenant shop") and `unit` ("requests") name the bucket for people.
    """

    def __init__(self, tokens: Tokens, name: str, rate: Rate, owner: str, unit: str) -> None:
        self.rate = rate
        self.owner = owner
        self.unit = unit
        self._tokens = tokens
        self._name = name
        self._draw_ahead = DRAW_AHEAD_S * rate.per_second if tokens.shared else 0.0
        self._drawn_tokens = 0.0
        self._last_draw = Drawn(0.0, rate.burst, 0.0, 0.0)
        window_s = math.ceil(rate.burst / rate.per_second)
        self.policy = f'{rate.burst};w={window_s};comment="{unit} by {owner}"'.encode()

    async def take(self, count: int) -> float:
        """Take `count` tokens and return 0; or take none and return the seconds until it is possible."""
        if self._drawn_tokens < count:
            least = count - self._drawn_tokens
            draw = await self._tokens.draw(self._name, self.rate, least, max(least, self._draw_ahead))
            self._last_draw = draw
            if not draw.tokens:
                return draw.wait_s
            self._drawn_tokens += draw.tokens
        self._drawn_tokens -= count
        return 0.0

    def give_back(self, count: int) -> None:
        """Keep `count` tokens, which `take` gave and nobody used, for the next request."""
        self._drawn_tokens += count

    @property
    def left(self) -> float:
        """How many tokens are left, as far as this process knows."""
        return self._drawn_tokens + self._last_draw.left

    def headers(self) -> Headers:
        """The RateLimit headers that describe this bucket."""
        return [
            (b"ratelimit-limit", b"%d" % self.rate.burst),
            (b"ratelimit-remaining", b"%d" % max(0, math.floor(self.left))),
            (b"ratelimit-reset", b"%d" % math.ceil(self._last_draw.full_s)),
        ]


class Allowance:
    """The buckets of one key and its tenant."""

    def __init__(self, buckets: Sequence[_Bucket]) -> None:
        self._requests = [bucket for bucket in buckets if bucket.unit == _REQUESTS]
        self._notifications = [bucket for bucket in buckets if bucket.unit == _NOTIFICATIONS]
        self._policy = (b"ratelimit-policy", b", ".join(bucket.policy for bucket in buckets))

    async def spend(self, requests: int, notifications: int) -> tuple[Headers, Refused | None]:
        """Take the tokens from all buckets, or none and give the refusal; and the headers for the answer."""
        needed = [(bucket, requests) for bucket in self._requests if requests]
        needed += [(bucket, notifications) for bucket in self._notifications if notifications]
        for index, (bucket, count) in enumerate(needed):
            wait_s = await bucket.take(count)
            if wait_s:
                for earlier, taken in needed[:index]:
                    earlier.give_back(taken)
                return [*bucket.headers(), self._policy], _refusal(bucket, wait_s)
        lowest = min((bucket for bucket, _ in needed), key=lambda bucket: bucket.left / bucket.rate.burst, default=None)
        return ([] if lowest is None else lowest.headers()) + [self._policy], None


class Visit:
    """One request and its caller's limits. `caller` is set by `Limiter.enter`.

    `headers` show the state of the limits; every answer to the request carries them.
    """

    __slots__ = ("allowance", "caller", "headers")

    caller: ApiKey

    def __init__(self) -> None:
        self.headers: Headers = []
        self.allowance: Allowance | None = None

    async def spend(self, requests: int = 0, notifications: int = 0) -> None:
        """Take tokens for so many requests and notifications. Raises Refused (429) when there are too few."""
        if self.allowance is not None:
            self.headers, refused = await self.allowance.spend(requests, notifications)
            if refused is not None:
                raise refused

    async def admit(self, notifications: int) -> None:
        """The hook of pipeline/accept/stage.py: raises Refused (429) when these are too many now."""
        await self.spend(0, notifications)


class Limiter:
    """Finds the limits of each key."""

    def __init__(self, tokens: Tokens, defaults: DefaultRates) -> None:
        self._tokens = tokens
        self._defaults = defaults
        self._known: dict[bytes, tuple[ApiKey, Allowance | None]] = {}
        self._buckets: dict[tuple[str, Rate], _Bucket] = {}

    def enter(self, visit: Visit, caller: ApiKey) -> None:
        """Set the request's caller and its limits."""
        visit.caller = caller
        entry = self._known.get(caller.digest)
        if entry is None or entry[0] is not caller:  # the keyring reads keys anew every second; limits may change
            entry = self._remember(caller)
        visit.allowance = entry[1]

    def _remember(self, caller: ApiKey) -> tuple[ApiKey, Allowance | None]:
        if max(len(self._known), len(self._buckets)) >= MOST_REMEMBERED:
            self._known.clear()
            self._buckets.clear()
        tenant, key = f"tenant {caller.tenant}", f"key {caller.prefix}"
        buckets = [
            self._bucket(f"{name}/{unit}", rate, owner, unit)
            for name, owner, own, default in (
                (f"tenant/{caller.tenant}", tenant, caller.tenant_limits, self._defaults.tenant),
                (f"key/{caller.tenant}/{caller.id}", key, caller.limits, self._defaults.key),
            )
            for unit, rate in (
                (_REQUESTS, own.requests or default.requests),
                (_NOTIFICATIONS, own.notifications or default.notifications),
            )
            if rate is not None and rate.per_second
        ]
        entry = self._known[caller.digest] = caller, Allowance(buckets) if buckets else None
        return entry

    def _bucket(self, name: str, rate: Rate, owner: str, unit: str) -> _Bucket:
        """The bucket with this name and rate. All keys of a tenant share the tenant's bucket."""
        bucket = self._buckets.get((name, rate))
        if bucket is None:
            bucket = self._buckets[name, rate] = _Bucket(self._tokens, name, rate, owner, unit)
        return bucket


def _refusal(bucket: _Bucket, wait_s: float) -> Refused:
    rate = bucket.rate
    return Refused(
        429,
        "rate_limited",
        f"the {bucket.owner} may ask for {rate.per_second:g} {bucket.unit} a second and {rate.burst} at once; try "
        f"again in {wait_s:.3g} s",
        headers=[(b"retry-after", b"%d" % math.ceil(wait_s))],
    )


_REQUESTS, _NOTIFICATIONS = "requests", "notifications"
