"""Records from the rows of the history."""

from __future__ import annotations

import msgspec
import pytest

from tidings.model.history import Event
from tidings.model.ids import delivery_id, new_id
from tidings.model.notification import Notification, Recipient
from tidings.model.vocabulary import State
from tidings.model.wire import encode
from tidings.policy.rows import Head, event_of, record_of
from tidings.policy.transitions import came_back, rank

AT = 1_790_000_000_000
ID = new_id(AT, 77, 123456789)
EMAIL, SMS = delivery_id(ID, 1), delivery_id(ID, 2)
SENT = Notification(id=ID, tenant="shop", to=Recipient(user_id="ada"), accepted_at=AT)
BODY = encode(SENT)
ADDRESSES = msgspec.msgpack.encode(["ada@example.com", "+4930123456"])
ACCEPTED = Event(ID, AT, State.PENDING)
OF_EMAIL = Event(EMAIL, AT, State.PENDING, 1, address="ada@example.com")
OF_SMS = Event(SMS, AT, State.PENDING, 1, address="+4930123456")


def head(pending_at: int | None = AT, slots: bytes | None = b"\1\2", addresses: bytes | None = ADDRESSES) -> Head:
    return Head(ID, pending_at, slots, addresses, BODY)


def test_a_row_of_the_events_is_a_fact() -> None:
    row = [EMAIL, rank(State.FAILED, came_back(3)), 4, came_back(3), AT, "bounced", "mail", "ref", "said no", "a@b.c"]
    assert event_of(row) == Event(
        EMAIL, AT, State.FAILED, came_back(3), 4, "bounced", "mail", "ref", "said no", "a@b.c"
    )


def test_the_row_of_a_notification_states_what_is_pending() -> None:
    record = record_of(head(), [])
    assert record.notification == SENT
    assert record.events == (ACCEPTED, OF_EMAIL, OF_SMS)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (head(slots=None, addresses=None), (ACCEPTED,)),
        (head(slots=b"", addresses=b"\x90"), (ACCEPTED,)),
        (head(None, None, None), ()),
        (head(None), ()),
    ],
)
def test_what_the_row_does_not_state_is_no_fact(one: Head, expected: tuple[Event, ...]) -> None:
    assert record_of(one, []).events == expected


def test_a_fact_that_has_a_row_of_its_own_comes_once() -> None:
    own = Event(EMAIL, AT + 5, State.PENDING, 1, address="ada@example.org")
    assert record_of(head(), [own]).events == (ACCEPTED, OF_SMS, own)
    for other in (Event(EMAIL, AT, State.PENDING, 2), Event(EMAIL, AT, State.PENDING, 1, 1)):
        assert record_of(head(), [other]).events == (ACCEPTED, OF_EMAIL, OF_SMS, other)


def test_facts_are_in_order_of_time_then_attempt_step_and_state() -> None:
    facts = [
        Event(EMAIL, AT, State.PENDING, 1),
        Event(SMS, AT, State.PENDING, 1),
        Event(EMAIL, AT, State.SENT, 1),
        Event(EMAIL, AT, State.DEFERRED, 1, 1),
        Event(EMAIL, AT, State.PENDING, 2),
        Event(EMAIL, AT + 1, State.SENDING, 1),
    ]
    assert record_of(head(None), facts[::-1]).events == tuple(facts)


def test_a_row_with_more_slots_than_addresses_is_no_row_of_ours() -> None:
    with pytest.raises(ValueError, match="zip"):
        record_of(head(slots=b"\1\2\3"), [])
