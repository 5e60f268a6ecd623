"""From what a provider answered to the facts that are recorded: sent, tried again later, passed on, or ended."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from tidings.model.delivery import Delivery, Doubt
from tidings.model.ids import delivery_id, notification_of
from tidings.model.outcome import Outcome, Wait
from tidings.model.sending import Rejected, Retry, SendResult, Sent, Uncertain
from tidings.model.user import Category
from tidings.model.vocabulary import Reason, State
from tidings.pipeline.deliveries import wait_for
from tidings.policy.retry import MOST_ATTEMPTS, RetryPolicy, is_throttled, may_retry, retry_at


class Tried(Struct, frozen=True, gc=False):
    """One delivery after one provider call. `others`: there are providers that have not refused it."""

    delivery: Delivery
    category: Category
    provider: str
    idempotent: bool
    others: bool
    result: SendResult


def judge(tried: Tried, policy: RetryPolicy, now: int, randomness: float) -> list[Outcome]:
    """The outcomes of one attempt."""
    result, delivery = tried.result, tried.delivery
    if isinstance(result, Sent):
        state = State.DELIVERED if result.delivered else State.SENT
        return [fact(delivery, now, state, provider=tried.provider, reference=result.reference)]
    if isinstance(result, Rejected) and not (result.fallback and tried.others):
        ending = fact(delivery, now, State.FAILED, result.reason, tried.provider, detail=result.detail)
        return fall_back(delivery, msgspec.structs.replace(ending, suppress=result.suppress), now)
    if isinstance(result, Uncertain) and not (tried.idempotent or tried.category.allow_doubles):
        return [fact(delivery, now, State.UNCERTAIN, result.reason, tried.provider, detail=result.detail)]
    return _again(tried, result, policy.of(tried.category.retries), now, randomness)


def fact(
    delivery: Delivery,
    now: int,
    state: State,
    reason: str = "",
    provider: str = "",
    *,
    reference: str = "",
    detail: str = "",
    wait: Wait | None = None,
) -> Outcome:
    """A fact about this attempt of the delivery."""
    return Outcome(
        id=delivery.id,
        tenant=delivery.tenant,
        at=now,
        state=state,
        attempt=delivery.attempt,
        step=delivery.step,
        reason=reason,
        provider=provider,
        reference=reference,
        detail=detail,
        address=delivery.address,
        wait=wait,
    )


def hold(delivery: Delivery, now: int, due: int, reason: str) -> Outcome:
    """The same attempt, not before `due`."""
    return fact(
        delivery,
        now,
        State.DEFERRED,
        reason,
        wait=wait_for(msgspec.structs.replace(delivery, step=delivery.step + 1), due),
    )


def fall_back(delivery: Delivery, ending: Outcome, now: int) -> list[Outcome]:
    """The delivery ends with `ending`; its first alternative, if it has one, takes over."""
    if not delivery.alternatives:
        return [ending]
    (slot, address), *rest = delivery.alternatives
    successor = msgspec.structs.replace(
        delivery,
        id=delivery_id(notification_of(delivery.id), slot),
        address=address,
        attempt=1,
        step=0,
        first_attempt=1,
        alternatives=tuple(rest),
        tried=(),
        pinned="",
        uncounted=0,
        doubt=min(delivery.doubt, Doubt.COPY),
    )
    return [
        msgspec.structs.replace(ending, wait=wait_for(successor, now)),
        fact(successor, now, State.PENDING, Reason.FALLBACK),
    ]


def _again(
    tried: Tried, result: Retry | Rejected | Uncertain, policy: RetryPolicy, now: int, randomness: float
) -> list[Outcome]:
    """Another attempt after `result`, or the end."""
    delivery = tried.delivery
    why = f"{result.reason} {result.detail}".strip()
    following = _following(tried, result)
    # Another provider can be asked at once; the same one gets the time that it needs.
    due = now if following.tried else _due(tried, result, policy, now, randomness)
    if (
        not may_retry(_tries(delivery) - is_throttled(result), policy.attempts, due, delivery.expires_at)
        or delivery.attempt >= MOST_ATTEMPTS
    ):
        expired = delivery.expires_at is not None and due >= delivery.expires_at
        state = State.EXPIRED if expired else State.DEAD
        reason = Reason.EXPIRED if expired else Reason.ATTEMPTS_EXHAUSTED
        return fall_back(delivery, fact(delivery, now, state, reason, tried.provider, detail=why), now)
    reason = Reason.FALLBACK if following.tried else Reason.RETRY
    return [fact(delivery, now, State.DEFERRED, reason, tried.provider, detail=why, wait=wait_for(following, due))]


def _following(tried: Tried, result: Retry | Rejected | Uncertain) -> Delivery:
    """The delivery as it is tried next: where, and what counts as a try.

    After an uncertain answer only the same provider can tell a repetition from a second notification; a category that
    allows doubles may go elsewhere. A provider that only asked for less has not used up a try.
    """
    delivery = tried.delivery
    pinned = isinstance(result, Uncertain) and tried.idempotent
    move_on = tried.others and not pinned
    return msgspec.structs.replace(
        delivery,
        attempt=delivery.attempt + 1,
        step=delivery.step + 1,
        tried=(*delivery.tried, tried.provider) if move_on else (),
        pinned=tried.provider if pinned else "",
        uncounted=delivery.uncounted + is_throttled(result),
    )


def _tries(delivery: Delivery) -> int:
    """How many tries this attempt makes."""
    return delivery.attempt - delivery.first_attempt - delivery.uncounted + 1


def _due(tried: Tried, result: Retry | Rejected | Uncertain, policy: RetryPolicy, now: int, randomness: float) -> int:
    asked = result.after if isinstance(result, Retry) else None
    return retry_at(_tries(tried.delivery), now, asked, policy.base, policy.cap, randomness)
