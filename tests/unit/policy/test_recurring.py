from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tidings.model.errors import Invalid
from tidings.model.ids import bucket_of, instant_of, new_id, slot_of
from tidings.model.recurrence import Progress, Recurrence
from tidings.policy import recurrence_rule, recurring
from tidings.policy.expansion import Budget
from tidings.policy.recurring import Advance, Fire, Occurrence, first, occurrence_id, step, upcoming
from tidings.policy.wall_clock import instant_of as instant_at
from tidings.policy.wall_clock import zone

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
START = datetime(2026, 3, 2, 9)  # a Monday
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia", "UTC"]


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def recurrence(rule: str, start: datetime = START, timezone: str = "Europe/Berlin", **more: Any) -> Recurrence:
    """A recurrence whose first occurrence has not come yet."""
    found = first(rule, start, zone(timezone), instant_at(start, zone(timezone)) - 1)
    progress = Progress() if found is None else Progress(found.local.isoformat(), found.due)
    id = new_id(utc("2026-01-01T00:00"), 77, 12345)
    made = Recurrence(id, "shop", "n", rule, start.isoformat(), timezone, b"{}", progress=progress)
    return replace(made, **more)


def run(of: Recurrence, until: int) -> list[tuple[str, int]]:
    """The occurrences that are sent if a worker steps at each due time: local times with their instants."""
    sent = []
    while of.progress.due is not None and of.progress.due <= until:
        due, local = of.progress.due, of.progress.local
        told = step(of, zone(of.timezone), due, repeated=False)
        if isinstance(told, Fire):
            sent.append((str(local), due))
        of = replace(of, progress=told.then)
    return sent


def numbers(name: str, low: int, high: int) -> st.SearchStrategy[str]:
    found = st.lists(st.integers(low, high).filter(bool), min_size=1, max_size=3, unique=True)
    return found.map(lambda values: f"{name}=" + ",".join(map(str, values)))


DAYS = st.lists(st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"]), min_size=1, max_size=4, unique=True).map(
    lambda days: "BYDAY=" + ",".join(days)
)
PLACED = st.lists(st.sampled_from(["1MO", "-1FR", "2TU", "3SU"]), min_size=1, max_size=2, unique=True).map(
    lambda days: "BYDAY=" + ",".join(days)
)
PARTS: dict[str, list[st.SearchStrategy[str]]] = {
    "YEARLY": [numbers("BYMONTH", 1, 12), numbers("BYMONTHDAY", -31, 31), numbers("BYYEARDAY", -366, 366),
               numbers("BYWEEKNO", -53, 53), DAYS, PLACED],
    "MONTHLY": [numbers("BYMONTH", 1, 12), numbers("BYMONTHDAY", -31, 31), DAYS, PLACED],
    "WEEKLY": [numbers("BYMONTH", 1, 12), DAYS, st.sampled_from(["WKST=SU", "WKST=WE"])],
    "DAILY": [numbers("BYMONTH", 1, 12), numbers("BYMONTHDAY", -31, 31), DAYS],
    "HOURLY": [numbers("BYMONTH", 1, 12), DAYS],
    "MINUTELY": [DAYS],
}  # fmt: skip
TIMES = [numbers("BYHOUR", 0, 23), numbers("BYMINUTE", 0, 59), st.just("BYSECOND=30")]


@st.composite
def rules(draw: st.DrawFn) -> str:
    """A rule that the grammar permits."""
    frequency = draw(st.sampled_from(sorted(PARTS)))
    parts = [draw(part) for part in [*PARTS[frequency], *TIMES] if draw(st.integers(0, 3)) == 0]
    interval = draw(st.integers(1, 5))
    text = ";".join([f"FREQ={frequency}", f"INTERVAL={interval}", *parts])
    try:
        recurrence_rule.parse(text)
    except Invalid:
        assume(False)
    return text


STARTS = st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1)).map(lambda moment: moment.replace(microsecond=0))


@settings(deadline=None, max_examples=150)
@given(rules(), STARTS, st.sampled_from(ZONES), st.integers(0, 400))
def test_occurrences_come_once_each_in_order(text: str, start: datetime, timezone: str, days: int) -> None:
    where = zone(timezone)
    now = instant_at(start, where) + days * DAY
    try:
        after = start + timedelta(days=days)
        found = list(islice(recurring._occurrences(text, start, where, after, now, Budget()), 20))
    except Invalid:
        assume(False)
    assert [occurrence.due for occurrence in found] == sorted({occurrence.due for occurrence in found})
    assert [occurrence.local for occurrence in found] == sorted({occurrence.local for occurrence in found})
    assert all(occurrence.due == instant_at(occurrence.local, where) > now for occurrence in found)


def test_nine_o_clock_stays_nine_o_clock_over_the_jumps() -> None:
    daily = recurrence("FREQ=DAILY", datetime(2026, 3, 27, 9))
    assert [due for _, due in run(daily, utc("2026-03-31T00:00"))] == [
        utc("2026-03-27T08:00"),
        utc("2026-03-28T08:00"),
        utc("2026-03-29T07:00"),
        utc("2026-03-30T07:00"),
    ]


def test_a_time_in_a_gap_comes_with_the_jump_and_one_that_comes_twice_comes_once() -> None:
    spring = run(recurrence("FREQ=DAILY", datetime(2026, 3, 28, 2, 30)), utc("2026-03-31T00:00"))
    assert [due for _, due in spring] == [utc("2026-03-28T01:30"), utc("2026-03-29T01:00"), utc("2026-03-30T00:30")]
    autumn = run(recurrence("FREQ=DAILY", datetime(2026, 10, 24, 2, 30)), utc("2026-10-27T00:00"))
    assert [due for _, due in autumn] == [utc("2026-10-24T00:30"), utc("2026-10-25T00:30"), utc("2026-10-26T01:30")]


def test_several_times_in_one_gap_come_as_one() -> None:
    half_hourly = recurrence("FREQ=MINUTELY;INTERVAL=30", datetime(2026, 3, 29, 1, 30))
    assert run(half_hourly, utc("2026-03-29T02:00")) == [
        ("2026-03-29T01:30:00", utc("2026-03-29T00:30")),
        ("2026-03-29T02:00:00", utc("2026-03-29T01:00")),
        ("2026-03-29T03:30:00", utc("2026-03-29T01:30")),
        ("2026-03-29T04:00:00", utc("2026-03-29T02:00")),
    ]


def test_a_day_that_a_zone_skipped_has_no_occurrence() -> None:
    apia = recurrence("FREQ=DAILY", datetime(2011, 12, 28, 9), "Pacific/Apia")
    assert [local[:10] for local, _ in run(apia, utc("2012-01-01T00:00"))] == [
        "2011-12-28",
        "2011-12-29",
        "2011-12-31",
        "2012-01-01",
    ]


def test_count_and_until_end_it() -> None:
    assert len(run(recurrence("FREQ=DAILY;COUNT=3"), utc("2027-01-01T00:00"))) == 3
    until = run(recurrence("FREQ=DAILY;UNTIL=20260304T090000"), utc("2027-01-01T00:00"))
    assert [local for local, _ in until] == ["2026-03-02T09:00:00", "2026-03-03T09:00:00", "2026-03-04T09:00:00"]
    assert len(run(recurrence("FREQ=DAILY;UNTIL=20260304T080000Z"), utc("2027-01-01T00:00"))) == 3
    assert len(run(recurrence("FREQ=DAILY;UNTIL=20260304T075959Z"), utc("2027-01-01T00:00"))) == 2


def test_the_latest_of_those_that_were_missed_is_sent_once() -> None:
    hourly = recurrence("FREQ=HOURLY", grace=2 * 3600)
    assert hourly.progress.due is not None
    now = hourly.progress.due + 5 * HOUR + 10 * MINUTE
    moved = step(hourly, zone("Europe/Berlin"), now, repeated=False)
    assert isinstance(moved, Advance)
    assert (moved.then.local, moved.then.skipped) == ("2026-03-02T14:00:00", 5)
    told = step(replace(hourly, progress=moved.then), zone("Europe/Berlin"), now, repeated=False)
    assert isinstance(told, Fire)
    assert (told.then.local, told.then.fired_at) == ("2026-03-02T15:00:00", moved.then.due)


def test_an_occurrence_later_than_its_grace_is_skipped_and_reported() -> None:
    daily = recurrence("FREQ=DAILY", grace=3600)
    assert daily.progress.due is not None
    on_time = step(daily, zone("Europe/Berlin"), daily.progress.due + 3600_000, repeated=False)
    assert isinstance(on_time, Fire)
    late = step(daily, zone("Europe/Berlin"), daily.progress.due + 3600_001, repeated=False)
    assert isinstance(late, Advance)
    assert (late.then.local, late.then.skipped, late.then.fired_at) == ("2026-03-03T09:00:00", 1, None)
    assert "missed" in late.then.problem


def test_a_long_outage_is_passed_over_step_by_step() -> None:
    minutely = recurrence("FREQ=MINUTELY", grace=60)
    assert minutely.progress.due is not None
    now, steps = minutely.progress.due + 20 * DAY + 1000, 0
    told = step(minutely, zone("Europe/Berlin"), now, repeated=False)
    while isinstance(told, Advance):
        minutely, steps = replace(minutely, progress=told.then), steps + 1
        told = step(minutely, zone("Europe/Berlin"), now, repeated=False)
    assert steps == 15  # 28,800 occurrences, 2,000 a step
    assert told.then.skipped == 20 * 24 * 60
    assert told.then.fired_at == now - 1000


def test_a_user_who_moved_west_is_waited_for() -> None:
    daily = recurrence("FREQ=DAILY", timezone="user")
    due = utc("2026-03-02T08:00")  # nine in Berlin
    daily = replace(daily, progress=Progress("2026-03-02T09:00:00", due))
    told = step(daily, zone("America/New_York"), due, repeated=False)
    assert told == Advance(Progress("2026-03-02T09:00:00", utc("2026-03-02T14:00")))
    # But what may have been sent already is not moved: it would be another notification.
    assert isinstance(step(daily, zone("America/New_York"), due, repeated=True), Fire)


@settings(deadline=None)
@given(st.lists(st.sampled_from(ZONES), min_size=1, max_size=30))
def test_however_a_user_travels_each_local_time_comes_at_most_once(zones: list[str]) -> None:
    daily, sent = recurrence("FREQ=DAILY", timezone="user"), list[str]()
    for timezone in zones:
        for _ in range(3):  # a look may only move it
            assert daily.progress.due is not None
            local, told = daily.progress.local, step(daily, zone(timezone), daily.progress.due, repeated=False)
            daily = replace(daily, progress=told.then)
            if isinstance(told, Fire):
                sent.append(str(local))
                break
    assert sent == sorted(set(sent))


def test_the_id_of_an_occurrence_is_always_the_same_and_says_where_and_when() -> None:
    daily = recurrence("FREQ=DAILY")
    id = occurrence_id(daily)
    assert id == occurrence_id(replace(daily, request=b"other", revision=9, paused=True))
    assert (instant_of(id), bucket_of(id), slot_of(id)) == (daily.progress.due, 77, 0)
    following = step(daily, zone("Europe/Berlin"), daily.progress.due or 0, repeated=False).then
    ids = {id, occurrence_id(replace(daily, progress=following)), occurrence_id(replace(daily, id=new_id(1, 77, 2)))}
    assert len(ids) == 3


def test_upcoming_occurrences_begin_with_the_one_that_is_due() -> None:
    weekly = recurrence("FREQ=WEEKLY;BYDAY=MO,TH")
    assert [occurrence.local.isoformat() for occurrence in upcoming(weekly, zone("Europe/Berlin"), 3)] == [
        "2026-03-02T09:00:00",
        "2026-03-05T09:00:00",
        "2026-03-09T09:00:00",
    ]
    assert upcoming(replace(weekly, progress=Progress()), zone("UTC"), 3) == []


def test_the_start_counts_and_now_does_not() -> None:
    berlin = zone("Europe/Berlin")
    start = instant_at(START, berlin)
    assert first("FREQ=DAILY", START, berlin, start - 1) == Occurrence(START, start)
    assert first("FREQ=DAILY", START, berlin, start) == Occurrence(START + timedelta(days=1), start + DAY)
    assert first("FREQ=DAILY;COUNT=1", START, berlin, start) is None


@pytest.mark.parametrize(
    "text",
    [
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=MINUTELY;BYMONTH=2;BYMONTHDAY=31",
        "FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=31;BYMINUTE=" + ",".join(map(str, range(60))),
        "FREQ=MONTHLY;INTERVAL=12;BYMONTH=4",
        "FREQ=HOURLY;INTERVAL=2;BYHOUR=10",
        "FREQ=YEARLY;BYDAY=MO;BYMONTH=1;BYSETPOS=366",
        "FREQ=DAILY;UNTIL=20200101T000000",
    ],
)
def test_a_rule_that_never_comes_true_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        recurring.check(text, START)
    assert (refused.value.code, refused.value.path) == ("never_occurs", "$.rrule")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "one rule"),
        ("FREQ", "is written like"),
        ("every day", "is written like"),
        ("INTERVAL=2", "how often"),
        ("FREQ=SECONDLY", "once a minute"),
        ("FREQ=OFTEN", "FREQ is one of"),
        ("FREQ=DAILY;INTERVAL=0", "whole number"),
        ("FREQ=DAILY;INTERVAL=-1", "whole number"),
        ("FREQ=DAILY;COUNT=0", "whole number"),
        ("FREQ=DAILY;COUNT=5000", "1 to 1000"),
        ("FREQ=DAILY;COUNT=٣", "whole number"),
        ("FREQ=DAILY;COUNT=3;UNTIL=20261231T000000", "not both"),
        ("FREQ=DAILY;UNTIL=20261231", "UNTIL has a time, .*UNTIL=20261231T235959"),
        ("FREQ=DAILY;UNTIL=2026-12-31", "UNTIL has a time"),
        ("FREQ=DAILY;;", "is written like"),
        (";FREQ=DAILY", "is written like"),
        (";", "is written like"),
        ("FREQ=DAILY\nFREQ=DAILY", "one rule"),
        ("EXDATE:20261224", "one rule"),
        ("FREQ=DAILY\nEXDATE:soon", "EXDATE is a list"),
        ("FREQ=DAILY\nEXDATE:20260230", "EXDATE is a list"),
        ("FREQ=DAILY\nEXDATE;TZID=Europe/Berlin:20261224T090000", "leave TZID out"),
        ("FREQ=DAILY\nEXDATE:" + ",".join(["20261224"] * 501), "at most 500"),
        ("DTSTART:20260101T090000\nFREQ=DAILY", "DTSTART has no place here"),
        ("FREQ=DAILY\nRDATE:20260101T090000", "RDATE has no place here"),
        ("FREQ=DAILY;UNTIL=20260231T000000Z", "no date"),
        ("FREQ=DAILY;FREQ=DAILY", "twice"),
        ("FREQ=DAILY;BYEASTER=0", "there is no part"),
        ("FREQ=DAILY;BYSECOND=0,30", "once a minute"),
        ("FREQ=DAILY;BYSECOND=60", "0 to 59"),
        ("FREQ=DAILY;BYHOUR=24", "0 to 23"),
        ("FREQ=DAILY;BYHOUR=-1", "0 to 23"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "1 to 31"),
        ("FREQ=MONTHLY;BYMONTHDAY=32", "1 to 31"),
        ("FREQ=MONTHLY;BYDAY=XX", "BYDAY"),
        ("FREQ=YEARLY;BYDAY=54MO", "BYDAY"),
        ("FREQ=WEEKLY;BYDAY=1MO", "MONTHLY or YEARLY"),
        ("FREQ=YEARLY;BYWEEKNO=20;BYDAY=1MO", "BYWEEKNO"),
        ("FREQ=MONTHLY;BYWEEKNO=20", "YEARLY alone"),
        ("FREQ=MONTHLY;BYYEARDAY=20", "BYYEARDAY"),
        ("FREQ=WEEKLY;BYMONTHDAY=20", "BYMONTHDAY"),
        ("FREQ=MONTHLY;BYSETPOS=1", "BYSETPOS"),
        ("FREQ=HOURLY;BYMINUTE=1,2;BYSETPOS=1", "BYSETPOS"),
        ("FREQ=WEEKLY;WKST=XX", "WKST"),
        ("FREQ=DAILY;" + "BYMONTH=1,1,1,1" * 100, "500 characters"),
    ],
)
def test_an_invalid_rule_is_refused_with_what_would_be_right(text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says) as refused:
        recurrence_rule.parse(text)
    assert (refused.value.code, refused.value.path) == ("invalid_rrule", "$.rrule")


@pytest.mark.parametrize(
    "text",
    [
        "rrule:freq=weekly;byday=mo",
        "FREQ=WEEKLY;BYDAY=MO;",
        "\nRRULE:FREQ=WEEKLY;\r\n BYDAY=MO\r\n",
        " FREQ=WEEKLY;BYDAY=MO ",
    ],
)
def test_a_rule_may_be_written_as_calendars_write_it(text: str) -> None:
    assert recurrence_rule.parse(text) == recurrence_rule.parse("FREQ=WEEKLY;BYDAY=MO")


def test_excluded_times_do_not_come_but_count() -> None:
    lines = (
        "RRULE:FREQ=DAILY;COUNT=6\nEXDATE:20260303T090000,20260304T100000\nEXDATE;VALUE=DATE:20260305\n"
        "EXDATE:20260306T080000Z"
    )
    left_out = recurrence(lines)
    assert [local[:10] for local, _ in run(left_out, utc("2027-01-01T00:00"))] == [
        "2026-03-02",
        "2026-03-04",  # ten o'clock is left out, nine is not
        "2026-03-07",
    ]
    assert recurrence_rule.written(lines) == (
        "RRULE:FREQ=DAILY;COUNT=6",
        ("2026-03-03T09:00:00", "2026-03-04T10:00:00", "2026-03-05", "2026-03-06T08:00:00Z"),
    )


def test_excluded_times_are_written_in_one_form() -> None:
    rule, given = "FREQ=DAILY", ["2026-03-03T09:00", "2026-03-04", "2026-03-05t08:00:00z", "2026-03-06T08:00:30"]
    text = recurrence_rule.joined(rule, given)
    assert text == "FREQ=DAILY\nEXDATE:20260303T090000,20260304,20260305T080000Z,20260306T080030"
    again = recurrence_rule.joined(*recurrence_rule.written(text))
    assert again == text
    assert recurrence_rule.joined(rule, []) == rule


@pytest.mark.parametrize(
    "text", ["soon", "2026-02-30", "20260303", "2026-03-03T25:00", "2026-03-03T09:00+01:00", "", "2026-03-03T09"]
)
def test_an_invalid_excluded_time_is_refused_with_its_path(text: str) -> None:
    with pytest.raises(Invalid, match="on the wall clock") as refused:
        recurrence_rule.joined("FREQ=DAILY", ["2026-03-03", text])
    assert (refused.value.code, refused.value.path) == ("invalid_local_time", "$.exdates[1]")


def test_a_rule_whose_times_are_all_excluded_never_comes() -> None:
    with pytest.raises(Invalid) as refused:
        recurring.check("FREQ=DAILY;COUNT=1\nEXDATE:20260302", START)
    assert refused.value.code == "never_occurs"
