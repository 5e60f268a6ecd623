"""What is known of a delivery that was lost on its way, when it is put back."""

from __future__ import annotations

from support_stores import NOW, delivery, notification
from tidings.model.history import Event, NotificationRecord
from tidings.model.vocabulary import Reason, State
from tidings.policy.stuck import STILL_FOR, still


def test_a_copy_that_was_lost_while_it_waited_goes_on_where_its_attempt_was_to_be_made() -> None:
    """Its wait says nothing of the attempt before, which one provider may have taken: nobody else may be asked."""
    sent = notification("shop")
    id = delivery(sent)
    facts = (
        Event(id, NOW, State.PENDING, 1, 0, "", "", "", "", "+49"),
        Event(id, NOW, State.DEFERRED, 1, 0, Reason.RETRY, "sms-one", "", "timeout", "+49"),
        Event(id, NOW, State.PENDING, 2, 2, Reason.MAY_HAVE_BEEN_SENT, "", "", "", "+49"),
    )
    [found] = still(NotificationRecord(sent, facts), (), NOW + STILL_FOR)
    assert (found.attempt, found.pinned, found.tried) == (2, "sms-one", ())
    assert found.last is facts[2]


def test_what_is_put_back_goes_further_than_every_copy_that_waited() -> None:
    """Else it would yield to one that is lost as well."""
    sent = notification("shop")
    id = delivery(sent)
    facts = (
        Event(id, NOW, State.DEFERRED, 1, 0, Reason.QUIET_HOURS, "", "", "", "+49"),
        Event(id, NOW, State.PENDING, 1, 3, Reason.MAY_HAVE_BEEN_SENT, "", "", "", "+49"),
    )
    [found] = still(NotificationRecord(sent, facts), (), NOW + STILL_FOR)
    assert (found.last, found.step) == (facts[0], 3)


def test_a_first_attempt_of_which_only_a_copy_is_known_is_made_as_the_first() -> None:
    sent = notification("shop")
    id = delivery(sent)
    facts = (Event(id, NOW, State.PENDING, 1, 1, Reason.MAY_HAVE_BEEN_SENT, "", "", "", "+49"),)
    [found] = still(NotificationRecord(sent, facts), (), NOW + STILL_FOR)
    assert (found.attempt, found.pinned, found.tried) == (1, "", ())
