"""Where a search for the times of a rule begins and ends, what it costs, and the beat of each frequency."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from itertools import islice

import pytest

from tidings.model.errors import Invalid
from tidings.policy import expansion as expansion_module
from tidings.policy.expansion import Budget, Expansion, expansion
from tidings.policy.recurrence_rule import parse

ALL_DAYS = "BYDAY=MO,TU,WE,TH,FR,SA,SU"


def times(text: str, start: str, count: int | None, after: str | None = None, steps: int = 50_000) -> list[str]:
    """The first `count` times of the rule later than `after`; from the start on if `after` is None."""
    begin = datetime.fromisoformat(start)
    wall = datetime.fromisoformat(after) if after else datetime.fromisoformat("0001-01-01")
    found = islice(expansion(text, begin).after(wall, Budget(steps)), count)
    return [moment.isoformat(timespec="minutes" if moment.second == 0 else "seconds") for moment in found]


@pytest.mark.parametrize(
    ("text", "start", "after", "expected"),
    [
        ("FREQ=HOURLY", "2026-01-31T22:30", None, ["2026-01-31T22:30", "2026-01-31T23:30", "2026-02-01T00:30"]),
        ("FREQ=HOURLY;INTERVAL=5", "2026-01-31T09:30", "2026-01-31T15:00", ["2026-01-31T19:30", "2026-02-01T00:30"]),
        ("FREQ=HOURLY;BYMINUTE=5,50", "2026-01-31T09:30", None, ["2026-01-31T09:50", "2026-01-31T10:05"]),
        ("FREQ=MINUTELY", "2026-01-31T23:58", None,
         ["2026-01-31T23:58", "2026-01-31T23:59", "2026-02-01T00:00", "2026-02-01T00:01"]),
        ("FREQ=MINUTELY;INTERVAL=7", "2026-01-31T09:33", None, ["2026-01-31T09:33", "2026-01-31T09:40"]),
        ("FREQ=MINUTELY;INTERVAL=1000", "2026-01-31T09:33", None, ["2026-01-31T09:33", "2026-02-01T02:13"]),
        ("FREQ=DAILY;BYHOUR=9;BYMINUTE=5,35;BYSECOND=7", "2026-01-31T09:33", None,
         ["2026-01-31T09:35:07", "2026-02-01T09:05:07"]),
        ("FREQ=DAILY;INTERVAL=10", "2026-01-31T09:00", "2027-01-01T00:00", ["2027-01-06T09:00", "2027-01-16T09:00"]),
        ("FREQ=DAILY", "2026-01-31T09:00", "2026-02-02T09:00", ["2026-02-03T09:00", "2026-02-04T09:00"]),
        ("FREQ=WEEKLY;INTERVAL=3", "2026-01-31T09:00", "2026-04-04T08:59", ["2026-04-04T09:00", "2026-04-25T09:00"]),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,MO;WKST=SU", "2026-01-31T09:00", None,
         ["2026-02-08T09:00", "2026-02-09T09:00", "2026-02-22T09:00"]),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,MO;WKST=MO", "2026-01-31T09:00", None,
         ["2026-02-01T09:00", "2026-02-09T09:00", "2026-02-15T09:00"]),
        ("FREQ=WEEKLY;BYMONTH=2;BYDAY=MO,SU", "2026-01-31T09:00", None, ["2026-02-01T09:00", "2026-02-02T09:00"]),
        ("FREQ=MONTHLY;INTERVAL=5", "2026-11-07T09:00", None, ["2026-11-07T09:00", "2027-04-07T09:00"]),
        ("FREQ=MONTHLY;INTERVAL=5", "2026-11-07T09:00", "2031-01-01T00:00", ["2031-01-07T09:00", "2031-06-07T09:00"]),
        ("FREQ=MONTHLY;BYMONTH=12", "2026-11-07T09:00", None, ["2026-12-07T09:00", "2027-12-07T09:00"]),
        ("FREQ=YEARLY;INTERVAL=3", "2026-11-07T09:00", None, ["2026-11-07T09:00", "2029-11-07T09:00"]),
        ("FREQ=YEARLY;INTERVAL=3", "2026-11-07T09:00", "2040-11-07T09:00", ["2041-11-07T09:00", "2044-11-07T09:00"]),
        ("FREQ=YEARLY;COUNT=3", "2026-11-07T09:00", "2027-12-07T09:00", ["2028-11-07T09:00"]),
        (f"FREQ=YEARLY;{ALL_DAYS};BYSETPOS=366", "2026-11-07T09:00", None, ["2028-12-31T09:00", "2032-12-31T09:00"]),
        (f"FREQ=MONTHLY;{ALL_DAYS};BYSETPOS=31", "2026-11-07T09:00", None, ["2026-12-31T09:00", "2027-01-31T09:00"]),
        (f"FREQ=WEEKLY;{ALL_DAYS};BYSETPOS=7", "2026-11-07T09:00", None, ["2026-11-08T09:00", "2026-11-15T09:00"]),
        (f"FREQ=MONTHLY;{ALL_DAYS};BYSETPOS=1", "2026-12-01T09:00", None, ["2026-12-01T09:00", "2027-01-01T09:00"]),
        ("FREQ=YEARLY;BYDAY=20MO", "1997-05-19T09:00", None, ["1997-05-19T09:00", "1998-05-18T09:00"]),
        ("FREQ=YEARLY;BYDAY=1MO,-1FR", "2026-06-01T09:00", None,
         ["2026-12-25T09:00", "2027-01-04T09:00", "2027-12-31T09:00"]),
        ("FREQ=YEARLY;BYDAY=2MO;BYMONTHDAY=8", "2026-06-01T09:00", None, ["2029-01-08T09:00", "2035-01-08T09:00"]),
        ("FREQ=YEARLY;BYDAY=1MO,SU;BYMONTHDAY=4", "2026-12-30T09:00", None, ["2027-01-04T09:00", "2027-04-04T09:00"]),
        ("FREQ=YEARLY;BYMONTH=3;BYDAY=1MO", "2026-06-01T09:00", None, ["2027-03-01T09:00", "2028-03-06T09:00"]),
        ("FREQ=YEARLY;BYYEARDAY=1,-1", "2026-06-01T09:00", None, ["2026-12-31T09:00", "2027-01-01T09:00"]),
        ("FREQ=MONTHLY;BYMONTHDAY=-1", "2028-02-01T09:00", None, ["2028-02-29T09:00", "2028-03-31T09:00"]),
        ("FREQ=MONTHLY;BYDAY=5MO", "2026-06-01T09:00", None, ["2026-06-29T09:00", "2026-08-31T09:00"]),
        ("FREQ=MONTHLY;BYDAY=-5MO", "2026-06-01T09:00", None, ["2026-06-01T09:00", "2026-08-03T09:00"]),
        ("FREQ=YEARLY;BYWEEKNO=1;WKST=SU;BYDAY=SU", "2026-06-01T09:00", None,
         ["2027-01-03T09:00", "2028-01-02T09:00", "2028-12-31T09:00"]),
    ],
)  # fmt: skip
def test_the_beat_of_each_frequency(text: str, start: str, after: str | None, expected: list[str]) -> None:
    full = times(text, start, len(expected) + 1, after)
    assert full[: len(expected)] == expected
    assert full == sorted(set(full))


@pytest.mark.parametrize("week", [1, 2, 52, 53, -1, -53])
def test_weeks_are_those_of_iso_8601_in_every_kind_of_year(week: int) -> None:
    first, last = date(2026, 1, 1), date(2054, 12, 31)
    expected = []
    for day in (date.fromordinal(number) for number in range(first.toordinal(), last.toordinal() + 1)):
        year, number, _ = day.isocalendar()
        weeks = date(year, 12, 28).isocalendar().week
        if week in {number, number - weeks - 1}:
            expected.append(f"{day}T09:00")
    assert times(f"FREQ=YEARLY;BYWEEKNO={week};{ALL_DAYS}", "2026-01-01T09:00", len(expected)) == expected


@pytest.mark.parametrize(
    ("text", "start", "last"),
    [
        ("FREQ=YEARLY", "9988-06-01T09:00", ["9988-06-01T09:00", "9989-06-01T09:00", "9990-06-01T09:00"]),
        ("FREQ=MONTHLY", "9990-11-05T09:00", ["9990-11-05T09:00", "9990-12-05T09:00"]),
        ("FREQ=WEEKLY", "9990-12-24T09:00", ["9990-12-24T09:00", "9990-12-31T09:00"]),
        ("FREQ=DAILY", "9990-12-30T09:00", ["9990-12-30T09:00", "9990-12-31T09:00"]),
        ("FREQ=HOURLY", "9990-12-31T22:00", ["9990-12-31T22:00", "9990-12-31T23:00"]),
    ],
)
def test_times_end_with_the_last_year(text: str, start: str, last: list[str]) -> None:
    assert times(text, start, None) == last


def test_a_search_looks_through_so_many_years_and_no_more() -> None:
    assert len(times("FREQ=YEARLY", "2026-11-07T09:00", None)) == 401
    assert times("FREQ=YEARLY", "2026-11-07T09:00", None, "2400-01-01T00:00")[-1] == "2800-11-07T09:00"
    assert times("FREQ=MONTHLY;INTERVAL=12", "2026-11-07T09:00", None)[-1] == "2426-11-07T09:00"


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("FREQ=YEARLY", 1),  # a day of one year
        ("FREQ=YEARLY;BYDAY=SU", 4),  # 52 days of one year
        ("FREQ=MONTHLY", 1),
        ("FREQ=MONTHLY;BYMONTH=1", 1),
        ("FREQ=WEEKLY", 1),
        ("FREQ=DAILY", 23),  # 365 days of one year
        ("FREQ=HOURLY;BYMONTHDAY=3", 1),  # twelve days of one year
    ],
)
def test_a_search_begins_at_the_time_after_which_it_looks_and_costs_little(text: str, cost: int) -> None:
    budget = Budget(100)
    start = datetime.fromisoformat("2006-01-01T09:00")
    next(expansion(text, start).after(datetime.fromisoformat("2034-01-01T00:00"), budget))
    assert 100 - budget.left == cost


def test_a_budget_can_be_spent_to_the_last_step() -> None:
    budget = Budget(3)
    budget.spend(3)
    assert budget.left == 0
    with pytest.raises(Invalid) as refused:
        budget.spend(1)
    assert (refused.value.code, refused.value.path) == ("too_costly", "$.rrule")


@pytest.mark.parametrize(
    "text",
    [
        "FREQ=HOURLY;INTERVAL=2;BYHOUR=10",
        "FREQ=MINUTELY;INTERVAL=2;BYMINUTE=1",
        f"FREQ=WEEKLY;{ALL_DAYS};BYSETPOS=8",
        f"FREQ=MONTHLY;{ALL_DAYS};BYSETPOS=32",
        "FREQ=DAILY;BYHOUR=9,18;BYSETPOS=3",
    ],
)
def test_a_rule_that_no_period_can_meet_costs_nothing(text: str) -> None:
    assert times(text, "2026-11-07T09:00", None, steps=0) == []


POSITIONS = ",".join(f"{place},-{place}" for place in range(2, 52))


@pytest.mark.parametrize(
    ("text", "most"),
    [
        (f"FREQ=WEEKLY;BYDAY=MO;BYSETPOS={POSITIONS}", 0),
        (f"FREQ=MONTHLY;BYDAY=1MO;BYSETPOS={POSITIONS}", 1),
        (f"FREQ=MONTHLY;BYMONTHDAY=1,2,30,31;BYSETPOS={POSITIONS.replace('2,-2,3,-3,4,-4,', '')}", 4),
        (f"FREQ=YEARLY;BYWEEKNO=53;BYSETPOS={POSITIONS}", 2),
    ],
)
def test_positions_are_found_once_for_each_number_of_days(
    text: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    choose = expansion_module._chosen

    def counted(days: int, times: Sequence[int], positions: Sequence[int]) -> list[int]:
        found.append(days)
        return choose(days, times, positions)

    start = datetime.fromisoformat("2026-01-05T09:00")
    rule = Expansion(parse(text), start)
    monkeypatch.setattr(expansion_module, "_chosen", counted)
    assert not list(islice(rule.after(start, Budget()), 1))
    assert len(found) == len(set(found)) <= most
