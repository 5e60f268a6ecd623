"""How a sweep continues a delivery that was lost on its way."""

from __future__ import annotations

from support.stores import NOW, delivery, notification
from tidings.model.history import Event, NotificationRecord
from tidings.model.vocabulary import Reason, State
from tidings.policy.stuck import STILL_FOR_MS, still


def test_a_copy_lost_while_it_waited_continues_with_its_attempt_at_the_pinned_provider() -> None:
    """The copy's wait does not hide the attempt before, which one provider may have taken: no other may be asked."""
    sent = notification("shop")
    id = delivery(sent)
    facts = (
        Event(id, NOW, State.PENDING, 1, 0, "", "", "", "", "+49"),
        Event(id, NOW, State.DEFERRED, 1, 0, Reason.RETRY, "sms-one", "", "timeout", "+49"),
        Event(id, NOW, State.PENDING, 2, 2, Reason.MAY_HAVE_BEEN_SENT, "", "", "", "+49"),
    )
    [found] = still(NotificationRecord(sent, facts), (), NOW + STILL_FOR_MS)
    assert (found.attempt, found.pinned, found.tried) == (2, "sms-one", ())
    assert found.last is facts[2]


def test_a_swept_delivery_is_further_than_every_copy_that_waited() -> None:
    """Otherwise it would yield to a copy that is lost as well."""
    sent = notification("shop")
    id = delivery(sent)
    facts = (
        Event(id, NOW, State.DEFERRED, 1, 0, Reason.QUIET_HOURS, "", "", "", "+49"),
        Event(id, NOW, State.PENDING, 1, 3, Reason.MAY_HAVE_BEEN_SENT, "", "", "", "+49"),
    )
    [found] = still(NotificationRecord(sent, facts), (), NOW + STILL_FOR_MS)
    assert (found.last, found.step) == (facts[0], 3)


def test_a_first_attempt_with_only_a_copy_recorded_is_made_as_the_first() -> None:
    sent = notification("shop")
    id = delivery(sent)
    facts = (Event(id, NOW, State.PENDING, 1, 1, Reason.MAY_HAVE_BEEN_SENT, "", "", "", "+49"),)
    [found] = still(NotificationRecord(sent, facts), (), NOW + STILL_FOR_MS)
    assert (found.attempt, found.pinned, found.tried) == (1, "", ())


def test_a_wait_of_the_next_attempt_does_not_hide_who_may_have_taken_the_one_before() -> None:
    """Whoever else was asked would send it a second time."""
    sent = notification("shop")
    id = delivery(sent)
    facts = (
        Event(id, NOW, State.DEFERRED, 1, 0, Reason.RETRY, "sms-one", "", "timeout", "+49"),
        Event(id, NOW, State.DEFERRED, 2, 1, Reason.PROVIDER_OPEN, "", "", "", "+49"),
        Event(id, NOW, State.DEFERRED, 2, 2, Reason.QUIET_HOURS, "", "", "", "+49"),
    )
    [found] = still(NotificationRecord(sent, facts), (), NOW + STILL_FOR_MS)
    assert (found.attempt, found.pinned, found.step) == (2, "sms-one", 2)


def test_a_provider_of_an_attempt_before_the_last_is_not_pinned() -> None:
    sent = notification("shop")
    id = delivery(sent)
    facts = (
        Event(id, NOW, State.DEFERRED, 1, 0, Reason.RETRY, "sms-one", "", "timeout", "+49"),
        Event(id, NOW, State.DEFERRED, 2, 0, Reason.FALLBACK, "sms-one", "", "busy", "+49"),
        Event(id, NOW, State.DEFERRED, 3, 1, Reason.PROVIDER_OPEN, "", "", "", "+49"),
    )
    [found] = still(NotificationRecord(sent, facts), (), NOW + STILL_FOR_MS)
    assert (found.attempt, found.pinned) == (3, "")
