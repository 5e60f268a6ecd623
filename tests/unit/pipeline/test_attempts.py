"""What follows from one provider call: the next attempt, its doubt, who may make it, or the end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from support.deliveries import make_delivery
from support.stores import NOW
from tidings.model.delivery import Delivery
from tidings.model.ids import delivery_id, new_id
from tidings.model.outcome import Outcome
from tidings.model.sending import About, Rejected, Retry, SendResult, Sent, Uncertain
from tidings.model.user import Address, Category
from tidings.model.vocabulary import Channel, Reason, State
from tidings.model.wire import decode_delivery
from tidings.pipeline.deliver.attempts import Tried, judge
from tidings.policy.retry import RetryPolicy

POLICY = RetryPolicy(attempts=3, base_s=2.0, cap_s=900.0)
TO = Address(Channel.SMS, "+4915123456789")
RETRY, REJECTED, UNCERTAIN = Retry("provider_error"), Rejected("refused", fallback=True), Uncertain("timeout")
ID = delivery_id(new_id(NOW, 0, 1), 2)
OTHER = (3, Address(Channel.EMAIL, "ada@example.com"))


def tried(result: SendResult, *, idempotent: bool = False, has_others: bool = False, **delivery: Any) -> Tried:
    return Tried(
        delivery=make_delivery(at=NOW, **delivery),
        category=Category("orders"),
        provider="one",
        idempotent=idempotent,
        has_others=has_others,
        result=result,
        refused_by_all_others=False,
    )


def only(outcomes: list[Outcome]) -> Outcome:
    [outcome] = outcomes
    return outcome


def following(outcome: Outcome) -> Delivery:
    assert outcome.wait is not None
    return decode_delivery(outcome.wait.body)


def test_the_next_attempt_has_the_next_number_and_says_why() -> None:
    outcome = only(judge(tried(Retry("provider_error", detail="500"), step=4), POLICY, NOW, 1.0))
    assert (outcome.state, outcome.reason, outcome.detail) == (State.DEFERRED, Reason.RETRY, "provider_error 500")
    assert outcome.wait is not None
    assert outcome.wait.due == NOW + 2_000
    after = following(outcome)
    assert (after.attempt, after.step, after.tried, after.pinned, after.doubtful) == (2, 5, (), "", False)


def test_another_provider_is_asked_at_once_and_the_first_one_not_again() -> None:
    outcome = only(judge(tried(RETRY, has_others=True, tried=("zero",)), POLICY, NOW, 1.0))
    assert outcome.wait is not None
    assert (outcome.reason, outcome.wait.due) == (Reason.FALLBACK, NOW)
    assert following(outcome).tried == ("zero", "one")


def test_a_delivery_that_waits_for_a_provider_may_go_to_any_of_them_afterwards() -> None:
    after = following(only(judge(tried(Retry("unreachable"), tried=("zero", "two")), POLICY, NOW, 1.0)))
    assert (after.tried, after.waits, after.waiting_since, after.attempt) == ((), 1, NOW, 1)


def test_a_doubtful_attempt_stays_with_the_provider_that_recognises_repetitions() -> None:
    after = following(only(judge(tried(UNCERTAIN, idempotent=True, has_others=True), POLICY, NOW, 1.0)))
    assert (after.pinned, after.doubtful, after.tried) == ("one", True, ())
    pinned = tried(RETRY, idempotent=True, has_others=True, pinned="one", doubtful=True, attempt=2)
    assert following(only(judge(pinned, POLICY, NOW, 1.0))).pinned == "one"


def test_without_doubt_no_provider_is_pinned() -> None:
    assert following(only(judge(tried(RETRY, idempotent=True), POLICY, NOW, 1.0))).pinned == ""


def test_a_refusal_by_the_pinned_provider_ends_the_doubt_and_by_another_one_does_not() -> None:
    by_pinned = tried(REJECTED, idempotent=True, has_others=True, pinned="one", doubtful=True)
    assert not following(only(judge(by_pinned, POLICY, NOW, 1.0))).doubtful
    for changed in (
        msgspec.structs.replace(by_pinned, idempotent=False),
        msgspec.structs.replace(by_pinned, delivery=msgspec.structs.replace(by_pinned.delivery, pinned="two")),
    ):
        assert following(only(judge(changed, POLICY, NOW, 1.0))).doubtful


@pytest.mark.parametrize(
    ("attempt", "expires_at", "state", "reason"),
    [
        (3, None, State.DEAD, Reason.ATTEMPTS_EXHAUSTED),
        (1, NOW + 2_000, State.EXPIRED, Reason.EXPIRED),
        (1, NOW + 2_001, State.DEFERRED, Reason.RETRY),
        (3, NOW + 60_000, State.DEAD, Reason.ATTEMPTS_EXHAUSTED),
    ],
)
def test_an_attempt_is_the_last_when_the_tries_are_used_up_or_the_next_would_be_too_late(
    attempt: int, expires_at: int | None, state: State, reason: str
) -> None:
    outcome = only(
        judge(tried(RETRY, attempt=attempt, expires_at=expires_at), POLICY, NOW, 0.25 if attempt > 1 else 1.0)
    )
    assert (outcome.state, outcome.reason) == (state, reason)


def test_an_alternative_begins_anew() -> None:
    ending, first = judge(tried(RETRY, attempt=3, step=5, waits=2, alternatives=(OTHER,)), POLICY, NOW, 1.0)
    assert (ending.state, first.state, first.reason) == (State.DEAD, State.PENDING, Reason.FALLBACK)
    after = following(ending)
    assert (after.address, after.attempt, after.step, after.waits, after.alternatives) == (OTHER[1], 1, 0, 0, ())
    assert (first.id, first.attempt, first.step) == (after.id, 1, 0)


def test_a_try_that_says_nothing_about_the_delivery_is_not_counted() -> None:
    """Another provider can be asked: the delivery goes there with all of its tries left."""
    refused = tried(Retry("unauthorized", about=About.ACCOUNT), has_others=True, attempt=3)
    assert following(only(judge(refused, POLICY, NOW, 1.0))).uncounted == 1


def test_a_patient_wait_is_at_least_as_long_as_the_server_asked_for() -> None:
    outcome = only(judge(tried(Retry("greylisted", 1_200.0, patient=True)), POLICY, NOW, 0.0))
    assert outcome.wait is not None
    assert outcome.wait.due == NOW + 1_200_000


def test_what_was_sent_is_said_with_the_vendors_reference() -> None:
    for delivered, state in ((False, State.SENT), (True, State.DELIVERED)):
        outcome = only(judge(tried(Sent("ref-1", delivered=delivered)), POLICY, NOW, 1.0))
        assert (outcome.state, outcome.reference, outcome.provider) == (state, "ref-1", "one")
