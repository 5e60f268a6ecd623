"""From what a provider answered to the facts that are recorded: sent, tried again later, passed on, or ended."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from tidings.model import topics
from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id, notification_of
from tidings.model.outcome import Outcome, Wait
from tidings.model.sending import Rejected, Retry, SendResult, Sent, Uncertain
from tidings.model.user import Category
from tidings.model.vocabulary import Reason, State
from tidings.model.wire import encode
from tidings.policy.retry import may_retry, retry_at


class RetryPolicy(Struct, frozen=True, gc=False):
    """How often and how patiently a delivery is tried. `base` and `cap` in seconds."""

    attempts: int = 3
    base: float = 2.0
    cap: float = 900.0


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
    result = tried.result
    if isinstance(result, Sent):
        state = State.DELIVERED if result.delivered else State.SENT
        return [fact(tried.delivery, now, state, provider=tried.provider, reference=result.reference)]
    if isinstance(result, Retry):
        return _again(
            tried,
            result,
            policy,
            now,
            retry_at(tried.delivery.attempt, now, result.after, policy.base, policy.cap, randomness),
        )
    if isinstance(result, Uncertain):
        if tried.idempotent or tried.category.allow_doubles:
            due = retry_at(tried.delivery.attempt, now, None, policy.base, policy.cap, randomness)
            return _again(tried, result, policy, now, due)
        return [fact(tried.delivery, now, State.UNCERTAIN, result.reason, tried.provider, detail=result.detail)]
    if result.fallback and tried.others:
        return _again(tried, result, policy, now, now)
    suppressing = fact(tried.delivery, now, State.FAILED, result.reason, tried.provider, detail=result.detail)
    return fall_back(tried.delivery, msgspec.structs.replace(suppressing, suppress=result.suppress), now)


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
        wait=_wait(msgspec.structs.replace(delivery, step=delivery.step + 1), due),
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
        alternatives=tuple(rest),
        tried=(),
    )
    return [
        msgspec.structs.replace(ending, wait=_wait(successor, now)),
        fact(successor, now, State.PENDING, Reason.FALLBACK),
    ]


def _again(
    tried: Tried, result: Retry | Rejected | Uncertain, policy: RetryPolicy, now: int, due: int
) -> list[Outcome]:
    """Another attempt at `due` after `result`, at another provider if there is one; or the end."""
    delivery = tried.delivery
    why = f"{result.reason} {result.detail}".strip()
    if not may_retry(delivery.attempt, policy.attempts, due, delivery.expires_at):
        expired = delivery.expires_at is not None and due >= delivery.expires_at
        state = State.EXPIRED if expired else State.DEAD
        reason = Reason.EXPIRED if expired else Reason.ATTEMPTS_EXHAUSTED
        ending = fact(delivery, now, state, reason, tried.provider, detail=why)
        return fall_back(delivery, ending, now)
    # After an uncertain answer only the same provider can tell a repetition from a second notification.
    move_on = tried.others and not isinstance(result, Uncertain)
    following = msgspec.structs.replace(
        delivery,
        attempt=delivery.attempt + 1,
        step=delivery.step + 1,
        tried=(*delivery.tried, tried.provider) if move_on else delivery.tried,
    )
    reason = Reason.FALLBACK if isinstance(result, Rejected) else Reason.RETRY
    return [fact(delivery, now, State.DEFERRED, reason, tried.provider, detail=why, wait=_wait(following, due))]


def _wait(delivery: Delivery, due: int) -> Wait:
    return Wait(due, topics.deliveries(delivery.channel, delivery.priority), delivery.key, encode(delivery))
