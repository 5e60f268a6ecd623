"""Whether and when a failed attempt is made again, and what a failure says about the provider."""

from __future__ import annotations

import math

from msgspec import Struct

from tidings.model.sending import About, Retry, SendResult, Uncertain
from tidings.model.user import Retries

THROTTLED = "throttled"
"""The provider asks for less at once; also the reason of deliveries that wait because the account was asked to."""
BUSY = "busy"
"""The delivery did not get its turn at the provider."""
PATIENT_BASE = 300.0
"""Seconds before the second try where a provider puts one recipient off: mail servers usually want to see that."""
PATIENT_CAP = 3_600.0
SHORTEST_HOLD_MS = 500
LAST_LOOK_MS = 1_000
"""How long before its end a delivery that waits for a provider is looked at for the last time."""

_MOST_DOUBLINGS = 62
_ASKS_FOR_LESS = frozenset({THROTTLED, "queue_full"})
_NOT_OFFERED = frozenset({"unreachable", BUSY})
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
        "account_inactive",
        "account_suspended",
        "forbidden",
        "no_such_project",
    }
)


class RetryPolicy(Struct, frozen=True, gc=False):
    """How often a delivery is tried, and how long it waits between tries. Names ending in `_s` are seconds.

    `patient_attempts` replaces `attempts` where a provider puts one recipient off for minutes. A delivery waits for a
    provider that is out, or that asked the account to wait, for at most `hold_s`, and at most `hold_pause_s` at a time.
    """

    attempts: int = 3
    base_s: float = 2.0
    cap_s: float = 900.0
    patient_attempts: int = 8
    hold_s: float = 86_400.0
    hold_pause_s: float = 1_800.0

    def of(self, retries: Retries) -> RetryPolicy:
        """The policy with a category's own settings. Its number of attempts also replaces `patient_attempts`."""
        return RetryPolicy(
            self.attempts if retries.attempts is None else retries.attempts,
            self.base_s if retries.base_s is None else retries.base_s,
            self.cap_s if retries.cap_s is None else retries.cap_s,
            self.patient_attempts if retries.attempts is None else retries.attempts,
            self.hold_s,
            self.hold_pause_s,
        )


def about(result: Retry) -> About:
    """Whom the answer is about: as the provider says, else as follows from its reason."""
    if result.about is not None:
        return result.about
    return About.UNOFFERED if result.reason in _NOT_OFFERED else About.DELIVERY


def is_throttled(result: SendResult) -> bool:
    """Whether the provider only asked for less at once. Then nothing is wrong with it."""
    return isinstance(result, Retry) and result.reason in _ASKS_FOR_LESS


def is_fault(result: SendResult) -> bool:
    """Whether the provider itself failed, not just this address or content."""
    if not isinstance(result, Retry):
        return isinstance(result, Uncertain)
    return result.reason in _FAULTS or (about(result) is About.UNOFFERED and result.reason not in _NOT_OFFERED)


def retry_at(attempt: int, now: int, asked_after: float | None, base_s: float, cap_s: float, randomness: float) -> int:
    """When to try again after attempt number `attempt` (from 1) failed at `now`; milliseconds since the epoch.

    Exponential backoff with full jitter: the fraction `randomness` (0 to 1) of `base_s` seconds, doubled for each
    earlier attempt. If the provider asked for `asked_after` seconds, the jitter comes on top, so that not all
    deliveries return at once. No wait is longer than `cap_s` seconds. An `asked_after` that is not positive counts as
    none.
    """
    jitter = min(_doubled(base_s, attempt - 1), cap_s) * randomness
    return now + math.ceil(min(_seconds(asked_after) + jitter, cap_s) * 1000)


def patient_at(attempt: int, now: int, asked_after: float | None, randomness: float) -> int:
    """As `retry_at`, for a provider that puts off this one recipient: five minutes, doubled up to an hour.

    Up to a quarter of jitter comes on top. The wait is as long as the provider asked for, up to the hour: a greylist
    that is asked too early begins anew.
    """
    pause = max(_doubled(PATIENT_BASE, attempt - 1), _seconds(asked_after))
    return now + math.ceil(min(pause * (1 + randomness / 4), PATIENT_CAP) * 1000)


def may_retry(attempt: int, attempts: int, due: int, expires_at: int | None) -> bool:
    """Whether another attempt may follow at `due` after attempt number `attempt` of at most `attempts`."""
    return attempt < attempts and (expires_at is None or due < expires_at)


def hold_until(
    waits: int, now: int, ends_at: int, known_s: float, policy: RetryPolicy, randomness: float
) -> int | None:
    """When to look again at a delivery that waits for a provider; None if it ends before another look is worthwhile.

    `waits` is how often it has waited already, `ends_at` when it must have gone out, `known_s` the seconds until the
    provider may be used again, as far as is known. Pauses double, so an outage of hours costs a delivery a handful of
    looks; the last one is just before the end. However short the back-off, a pause is `SHORTEST_HOLD_MS` at least: only
    the end of its time ends a delivery. Instants are milliseconds since the epoch.
    """
    growing = min(_doubled(policy.base_s, waits), policy.hold_pause_s) * (0.8 + 0.2 * randomness)
    pause = max(growing, _seconds(known_s) + policy.base_s * randomness, SHORTEST_HOLD_MS / 1000)
    due = min(now + math.ceil(min(pause, policy.hold_s) * 1000), ends_at - LAST_LOOK_MS)
    return due if due >= now + SHORTEST_HOLD_MS else None


def _doubled(base_s: float, times: int) -> float:
    return math.ldexp(base_s, min(times, _MOST_DOUBLINGS))


def _seconds(asked: float | None) -> float:
    return asked if asked is not None and asked > 0 else 0.0
