"""A provider, and how the deliveries of its channel use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from tidings.policy.token_bucket import TokenBucket
from tidings.ports.provider import Provider


def of_its_own(_name: str, rate: float, burst: float) -> TokenBucket:
    """A token bucket that no other process shares."""
    return TokenBucket(rate, burst)


class Routed(Struct, frozen=True):
    """A provider and how it is used.

    `weight`: its part of the traffic, relative to the other providers; 0: a spare, used only if no other may be.
    `patience_s`: how long a send waits for its turn at most. After that it goes back unbegun, so that no batch outlives
    its lease. `longest_pause_s`: the longest pause after the provider asked the account to wait, whatever it asked for.
    `bucket`: makes the token bucket that keeps the vendor's rate, from a name, tokens a second, and tokens at once.
    """

    provider: Provider[Any]
    weight: int = 1
    patience_s: float = 10.0
    longest_pause_s: float = 900.0
    bucket: Callable[[str, float, float], TokenBucket] = of_its_own
