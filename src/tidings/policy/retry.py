"""When, and whether, a failed attempt is made again, and what a failure says about the provider."""

from __future__ import annotations

import math

from msgspec import Struct

from tidings.model.sending import Retry, SendResult, Uncertain
from tidings.model.user import Retries

MOST_ATTEMPTS = 200
"""However often a provider asks for patience: after so many attempts a delivery is a dead letter."""

_MOST_DOUBLINGS = 62
_THROTTLED = frozenset({"throttled", "busy", "queue_full"})
_FAULTS = frozenset(
    {
        "unreachable",
        "connection_lost",
        "no_answer",
        "provider_error",
        "unavailable",
        "service_unavailable",
        "store_unavailable",
        "unauthorized",
        "no_access_token",
        "third_party_auth",
        "account_inactive",
        "account_suspended",
        "forbidden",
        "no_such_project",
        "local_error",
        "insufficient_storage",
    }
)


class RetryPolicy(Struct, frozen=True, gc=False):
    """How often and how patiently a delivery is tried. `base` and `cap` in seconds."""

    attempts: int = 3
    base: float = 2.0
    cap: float = 900.0

    def of(self, retries: Retries) -> RetryPolicy:
        """The same with what a category wants otherwise."""
        return RetryPolicy(
            self.attempts if retries.attempts is None else retries.attempts,
            self.base if retries.base is None else retries.base,
            self.cap if retries.cap is None else retries.cap,
        )


def is_throttled(result: SendResult) -> bool:
    """Whether the provider only asked for less at once: no try is used up, and nothing is wrong with it."""
    return isinstance(result, Retry) and result.reason in _THROTTLED


def is_fault(result: SendResult) -> bool:
    """Whether the provider itself failed, rather than this one address or content."""
    return isinstance(result, Uncertain) or (isinstance(result, Retry) and result.reason in _FAULTS)


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
