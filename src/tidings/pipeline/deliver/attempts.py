"""From a provider's answer to facts: the delivery is sent, tried again, passed on to an alternative, or ends.

docs/how-it-works/one-delivery.md has a table of the answers, and says what attempts, steps, doubt and pinning are.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id, notification_of
from tidings.model.outcome import Outcome, Wait
from tidings.model.sending import About, Rejected, Retry, SendResult, Sent, Uncertain
from tidings.model.user import Category
from tidings.model.vocabulary import Reason, State
from tidings.pipeline.deliver.answers import is_too_late
from tidings.pipeline.runtime.deliveries import wait_for
from tidings.policy.retry import (
    BUSY,
    PATIENT_BASE,
    THROTTLED,
    RetryPolicy,
    about,
    hold_until,
    is_throttled,
    may_retry,
    patient_at,
    retry_at,
)


class Tried(Struct, frozen=True, gc=False):
    """One delivery after one provider call.

    `has_others`: another provider can be asked at once. `refused_by_all_others`: no other provider will ever take it.
    `copy`: the delivery as the queue gave it, if it is marked repeated and was not begun; else None.
    """

    delivery: Delivery
    category: Category
    provider: str
    idempotent: bool
    has_others: bool
    result: SendResult
    refused_by_all_others: bool = True
    copy: Delivery | None = None

    @property
    def used_up_no_try(self) -> bool:
        """Whether the answer is about the account or nobody, so that it does not count against the allowed tries."""
        return isinstance(self.result, Retry) and about(self.result) is not About.DELIVERY

    @property
    def was_asked(self) -> bool:
        """Whether the provider was asked, and its answer is about this delivery."""
        return not (self.used_up_no_try or is_too_late(self.result))


def judge(tried: Tried, policy: RetryPolicy, now: int, randomness: float) -> list[Outcome]:
    """The outcomes of one provider call for one delivery. `randomness` is from 0 to 1."""
    result, delivery = tried.result, tried.delivery
    if isinstance(result, Sent):
        state = State.DELIVERED if result.delivered else State.SENT
        return [fact(delivery, now, state, provider=tried.provider, reference=result.reference)]
    if isinstance(result, Rejected) and (not result.fallback or tried.refused_by_all_others):
        ending = fact(delivery, now, State.FAILED, result.reason, tried.provider, detail=result.detail)
        ending = msgspec.structs.replace(ending, suppress=result.suppress)
        return end(msgspec.structs.replace(delivery, doubtful=_in_doubt(tried)), tried.category, ending, now)
    if isinstance(result, Uncertain) and not (tried.idempotent or tried.category.allow_doubles):
        return [fact(delivery, now, State.UNCERTAIN, result.reason, tried.provider, detail=result.detail)]
    if isinstance(result, Retry) and tried.used_up_no_try and not tried.has_others:
        return _wait_for_provider(tried, result, policy, now, randomness)
    return _try_again_or_end(tried, result, policy.of(tried.category.retries), now, randomness)


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
    """The fact that the delivery waits until `due` and then goes on with the same attempt."""
    return fact(
        delivery,
        now,
        State.DEFERRED,
        reason,
        wait=wait_for(msgspec.structs.replace(delivery, step=delivery.step + 1), due),
    )


def put_off(
    delivery: Delivery,
    category: Category,
    policy: RetryPolicy,
    now: int,
    randomness: float,
    why: Outcome,
    usable_in_s: float = 0.0,
) -> list[Outcome]:
    """The outcomes of a delivery that waits for a provider as held: it uses up no try.

    `why` is the fact to record, with reason and provider. The delivery ends with the same reason once it has waited for
    too long, or earlier if it has an alternative and has waited as often as it may be tried. `usable_in_s`: seconds
    until a provider may be used again, as far as is known.
    """
    policy = policy.of(category.retries)
    since = now if delivery.waiting_since is None else delivery.waiting_since
    gives_up_at = since + round(policy.hold_s * 1000)
    ends_at = gives_up_at if delivery.expires_at is None else min(gives_up_at, delivery.expires_at)
    due = hold_until(delivery.waits, now, ends_at, usable_in_s, policy, randomness)
    if due is None:
        expired = delivery.expires_at is not None and ends_at == delivery.expires_at
        state = State.EXPIRED if expired else State.DEAD
        return end(delivery, category, msgspec.structs.replace(why, state=state), now)
    if delivery.alternatives and not delivery.doubtful and delivery.waits + 1 >= policy.attempts:
        return end(delivery, category, msgspec.structs.replace(why, state=State.DEAD), now)
    waiting = msgspec.structs.replace(
        delivery, step=delivery.step + 1, waits=delivery.waits + 1, waiting_since=since, tried=()
    )
    return [msgspec.structs.replace(why, wait=wait_for(waiting, due, held=True))]


def second_copy(delivery: Delivery, now: int, wait_ms: int, *, surplus: bool) -> Outcome:
    """The fact that a copy waits for `wait_ms`, because another worker may be sending its original.

    By then the claim over the original has ended, and its facts are in the history. The state differs from the one that
    `hold` records, so that neither copy's wait replaces the other's. The copy goes two steps on, so that an original
    that waited meanwhile yields to it. `surplus`: the copy came from a queue of surplus and returns to it, behind an
    original that may be waiting there.
    """
    waiting = msgspec.structs.replace(delivery, step=delivery.step + 2)
    wait = wait_for(waiting, now + wait_ms, surplus=surplus, at_least_ms=wait_ms)
    return fact(waiting, now, State.PENDING, Reason.MAY_HAVE_BEEN_SENT, wait=wait)


def end(delivery: Delivery, category: Category, ending: Outcome, now: int) -> list[Outcome]:
    """The outcomes of a delivery that ends with `ending`, or `uncertain` if it is doubtful.

    An alternative takes over, unless the delivery was cancelled, or the person might then get the notification twice
    and the category does not allow doubles.
    """
    ending = uncertain_if_doubtful(delivery, ending)
    if ending.state is State.CANCELLED or (delivery.doubtful and not category.allow_doubles):
        return [ending]
    return fall_back(delivery, ending, now)


def uncertain_if_doubtful(delivery: Delivery, ending: Outcome) -> Outcome:
    """`ending`, or for a doubtful delivery `uncertain` with the reason of `ending` in its detail."""
    if not delivery.doubtful:
        return ending
    detail = f"{ending.reason} {ending.detail}".strip()
    return msgspec.structs.replace(ending, state=State.UNCERTAIN, reason=Reason.MAY_HAVE_BEEN_SENT, detail=detail)


def fall_back(delivery: Delivery, ending: Outcome, now: int) -> list[Outcome]:
    """`ending`, with which the first alternative (if there is one) takes over, in its own slot and with attempt 1."""
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
        refused=(),
        waits=0,
        waiting_since=None,
    )
    return [
        msgspec.structs.replace(ending, wait=wait_for(successor, now)),
        fact(successor, now, State.PENDING, Reason.FALLBACK),
    ]


def _wait_for_provider(tried: Tried, result: Retry, policy: RetryPolicy, now: int, randomness: float) -> list[Outcome]:
    """The outcomes if the answer was about the account or nobody: the same attempt waits until a provider is usable."""
    if is_throttled(result):
        reason, detail = THROTTLED, result.detail
    elif result.reason == BUSY:
        reason, detail = Reason.PROVIDER_BUSY, result.detail
    elif result.reason == Reason.PROVIDER_OPEN:
        reason, detail = Reason.PROVIDER_OPEN, result.detail
    else:
        reason, detail = Reason.PROVIDER_FAILING, f"{result.reason} {result.detail}".strip()
    delivery = tried.delivery
    why = fact(delivery, now, State.DEFERRED, reason, tried.provider, detail=detail)
    usable_in_s = max(min(result.after_s or 0.0, policy.cap_s), PATIENT_BASE if result.patient else 0.0)
    return put_off(delivery, tried.category, policy, now, randomness, why, usable_in_s)


def _try_again_or_end(
    tried: Tried, result: Retry | Rejected | Uncertain, policy: RetryPolicy, now: int, randomness: float
) -> list[Outcome]:
    """The outcomes if another attempt may follow `result`: its wait, or the end after the last try."""
    delivery = tried.delivery
    why = f"{result.reason} {result.detail}".strip()
    following = _following(tried, result)
    patient = isinstance(result, Retry) and result.patient
    attempts = policy.patient_attempts if patient else policy.attempts
    # Another provider is asked at once. The same one is asked after the back-off.
    due = now if _moves_on(tried) else _due(tried, result, policy, now, randomness)
    if not may_retry(_tries(following) - 1, attempts, due, delivery.expires_at):
        expired = delivery.expires_at is not None and due >= delivery.expires_at
        state = State.EXPIRED if expired else State.DEAD
        reason = Reason.EXPIRED if expired else Reason.ATTEMPTS_EXHAUSTED
        ending = fact(delivery, now, state, reason, tried.provider, detail=why)
        return end(following, tried.category, ending, now)
    reason = Reason.FALLBACK if _moves_on(tried) else Reason.RETRY
    return [fact(delivery, now, State.DEFERRED, reason, tried.provider, detail=why, wait=wait_for(following, due))]


def _moves_on(tried: Tried) -> bool:
    """Whether the next attempt goes to another provider, without a back-off."""
    if _is_pinned(tried):
        return False
    return tried.has_others or isinstance(tried.result, Rejected)


def _is_pinned(tried: Tried) -> bool:
    """Whether the next attempt must go to this provider, because it alone would recognise a repetition.

    A later `Retry` does not unpin the delivery: it says nothing about the attempt that may have been taken.
    """
    known = isinstance(tried.result, Uncertain) or tried.delivery.pinned == tried.provider
    return tried.idempotent and _in_doubt(tried) and known


def _following(tried: Tried, result: Retry | Rejected | Uncertain) -> Delivery:
    """The delivery as the next attempt makes it: its numbers, its doubt, and the providers that may take it."""
    delivery = tried.delivery
    refused = isinstance(result, Rejected) and tried.provider not in delivery.refused
    return msgspec.structs.replace(
        delivery,
        attempt=delivery.attempt + 1,
        step=delivery.step + 1,
        tried=(*delivery.tried, tried.provider) if _moves_on(tried) else (),
        pinned=tried.provider if _is_pinned(tried) else "",
        uncounted=delivery.uncounted + tried.used_up_no_try,
        doubtful=_in_doubt(tried),
        refused=(*delivery.refused, tried.provider) if refused else delivery.refused,
    )


def _tries(delivery: Delivery) -> int:
    """How many tries have been made with this attempt, counted from the first or from the replay."""
    return delivery.attempt - delivery.first_attempt - delivery.uncounted + 1


def _in_doubt(tried: Tried) -> bool:
    """Whether a provider may have taken this attempt or an earlier one.

    A refusal by the pinned provider ends the doubt: it would have recognised a delivery that it had taken.
    """
    delivery = tried.delivery
    if isinstance(tried.result, Rejected) and tried.idempotent and delivery.pinned == tried.provider:
        return False
    return delivery.doubtful or isinstance(tried.result, Uncertain)


def _due(tried: Tried, result: Retry | Rejected | Uncertain, policy: RetryPolicy, now: int, randomness: float) -> int:
    asked = result.after_s if isinstance(result, Retry) else None
    if isinstance(result, Retry) and result.patient:
        return patient_at(_tries(tried.delivery), now, asked, randomness)
    return retry_at(_tries(tried.delivery), now, asked, policy.base_s, policy.cap_s, randomness)
