"""Roles in words, and the duties that they mean."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.duties import ALL_BUT_CRITICAL, CRITICAL_ALONE, EVERYTHING, Duties, Duty, duties_of
from tidings.model.vocabulary import Channel, Lane, Priority

PLACES = list(product(Channel, Priority))
WHOLE = [Duty.RECORD, Duty.SCHEDULE, Duty.ROUNDS]
ANY = st.builds(
    Duties,
    st.frozensets(st.sampled_from(Priority)),
    st.frozensets(st.sampled_from(PLACES)),
    st.frozensets(st.sampled_from(WHOLE)),
)


@given(ANY)
def test_the_names_of_duties_mean_these_duties(duties: Duties) -> None:
    names = duties.names()
    assert (EVERYTHING if names == ["worker"] else duties_of(names)) == duties


def test_names_are_few() -> None:
    assert EVERYTHING.names() == ["worker"]
    assert CRITICAL_ALONE.names() == ["route:critical", "deliver:critical"]
    assert ALL_BUT_CRITICAL.names() == [
        "route:normal", "route:bulk", "deliver:normal", "deliver:bulk", "record", "schedule", "rounds",
    ]  # fmt: skip
    assert duties_of(["deliver:sms:critical", "deliver:email"]).names() == ["deliver:email", "deliver:sms:critical"]


def test_a_role_covers_what_its_words_name() -> None:
    duties = duties_of(["deliver:critical:sms", "route:bulk"])
    assert duties == Duties(frozenset({Priority.BULK}), frozenset({(Channel.SMS, Priority.CRITICAL)}), frozenset())
    assert duties.delivered_lanes(Channel.SMS) == [Lane.CRITICAL, Lane.CRITICAL_SURPLUS]
    assert duties.delivered_lanes(Channel.EMAIL) == []
    assert duties.routed_lanes() == [Lane.BULK, Lane.BULK_SURPLUS]


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("sender", "there is no role 'sender'"),
        ("route:email", "'email' where a lane (critical, normal, bulk) may stand"),
        ("deliver:fax", "'fax' where a channel (email, sms, push, inapp) or a lane"),
        ("record:bulk", "'bulk' where nothing may follow record"),
        ("deliver:", "'' where a channel"),
    ],
)
def test_a_wrong_role_is_told(role: str, words: str) -> None:
    with pytest.raises(ValueError) as told:  # noqa: PT011 - the words are checked
        duties_of([role])
    assert words in str(told.value)
