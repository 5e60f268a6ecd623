from __future__ import annotations

import calendar
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import islice

import pytest
from dateutil.rrule import rrulestr
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tidings.model.errors import Invalid
from tidings.policy import recurrence_rule
from tidings.policy.expansion import Budget, expansion
from tidings.policy.recurrence_rule import Frequency, Rule

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def ours(text: str, start: str | datetime, count: int = 5, after: datetime | None = None) -> list[datetime]:
    begin = datetime.fromisoformat(start) if isinstance(start, str) else start
    return list(islice(expansion(text, begin).after(after or begin - MINUTE, Budget()), count))


def dates(text: str, start: str, count: int = 5) -> list[str]:
    return [moment.date().isoformat() for moment in ours(text, start, count)]


@lru_cache
def weekdays_of(year: int, weekday: int) -> list[date]:
    """All days of a year with this weekday (0 is Monday)."""
    days = [date(year, 1, 1) + number * DAY for number in range(366 if calendar.isleap(year) else 365)]
    return [day for day in days if day.weekday() == weekday]


class NaiveExpansion:
    """RFC 5545 section 3.3.10 taken literally: it tests each day, and writes out each period."""

    def __init__(self, rule: Rule, start: datetime) -> None:
        self.rule, self.start = rule, start

    def times(self, days: int) -> list[datetime]:
        """The times within `days` days from the start."""
        found: list[datetime] = []
        kept: dict[object, list[datetime]] = {}
        edge = {Frequency.YEARLY: 366, Frequency.MONTHLY: 31, Frequency.WEEKLY: 7}.get(self.rule.frequency, 0)
        first = self.start.date() - edge * DAY
        for number in range(days + 2 * edge + 1):
            day = first + number * DAY
            key = self.period(day)
            if key is not None and self.matches(day):
                kept.setdefault(key, []).extend(self.moments(day))
        for moments in kept.values():
            found += self.chosen(sorted(moments))
        found = sorted(moment for moment in set(found) if moment >= self.start)
        found = found[: self.rule.count] if self.rule.count is not None else found
        return [moment for moment in found if moment < self.start + days * DAY]

    def period(self, day: date) -> object:
        """The number of the period that the day is in; None if the interval skips that period."""
        rule, start = self.rule, self.start.date()
        number: int
        if rule.frequency is Frequency.YEARLY:
            number = day.year - start.year
        elif rule.frequency is Frequency.MONTHLY:
            number = (day.year - start.year) * 12 + day.month - start.month
        elif rule.frequency is Frequency.WEEKLY:
            number = (self.monday(day) - self.monday(start)).days // 7
        elif rule.frequency is Frequency.DAILY:
            number = (day - start).days
        else:
            return day
        return number if number % rule.interval == 0 else None

    def monday(self, day: date) -> date:
        """The first day of the week of `day`."""
        while day.weekday() != self.rule.week_start:
            day -= DAY
        return day

    def matches(self, day: date) -> bool:
        """Whether the day matches each part of the rule, and the parts that come from the start."""
        rule, start = self.rule, self.start
        parts = {name: rule.by(name) for name in ("BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO")}
        days = rule.days
        if not (parts["BYMONTHDAY"] or parts["BYYEARDAY"] or days):
            if parts["BYWEEKNO"] or rule.frequency is Frequency.WEEKLY:
                days = ((start.weekday(), 0),)
            elif rule.frequency in {Frequency.YEARLY, Frequency.MONTHLY}:
                parts["BYMONTHDAY"] = (start.day,)
                if rule.frequency is Frequency.YEARLY:
                    parts["BYMONTH"] = parts["BYMONTH"] or (start.month,)
        month = calendar.monthrange(day.year, day.month)[1]
        year = 366 if calendar.isleap(day.year) else 365
        at = day.timetuple().tm_yday
        week, weeks = self.week(day)
        asked: list[Callable[[], bool]] = [
            lambda: not parts["BYMONTH"] or day.month in parts["BYMONTH"],
            lambda: not parts["BYMONTHDAY"] or bool({day.day, day.day - month - 1} & set(parts["BYMONTHDAY"])),
            lambda: not parts["BYYEARDAY"] or bool({at, at - year - 1} & set(parts["BYYEARDAY"])),
            lambda: not parts["BYWEEKNO"] or bool({week, week - weeks - 1} & set(parts["BYWEEKNO"])),
            lambda: not days or any(self.is_placed(day, *each) for each in days),
        ]
        return all(ask() for ask in asked)

    def week(self, day: date) -> tuple[int, int]:
        """The number of the day's week, and how many its year has. A week belongs to the year of most of its days."""
        middle = self.monday(day) + 3 * DAY
        ones = weekdays_of(middle.year, middle.weekday())
        return ones.index(middle) + 1, len(ones)

    def is_placed(self, day: date, weekday: int, place: int) -> bool:
        """Whether the day is this weekday, at this place in its month or year."""
        if day.weekday() != weekday:
            return False
        if not place:
            return True
        in_year = self.rule.frequency is Frequency.YEARLY and not self.rule.by("BYMONTH")
        ones = [d for d in weekdays_of(day.year, weekday) if in_year or d.month == day.month]
        return place in {ones.index(day) + 1, ones.index(day) - len(ones)}

    def moments(self, day: date) -> Iterator[datetime]:
        """The times on a matching day."""
        rule, start = self.rule, self.start
        unit = {Frequency.HOURLY: timedelta(hours=1), Frequency.MINUTELY: MINUTE}.get(rule.frequency)
        hours = rule.by("BYHOUR") or (range(24) if unit else (start.hour,))
        minutes = rule.by("BYMINUTE") or (range(60) if unit == MINUTE else (start.minute,))
        second = (rule.by("BYSECOND") or (start.second,))[0]
        origin = start.replace(second=0, minute=start.minute if unit == MINUTE else 0)
        for hour in sorted(set(hours)):
            for minute in sorted(set(minutes)):
                moment = datetime(day.year, day.month, day.day, hour, minute, second)
                if unit is None or (moment - origin) // unit % rule.interval == 0:
                    yield moment

    def chosen(self, moments: list[datetime]) -> list[datetime]:
        """The moments of a period at the rule's positions."""
        positions = self.rule.by("BYSETPOS")
        if not positions:
            return moments
        return [m for at, m in enumerate(moments) if at + 1 in positions or at - len(moments) in positions]


def numbers(name: str, *ranges: tuple[int, int]) -> st.SearchStrategy[str]:
    one = st.one_of([st.integers(low, high) for low, high in ranges])
    return st.lists(one, min_size=1, max_size=4, unique=True).map(lambda found: f"{name}=" + ",".join(map(str, found)))


WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
PLAIN = st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=4, unique=True)
PLACED = st.lists(
    st.builds("{}{}".format, st.sampled_from([1, 2, 3, 5, -1, -2, 20, 53, -53]), st.sampled_from(WEEKDAYS)),
    min_size=1,
    max_size=2,
)
BYDAY = PLAIN.map(lambda days: "BYDAY=" + ",".join(days))
BYDAY_PLACED = st.builds(lambda a, b: "BYDAY=" + ",".join([*a, *b]), PLACED, st.just([]) | PLAIN)
BYMONTH = numbers("BYMONTH", (1, 12))
BYMONTHDAY = numbers("BYMONTHDAY", (1, 31), (-31, -1), (-1, -1), (29, 31))
BYYEARDAY = numbers("BYYEARDAY", (1, 366), (-366, -1), (365, 366), (59, 61))
BYWEEKNO = numbers("BYWEEKNO", (1, 53), (-53, -1), (1, 2), (52, 53))
BYSETPOS = numbers("BYSETPOS", (1, 4), (-4, -1), (1, 366))
WKST = st.sampled_from(WEEKDAYS).map("WKST={}".format)
PARTS = {
    "YEARLY": [BYMONTH, BYMONTHDAY, BYYEARDAY, BYWEEKNO, BYDAY | BYDAY_PLACED, BYSETPOS, WKST],
    "MONTHLY": [BYMONTH, BYMONTHDAY, BYDAY | BYDAY_PLACED, BYSETPOS],
    "WEEKLY": [BYMONTH, BYDAY, BYSETPOS, WKST],
    "DAILY": [BYMONTH, BYMONTHDAY, BYDAY, BYSETPOS],
    "HOURLY": [BYMONTH, BYMONTHDAY, BYYEARDAY, BYDAY],
    "MINUTELY": [BYMONTH, BYMONTHDAY, BYYEARDAY, BYDAY],
}
TIMES = [numbers("BYHOUR", (0, 23)), numbers("BYMINUTE", (0, 59)), st.just("BYSECOND=30")]


@st.composite
def rules(draw: st.DrawFn) -> str:
    frequency = draw(st.sampled_from(sorted(PARTS)))
    parts = [draw(part) for part in PARTS[frequency] if draw(st.integers(0, 2)) == 0]
    parts += [draw(part) for part in TIMES if draw(st.integers(0, 3)) == 0]
    if draw(st.booleans()):
        parts.append(f"INTERVAL={draw(st.integers(1, 7) | st.integers(1, 200))}")
    if draw(st.integers(0, 3)) == 0:
        parts.append(f"COUNT={draw(st.integers(1, 6))}")
    text = ";".join([f"FREQ={frequency}", *parts])
    try:
        recurrence_rule.parse(text)
    except Invalid:
        assume(False)
    return text


STARTS = st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)).map(lambda moment: moment.replace(microsecond=0))
EDGES = st.sampled_from([datetime(2024, 2, 29, 9), datetime(2026, 1, 1), datetime(2024, 12, 31, 23, 59)])


@settings(deadline=None, max_examples=250)
@example("FREQ=MONTHLY;BYDAY=-53MO;BYSETPOS=1;BYSECOND=30", datetime(2024, 2, 29, 9), 0)  # no month has it
@given(rules(), STARTS | EDGES, st.integers(0, 500))
def test_it_agrees_with_a_naive_reading_of_the_standard(text: str, start: datetime, later: int) -> None:
    days = 3 if "MINUTELY" in text or "HOURLY" in text else 800
    after = start - MINUTE + (later if days > 3 else later % 3) * DAY
    expected = [moment for moment in NaiveExpansion(recurrence_rule.parse(text), start).times(days) if moment > after]
    until = start + days * DAY
    try:
        found = list(islice(expansion(text, start).after(after, Budget()), len(expected) + 1))
    except Invalid as problem:
        assert problem.code == "too_costly"  # noqa: PT017 (either outcome is right)
        return
    assert [moment for moment in found if moment < until] == expected


@settings(deadline=None, max_examples=300)
@given(rules(), STARTS, st.integers(0, 20_000))
def test_it_agrees_with_dateutil_where_that_follows_the_standard(text: str, start: datetime, days: int) -> None:
    rule = recurrence_rule.parse(text)
    assume(not (rule.by("BYSETPOS") and rule.frequency is Frequency.WEEKLY))  # it counts from the start in the first
    assume(not (rule.by("BYWEEKNO") and not rule.days))  # it takes all seven days
    assume(not {-52, -53, 52, 53} & set(rule.by("BYWEEKNO") or ()))  # it forgets the edges of the years beside
    assume(len({bool(place) for _, place in rule.days}) < 2)  # it takes what is in both instead of in either
    in_month = rule.frequency is Frequency.MONTHLY or rule.by("BYMONTH")
    assume(not (in_month and any(abs(place) > 5 for _, place in rule.days)))  # it fails for places that no month has
    after = start + timedelta(days=days if rule.frequency <= Frequency.DAILY and rule.count is None else days % 3)
    try:
        found = ours(text, start, 4, after)
    except Invalid:
        assume(False)
    assume(len(found) == 4)  # or the library would search for long
    try:
        assert found == list(islice(rrulestr(text, dtstart=start).xafter(after), 4))
    except ValueError:
        assert not found  # it says that hours or minutes are never met


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("FREQ=YEARLY;BYWEEKNO=20", "2026-12-07T09:00",
         ["2027-05-17", "2028-05-15", "2029-05-14", "2030-05-13", "2031-05-12"]),
        ("FREQ=YEARLY;BYWEEKNO=1,2", "2026-12-01T09:00",
         ["2027-01-05", "2027-01-12", "2028-01-04", "2028-01-11", "2029-01-02"]),
        ("FREQ=YEARLY;BYWEEKNO=-1", "2026-12-04T09:00",
         ["2027-01-01", "2027-12-31", "2028-12-29", "2029-12-28", "2031-01-03"][:4]),
        ("FREQ=YEARLY;BYWEEKNO=53", "2026-12-03T09:00", ["2026-12-31", "2032-12-30", "2037-12-31", "2043-12-31"]),
        ("FREQ=YEARLY;BYWEEKNO=20;BYDAY=TU", "2026-12-07T09:00", ["2027-05-18", "2028-05-16"]),
        ("FREQ=WEEKLY;BYDAY=MO,WE,FR;BYSETPOS=1", "2026-12-03T09:00",
         ["2026-12-07", "2026-12-14", "2026-12-21", "2026-12-28", "2027-01-04"]),
        ("FREQ=WEEKLY;WKST=WE;BYDAY=MO,TU,WE;BYSETPOS=1;COUNT=3", "2026-12-06T09:00",
         ["2026-12-09", "2026-12-16", "2026-12-23"]),
        ("FREQ=WEEKLY;BYDAY=MO,WE,FR;BYSETPOS=-1", "2026-12-05T09:00", ["2026-12-11", "2026-12-18"]),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR;BYSETPOS=1", "2026-12-03T09:00", ["2026-12-14", "2026-12-28"]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=1;COUNT=2", "2026-12-10T09:00", ["2027-01-01", "2027-02-01"]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", "2026-12-10T09:00", ["2026-12-31", "2027-01-29"]),
        ("FREQ=YEARLY;BYMONTH=12;BYDAY=MO;BYSETPOS=1", "2026-12-10T09:00", ["2027-12-06", "2028-12-04"]),
        ("FREQ=MONTHLY;BYMONTHDAY=-1", "2027-01-31T09:00", ["2027-01-31", "2027-02-28", "2027-03-31"]),
        ("FREQ=MONTHLY;BYMONTHDAY=31", "2027-01-31T09:00", ["2027-01-31", "2027-03-31", "2027-05-31"]),
        ("FREQ=MONTHLY", "2027-01-30T09:00", ["2027-01-30", "2027-03-30"]),
        ("FREQ=YEARLY", "2028-02-29T09:00", ["2028-02-29", "2032-02-29"]),
        ("FREQ=YEARLY", "2096-02-29T09:00", ["2096-02-29", "2104-02-29"]),
        ("FREQ=YEARLY;BYYEARDAY=-1", "2027-01-01T09:00", ["2027-12-31", "2028-12-31"]),
        ("FREQ=YEARLY;BYYEARDAY=366", "2027-01-01T09:00", ["2028-12-31", "2032-12-31"]),
        ("FREQ=YEARLY;BYYEARDAY=-366", "2027-01-01T09:00", ["2028-01-01", "2032-01-01"]),
        ("FREQ=MONTHLY;BYDAY=MO,1FR", "2026-12-01T09:00",
         ["2026-12-04", "2026-12-07", "2026-12-14", "2026-12-21", "2026-12-28"]),
        ("FREQ=DAILY;BYHOUR=9,18;BYSETPOS=-1", "2026-12-01T09:00", ["2026-12-01", "2026-12-02"]),
    ],
)  # fmt: skip
def test_right_values(text: str, start: str, expected: list[str]) -> None:
    assert dates(text, start, len(expected)) == expected


def test_a_rare_rule_costs_no_more_than_others() -> None:
    steps = Budget(50_000)
    rare = "FREQ=MINUTELY;INTERVAL=7;BYMONTH=2;BYMONTHDAY=29;BYDAY=MO;BYHOUR=3;BYMINUTE=1"
    start = datetime(2026, 1, 2)  # a Friday: from another day on, the beat never meets a Monday
    found = next(expansion(rare, start).after(start, steps))
    assert (found.month, found.day, found.weekday(), found.hour, found.minute) == (2, 29, 0, 3, 1)
    assert (found - start) // MINUTE % 7 == 0
    assert 50_000 - steps.left < 1_000


@pytest.mark.parametrize(
    "text",
    [
        "FREQ=MINUTELY;INTERVAL=9973;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=MINUTELY;INTERVAL=60;BYMINUTE=1",
        "FREQ=MINUTELY;INTERVAL=9999;BYMONTH=2;BYMONTHDAY=29;BYHOUR=3;BYMINUTE=1;BYDAY=MO",
        "FREQ=HOURLY;INTERVAL=9998;BYYEARDAY=366;BYHOUR=1",
        "FREQ=WEEKLY;BYDAY=MO,TU;BYSETPOS=3,4,5",
        "FREQ=WEEKLY;BYMONTH=2;BYDAY=MO;BYSETPOS=2",
        "FREQ=MONTHLY;BYDAY=MO;BYSETPOS=31",
        "FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=30,31",
        "FREQ=YEARLY;BYWEEKNO=1;BYMONTH=6",
        "FREQ=YEARLY;BYYEARDAY=366;BYMONTH=2",
        "FREQ=DAILY;INTERVAL=7;BYDAY=TU",
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30;BYHOUR=" + ",".join(map(str, range(24))),
        "FREQ=YEARLY;INTERVAL=3;BYMONTH=2;BYMONTHDAY=29;BYDAY=SU;BYHOUR=0;BYSETPOS=366",
        "FREQ=MINUTELY;BYMONTH=1;BYYEARDAY=366;COUNT=1000",
    ],
)
def test_no_search_exceeds_its_budget(text: str) -> None:
    budget = Budget()
    start = datetime(2026, 12, 7, 9)
    found = list(islice(expansion(text, start).after(start, budget), 1))
    assert budget.left >= 0
    assert not found or found[0].year <= start.year + 400


def test_a_search_ends_when_its_budget_is_spent() -> None:
    start = datetime(2026, 1, 1)
    never = expansion("FREQ=MONTHLY;BYDAY=MO;BYSETPOS=20,-20;BYHOUR=1,2,3", start)
    with pytest.raises(Invalid) as refused:
        list(never.after(start, Budget(1000)))
    assert (refused.value.code, refused.value.path) == ("too_costly", "$.rrule")
