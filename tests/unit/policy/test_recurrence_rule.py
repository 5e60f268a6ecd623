"""Which parts of a rule go together, and how far each of them goes."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from tidings.model.errors import Invalid
from tidings.policy.recurrence_rule import LONGEST, MOST_EXCLUDED, joined, parse, written

FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY")


def is_rule(text: str) -> bool:
    try:
        parse(text)
    except Invalid as refused:
        assert (refused.code, refused.path) == ("invalid_rrule", "$.rrule")  # noqa: PT017 (either outcome may be right)
        return False
    return True


@pytest.mark.parametrize(
    ("frequency", "part", "good", "bad"),
    [
        ("MINUTELY", "INTERVAL", ["1", "10000", "007"], ["0", "10001", "1.0", "+1", "0000001", "²", ""]),
        ("DAILY", "COUNT", ["1", "1000"], ["0", "1001", "-1"]),
        ("DAILY", "BYSECOND", ["0", "59", "+5", "7,7"], ["60", "-1", "7,8", ""]),
        ("DAILY", "BYMINUTE", ["0", "59", "0,30"], ["60", "-1", "0,60"]),
        ("DAILY", "BYHOUR", ["0", "23"], ["24", "-1", "1,", "1,x"]),
        ("MONTHLY", "BYMONTHDAY", ["1", "31", "-1", "-31", "+31"], ["0", "32", "-32", "--1", "-0", "0001"]),
        ("YEARLY", "BYYEARDAY", ["1", "366", "-1", "-366"], ["0", "367", "-367"]),
        ("YEARLY", "BYWEEKNO", ["1", "53", "-1", "-53"], ["0", "54", "-54"]),
        ("DAILY", "BYMONTH", ["1", "12"], ["0", "13", "-1"]),
        ("DAILY;BYHOUR=1", "BYSETPOS", ["1", "366", "-1", "-366"], ["0", "367", "-367"]),
        ("MONTHLY", "BYDAY", ["MO", "1MO,SU", "+1MO", "53MO", "-53MO", "-1fr"], ["54MO", "-54MO", "0MO", "M", "MO,"]),
        ("WEEKLY", "WKST", ["MO", "SU"], ["1MO", "XX"]),
        ("DAILY", "UNTIL", ["20261231T235959", "20261231T235959Z"], ["20261231", "20261231T2359", "20261231T240000"]),
    ],
)  # fmt: skip
def test_each_part_goes_as_far_as_it_says(frequency: str, part: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not is_rule(f"FREQ={frequency};{part}={text}")] == []
    assert [text for text in bad if is_rule(f"FREQ={frequency};{part}={text}")] == []


@pytest.mark.parametrize(
    ("part", "good"),
    [
        ("BYWEEKNO=20", {"YEARLY"}),
        ("BYWEEKNO=20;BYDAY=MO", {"YEARLY"}),
        ("BYWEEKNO=20;BYDAY=1MO", set()),
        ("BYYEARDAY=100", {"YEARLY", "HOURLY", "MINUTELY"}),
        ("BYMONTHDAY=13", {"YEARLY", "MONTHLY", "DAILY", "HOURLY", "MINUTELY"}),
        ("BYDAY=1MO", {"YEARLY", "MONTHLY"}),
        ("BYDAY=MO,-1FR", {"YEARLY", "MONTHLY"}),
        ("BYDAY=MO", set(FREQUENCIES)),
        ("BYMONTH=3", set(FREQUENCIES)),
        ("BYSETPOS=1", set()),
        ("BYSETPOS=1;BYDAY=MO", {"YEARLY", "MONTHLY", "WEEKLY", "DAILY"}),
        ("BYSETPOS=1;BYHOUR=9", {"YEARLY", "MONTHLY", "WEEKLY", "DAILY"}),
        ("COUNT=3;UNTIL=20261231T235959", set()),
    ],
)
def test_which_parts_go_with_which_frequency(part: str, good: set[str]) -> None:
    assert {frequency for frequency in FREQUENCIES if is_rule(f"FREQ={frequency};{part}")} == good


@pytest.mark.parametrize("name", ["DTSTART", "RDATE", "EXRULE", "DTEND", "DURATION"])
def test_other_lines_of_a_calendar_are_refused_by_name(name: str) -> None:
    with pytest.raises(Invalid, match=f"{name} has no place here"):
        parse(f"{name}:20260101T090000\nFREQ=DAILY")


def test_what_the_parts_say() -> None:
    rule = parse("FREQ=MONTHLY;INTERVAL=2;COUNT=7;WKST=SU;BYDAY=MO,-1FR,+2SU;BYMONTH=12,1")
    assert (rule.interval, rule.count, rule.until, rule.week_start) == (2, 7, None, 6)
    assert rule.days == ((0, 0), (4, -1), (6, 2))
    assert (rule.by("BYMONTH"), rule.by("BYHOUR")) == ((12, 1), None)
    plain = parse("FREQ=DAILY")
    assert (plain.interval, plain.count, plain.week_start, plain.days, plain.numbers) == (1, None, 0, (), {})


def test_an_end_is_on_the_wall_clock_or_in_utc() -> None:
    wall = datetime.fromisoformat("2026-12-31T23:59:58")
    assert parse("FREQ=DAILY;UNTIL=20261231T235958").until == wall
    assert parse("FREQ=DAILY;UNTIL=20261231T235958Z").until == wall.replace(tzinfo=UTC)


def test_times_left_out_are_days_wall_clock_times_or_instants() -> None:
    text = "FREQ=DAILY\nEXDATE;VALUE=DATE-TIME:20260303T090000, 20260304t080000z\nexdate;value=date:20260305"
    wall = datetime.fromisoformat("2026-03-03T09:00")
    instant = datetime.fromisoformat("2026-03-04T08:00+00:00")
    assert parse(text).excluded == {wall, instant, date(2026, 3, 5)}


def test_a_rule_has_so_many_characters_and_leaves_out_so_many_times_and_no_more() -> None:
    longest = "FREQ=DAILY;BYMONTH=" + "1," * 240 + "1"
    assert len(longest) == LONGEST
    assert is_rule(longest)
    assert not is_rule(longest + "2")
    day, most = "2026-03-03", MOST_EXCLUDED
    text = joined("FREQ=DAILY", [day] * most)
    assert written(text) == ("FREQ=DAILY", (day,) * most)
    assert is_rule(text)
    with pytest.raises(Invalid) as refused:
        joined("FREQ=DAILY", [day] * (most + 1))
    assert (refused.value.code, refused.value.path) == ("too_many", "$.exdates")


def test_seconds_may_be_left_out_of_an_instant_too() -> None:
    assert joined("FREQ=DAILY", ["2026-03-05T08:00Z"]) == "FREQ=DAILY\nEXDATE:20260305T080000Z"


@pytest.mark.parametrize("text", ["2026-03-03T09", "2026-03-03T09:00:00:00", "20260303T090000", "2026-3-3", "Z"])
def test_a_time_left_out_has_one_of_four_forms(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        joined("FREQ=DAILY", [text])
    assert (refused.value.code, refused.value.path) == ("invalid_local_time", "$.exdates[0]")
