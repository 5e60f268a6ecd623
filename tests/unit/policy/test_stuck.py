"""How a sweep continues a delivery that was lost on its way."""

from __future__ import annotations

import pytest

from support.stores import NOW, delivery, notification
from tidings.model.history import Event, NotificationRecord
from tidings.model.vocabulary import Reason, State
from tidings.policy.stuck import STUCK_AFTER_MS, Stuck, next_look, stuck

SENT = notification("shop")
ID = delivery(SENT)


def event(state: State, attempt: int, step: int, reason: str = "", provider: str = "") -> Event:
    """A recorded fact about the delivery."""
    return Event(ID, NOW, state, attempt, step, reason, provider, "", "", "+49")


def stuck_delivery(*facts: Event) -> Stuck:
    """The delivery of which these facts are recorded, once it is stuck."""
    [found] = stuck(NotificationRecord(SENT, facts), (), NOW + STUCK_AFTER_MS)
    return found


def test_a_copy_lost_while_it_waited_continues_with_its_attempt_at_the_pinned_provider() -> None:
    """The copy's wait does not hide the attempt before, which one provider may have taken: no other may be asked."""
    facts = (
        event(State.PENDING, 1, 0),
        event(State.DEFERRED, 1, 0, Reason.RETRY, "sms-one"),
        event(State.PENDING, 2, 2, Reason.MAY_HAVE_BEEN_SENT),
    )
    found = stuck_delivery(*facts)
    assert (found.attempt, found.pinned, found.tried) == (2, "sms-one", ())
    assert found.last is facts[2]


def test_a_swept_delivery_is_further_than_every_copy_that_waited() -> None:
    """Otherwise it would yield to a copy that is lost as well."""
    facts = (event(State.DEFERRED, 1, 0, Reason.QUIET_HOURS), event(State.PENDING, 1, 3, Reason.MAY_HAVE_BEEN_SENT))
    found = stuck_delivery(*facts)
    assert (found.last, found.step) == (facts[0], 3)


def test_a_first_attempt_with_only_a_copy_recorded_is_made_as_the_first() -> None:
    found = stuck_delivery(event(State.PENDING, 1, 1, Reason.MAY_HAVE_BEEN_SENT))
    assert (found.attempt, found.pinned, found.tried) == (1, "", ())


def test_a_wait_of_the_next_attempt_does_not_hide_who_may_have_taken_the_one_before() -> None:
    """Whoever else was asked would send it a second time."""
    found = stuck_delivery(
        event(State.DEFERRED, 1, 0, Reason.RETRY, "sms-one"),
        event(State.DEFERRED, 2, 1, Reason.PROVIDER_OPEN),
        event(State.DEFERRED, 2, 2, Reason.QUIET_HOURS),
    )
    assert (found.attempt, found.pinned, found.step) == (2, "sms-one", 2)


def test_a_provider_of_an_attempt_before_the_last_is_not_pinned() -> None:
    found = stuck_delivery(
        event(State.DEFERRED, 1, 0, Reason.RETRY, "sms-one"),
        event(State.DEFERRED, 2, 0, Reason.FALLBACK, "sms-one"),
        event(State.DEFERRED, 3, 1, Reason.PROVIDER_OPEN),
    )
    assert (found.attempt, found.pinned) == (3, "")


def test_a_delivery_that_providers_passed_on_is_not_offered_to_them_again() -> None:
    """A retry at one provider begins the round of all providers anew."""
    found = stuck_delivery(
        event(State.DEFERRED, 1, 0, Reason.FALLBACK, "sms-one"),
        event(State.DEFERRED, 2, 1, Reason.RETRY, "sms-two"),
        event(State.DEFERRED, 3, 2, Reason.FALLBACK, "sms-three"),
    )
    assert (found.attempt, found.tried) == (4, ("sms-three",))
    held = stuck_delivery(
        event(State.DEFERRED, 1, 0, Reason.FALLBACK, "sms-one"), event(State.DEFERRED, 2, 1, Reason.QUIET_HOURS)
    )
    assert (held.attempt, held.tried) == (2, ())


def test_the_allowed_tries_of_a_replayed_delivery_count_from_the_replay() -> None:
    facts = (
        event(State.DEAD, 3, 2, Reason.ATTEMPTS_EXHAUSTED),
        event(State.DEFERRED, 4, 0, Reason.REPLAYED),
        event(State.DEFERRED, 5, 1, Reason.RETRY, "sms-one"),
    )
    assert stuck_delivery(*facts).first_attempt == 4
    assert stuck_delivery(facts[2]).first_attempt == 1


def test_a_delivery_is_stuck_a_minute_after_its_last_fact_unless_it_waits() -> None:
    record = NotificationRecord(SENT, (event(State.PENDING, 1, 0),))
    assert not stuck(record, (), NOW + STUCK_AFTER_MS - 1)
    assert not stuck(record, (ID,), NOW + STUCK_AFTER_MS)
    assert [one.id for one in stuck(record, (), NOW + STUCK_AFTER_MS)] == [ID]


@pytest.mark.parametrize(
    ("age_min", "dues_min", "expected_min"),
    [
        (0, (), 1),  # young: a minute
        (1, (), 1),
        (10, (), 5),  # half its age
        (600, (), 60),  # at most an hour
        (10, (-3,), 5),  # a wait that is over changes nothing
        (0, (30,), 31),  # a minute after the last wait
        (0, (30, 7), 31),
    ],
)
def test_a_notification_in_flight_is_looked_at_less_and_less_often(
    age_min: int, dues_min: tuple[int, ...], expected_min: int
) -> None:
    minute = 60_000
    dues = [NOW + due * minute for due in dues_min]
    assert next_look(NOW, NOW - age_min * minute, dues) == NOW + expected_min * minute
