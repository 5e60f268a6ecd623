"""What the stored progress of a recurrence says, and what a step makes of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tidings.model.errors import Invalid
from tidings.model.ids import new_id
from tidings.model.recurrence import Progress, Recurrence
from tidings.policy import recurring
from tidings.policy.recurring import Advance, Fire, Occurrence, occurrence_id, step, stored, upcoming
from tidings.policy.wall_clock import zone

BERLIN = zone("Europe/Berlin")
START = datetime.fromisoformat("2026-03-28T09:00")  # a day before the clock changes


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


FIRST = Occurrence(START, utc("2026-03-28T08:00"))
DUE = Progress("2026-03-28T09:00:00", FIRST.due)


def recurrence(rule: str = "FREQ=DAILY", progress: Progress = DUE) -> Recurrence:
    id = new_id(utc("2026-01-01T00:00"), 77, 12345)
    return Recurrence(id, "shop", "n", rule, START.isoformat(), "Europe/Berlin", b"{}", progress=progress)


def test_the_stored_occurrence_is_the_one_that_is_due() -> None:
    assert stored(recurrence()) == [FIRST]
    assert upcoming(recurrence(), BERLIN, 1) == [FIRST]


def test_a_recurrence_that_has_ended_or_is_paused_has_nothing_to_send() -> None:
    ended = recurrence(progress=Progress(skipped=3))
    assert stored(ended) == upcoming(ended, BERLIN, 5) == []
    assert step(ended, BERLIN, FIRST.due, repeated=False) == Advance(ended.progress)
    with pytest.raises(ValueError, match="nothing is due"):
        occurrence_id(ended)


def test_upcoming_occurrences_have_their_instants_in_the_timezone() -> None:
    assert upcoming(recurrence(), BERLIN, 3) == [
        FIRST,
        Occurrence(datetime.fromisoformat("2026-03-29T09:00"), utc("2026-03-29T07:00")),
        Occurrence(datetime.fromisoformat("2026-03-30T09:00"), utc("2026-03-30T07:00")),
    ]


def test_a_list_that_would_cost_too_much_ends_early() -> None:
    leap = recurrence("FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=29")
    found = [occurrence.local.year for occurrence in upcoming(leap, BERLIN, 4)]
    assert found == [2026, 2028, 2032, 2036]
    assert [occurrence.local.year for occurrence in upcoming(leap, BERLIN, 4, steps=30)] == [2026, 2028]
    assert upcoming(leap, BERLIN, 4, steps=3) == [FIRST]


def test_a_list_of_a_rule_that_is_none_fails() -> None:
    with pytest.raises(Invalid) as refused:
        upcoming(recurrence("FREQ=OFTEN"), BERLIN, 2)
    assert refused.value.code == "invalid_rrule"


def test_an_occurrence_that_is_sent_ends_the_problem_of_the_one_before() -> None:
    after_a_problem = Progress(DUE.local, DUE.due, fired_at=1, skipped=2, problem="missed")
    told = step(recurrence(progress=after_a_problem), BERLIN, FIRST.due, repeated=False)
    assert told == Fire(Progress("2026-03-29T09:00:00", utc("2026-03-29T07:00"), FIRST.due, 2, ""))


def test_an_occurrence_is_missed_from_the_instant_of_the_next_one() -> None:
    hourly, next_due = recurrence("FREQ=HOURLY"), FIRST.due + 3_600_000
    assert isinstance(step(hourly, BERLIN, next_due - 1, repeated=False), Fire)
    assert step(hourly, BERLIN, next_due, repeated=False) == Advance(Progress("2026-03-28T10:00:00", next_due, None, 1))


def test_after_the_last_occurrence_the_progress_is_empty() -> None:
    told = step(recurrence("FREQ=DAILY;COUNT=1"), BERLIN, FIRST.due, repeated=False)
    assert told == Fire(Progress(None, None, FIRST.due))


@pytest.mark.parametrize("rule", ["FREQ=DAILY;COUNT=1", "FREQ=DAILY;UNTIL=20260328T090000"])
def test_a_rule_that_comes_true_at_its_start_alone_is_a_rule(rule: str) -> None:
    recurring.check(rule, START)
