"""From what a provider answered to the facts that are recorded: sent, tried again later, passed on, or ended."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from tidings.model.delivery import Delivery
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
        ending = msgspec.structs.replace(ending, suppress=result.suppress)
        return end(msgspec.structs.replace(delivery, doubtful=_in_doubt(tried)), tried.category, ending, now)
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


def second_copy(delivery: Delivery, now: int, patience: int, *, surplus: bool) -> Outcome:
    """A copy of an attempt that may be under way elsewhere: looked at again after `patience` milliseconds.

    By then the claim over the first copy has ended and its facts tell. A fact of another state than `hold` gives, so
    that neither copy's wait takes the place of the other's. `surplus`: it came from there, and comes back there, behind
    an original that may wait in the same queue.
    """
    waiting = msgspec.structs.replace(delivery, step=delivery.step + 1)
    wait = wait_for(waiting, now + patience, surplus=surplus)
    return fact(waiting, now, State.PENDING, Reason.MAY_HAVE_BEEN_SENT, wait=wait)


def end(delivery: Delivery, category: Category, ending: Outcome, now: int) -> list[Outcome]:
    """The delivery ends with `ending`; in doubt, when an earlier attempt may have been taken.

    An alternative takes over, unless the person might then get it twice and the category does not allow that.
    """
    ending = doubted(delivery, ending)
    if ending.state is State.CANCELLED or (delivery.doubtful and not category.allow_doubles):
        return [ending]
    return fall_back(delivery, ending, now)


def doubted(delivery: Delivery, ending: Outcome) -> Outcome:
    """The ending as far as it is certain: where an earlier attempt may have been taken it is not."""
    if not delivery.doubtful:
        return ending
    detail = f"{ending.reason} {ending.detail}".strip()
    return msgspec.structs.replace(ending, state=State.UNCERTAIN, reason=Reason.MAY_HAVE_BEEN_SENT, detail=detail)


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
        doubtful=False,
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
        ending = fact(delivery, now, state, reason, tried.provider, detail=why)
        return end(following, tried.category, ending, now)
    reason = Reason.FALLBACK if following.tried else Reason.RETRY
    return [fact(delivery, now, State.DEFERRED, reason, tried.provider, detail=why, wait=wait_for(following, due))]


def _following(tried: Tried, result: Retry | Rejected | Uncertain) -> Delivery:
    """The delivery as it is tried next: where, and what counts as a try.

    After an uncertain answer only the same provider can tell a repetition from a second notification; a category that
    allows doubles may go elsewhere. A provider that only asked for less has not used up a try.
    """
    delivery = tried.delivery
    doubtful = _in_doubt(tried)
    # Once in doubt, always: a later `Retry` of the same provider says nothing about the earlier attempt.
    pinned = tried.idempotent and doubtful and (isinstance(result, Uncertain) or delivery.pinned == tried.provider)
    move_on = tried.others and not pinned
    return msgspec.structs.replace(
        delivery,
        attempt=delivery.attempt + 1,
        step=delivery.step + 1,
        tried=(*delivery.tried, tried.provider) if move_on else (),
        pinned=tried.provider if pinned else "",
        uncounted=delivery.uncounted + is_throttled(result),
        doubtful=doubtful,
    )


def _tries(delivery: Delivery) -> int:
    """How many tries this attempt makes."""
    return delivery.attempt - delivery.first_attempt - delivery.uncounted + 1


def _in_doubt(tried: Tried) -> bool:
    """Whether this or an earlier attempt may have been taken.

    A provider that knows its keys and refuses one has not taken it before.
    """
    delivery = tried.delivery
    if isinstance(tried.result, Rejected) and tried.idempotent and delivery.pinned == tried.provider:
        return False
    return delivery.doubtful or isinstance(tried.result, Uncertain)


def _due(tried: Tried, result: Retry | Rejected | Uncertain, policy: RetryPolicy, now: int, randomness: float) -> int:
    asked = result.after if isinstance(result, Retry) else None
    return retry_at(_tries(tried.delivery), now, asked, policy.base, policy.cap, randomness)
