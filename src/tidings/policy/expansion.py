"""Computes the wall-clock times of a recurrence rule (RFC 5545 section 3.3.10) at a bounded cost.

Parts that the rule does not name come from the start; a rule with `BYWEEKNO` alone means the start's weekday. Positions
(`BYSETPOS`) count in the whole period, in the first one too: times before the start are left out afterwards, and
`COUNT` counts the rest.

Which days of a year match depends on its first weekday and on whether it is a leap year, so there are 14 kinds of
years, and 28 of months; the days of each kind are computed once, and so are the positions among each number of days.
The times of an hourly or minutely rule repeat after some days, so looking at a day costs the same whether it has
matching times or not. A search ends after `HORIZON` years: by then the calendar, with its weekdays, repeats itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from math import gcd
from typing import NamedTuple

from tidings.model.errors import Invalid
from tidings.policy.recurrence_rule import PATH, Frequency, Rule, parse

HORIZON = 400
"""How many years a search looks through: the Gregorian calendar repeats itself after so many."""
LAST_YEAR = 9990
STEPS = 50_000
"""The budget of one search: each month and week that it looks at costs a step, and so do 16 days of a year."""

_DAYS_PER_STEP = 16
_NORMAL = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_LEAP = (31, 29, *_NORMAL[2:])
_DAY_S = 86_400
_DAY = timedelta(days=1)


class Budget:
    """The steps that one search, or several together, may still spend."""

    def __init__(self, steps: int = STEPS) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Take `steps` off the budget. Raises Invalid when too few are left."""
        self.left -= steps
        if self.left < 0:
            raise Invalid("too_costly", "it takes too long to find when this rule comes true; make it simpler", PATH)


class YearKind(NamedTuple):
    """The facts that decide which days of a year match: its first weekday, its months' lengths, the years beside it."""

    weekday: int
    lengths: tuple[int, ...]
    follows_leap: bool
    precedes_leap: bool


class Expansion:
    """The times of a rule that counts from `start`. Make it with the function `expansion`, which caches."""

    def __init__(self, rule: Rule, start: datetime) -> None:
        self._rule = rule
        self._start = start
        self._positions = rule.by("BYSETPOS") or ()
        self._months = frozenset(rule.by("BYMONTH") or ())
        self._month_days = frozenset(rule.by("BYMONTHDAY") or ())
        self._year_days = frozenset(rule.by("BYYEARDAY") or ())
        self._weeks = frozenset(rule.by("BYWEEKNO") or ())
        self._weekdays = frozenset(day for day, place in rule.days if not place)
        self._placed = frozenset((day, place) for day, place in rule.days if place)
        self._take_from_the_start()
        self._times = self._times_of_a_day()
        self._modulus, self._by_remainder = self._times_by_day()
        self._moments: dict[int, list[int]] = {}
        self._years: dict[YearKind, list[int]] = {}
        self._month_kinds: dict[tuple[int, int], list[int]] = {}

    def after(self, wall: datetime, budget: Budget) -> Iterator[datetime]:
        """The times later than `wall`, in order. Raises Invalid when the search would exceed the budget."""
        rule, start = self._rule, self._start
        lower = start if rule.count is not None else max(start, wall)
        last = min(max(start, wall).year + HORIZON, LAST_YEAR)
        count = 0
        for time in self._from(lower, last, budget):
            if time < start:
                continue
            count += 1
            if time > wall:
                yield time
            if count == rule.count:
                return

    def _take_from_the_start(self) -> None:
        rule, start = self._rule, self._start
        if self._month_days or self._year_days or self._weekdays or self._placed:
            return
        if self._weeks or rule.frequency is Frequency.WEEKLY:
            self._weekdays = frozenset({start.weekday()})
        elif rule.frequency in {Frequency.YEARLY, Frequency.MONTHLY}:
            self._month_days = frozenset({start.day})
            if rule.frequency is Frequency.YEARLY and not self._months:
                self._months = frozenset({start.month})

    def _times_of_a_day(self) -> list[int]:
        """The seconds after midnight at which a day may have an occurrence."""
        rule, start = self._rule, self._start
        every_hour, every_minute = rule.frequency >= Frequency.HOURLY, rule.frequency >= Frequency.MINUTELY
        hours = rule.by("BYHOUR") or (range(24) if every_hour else (start.hour,))
        minutes = rule.by("BYMINUTE") or (range(60) if every_minute else (start.minute,))
        second = (rule.by("BYSECOND") or (start.second,))[0]
        return sorted({hour * 3600 + minute * 60 + second for hour in hours for minute in minutes})

    def _times_by_day(self) -> tuple[int, dict[int, list[int]]]:
        """After how many days the times repeat, and the times of each day until then; of rules with FREQ=DAILY or less.

        Days count from the start, times are seconds after midnight.
        """
        rule, start = self._rule, self._start
        if rule.frequency <= Frequency.DAILY:
            times = _chosen(1, self._times, self._positions)
            return rule.interval, {0: times} if times else {}
        period_s = 3600 if rule.frequency is Frequency.HOURLY else 60
        periods_per_day = _DAY_S // period_s
        first = (start.hour * 3600 + start.minute * 60) // period_s
        # The period at `time` on day d matches if d * periods_per_day + time // period_s - first is a multiple of the
        # interval. Solve this congruence for d.
        shared = gcd(periods_per_day, rule.interval)
        modulus = rule.interval // shared
        inverse = pow(periods_per_day // shared, -1, modulus)
        by_remainder: dict[int, list[int]] = {}
        for time in self._times:
            ahead = first - time // period_s
            if ahead % shared == 0:
                by_remainder.setdefault(ahead // shared * inverse % modulus, []).append(time)
        return modulus, by_remainder

    def _from(self, lower: datetime, last: int, budget: Budget) -> Iterator[datetime]:
        """Times from the period of `lower` to the end of the year `last`; the first of them may be before `lower`."""
        frequency = self._rule.frequency
        if not self._times or not (self._by_remainder if frequency >= Frequency.DAILY else self._can_be()):
            return iter(())
        if frequency is Frequency.YEARLY:
            return self._yearly(lower.date(), last, budget)
        if frequency is Frequency.MONTHLY:
            return self._monthly(lower.date(), last, budget)
        if frequency is Frequency.WEEKLY:
            return self._weekly(lower.date(), last, budget)
        return self._daily(lower.date(), last, budget)

    def _can_be(self) -> bool:
        """Whether some period is long enough to have one of the positions."""
        weekdays = len(self._weekdays)
        days = {Frequency.YEARLY: 366, Frequency.MONTHLY: 31, Frequency.WEEKLY: weekdays}[self._rule.frequency]
        return not self._positions or min(map(abs, self._positions)) <= days * len(self._times)

    def _yearly(self, lower: date, last: int, budget: Budget) -> Iterator[datetime]:
        every, first = self._rule.interval, self._start.year
        for year in range(first + (lower.year - first) // every * every, last + 1, every):
            days = self._days_of_year(year)
            budget.spend(1 + len(days) // _DAYS_PER_STEP)
            yield from self._of_period(date(year, 1, 1), days, lower)

    def _monthly(self, lower: date, last: int, budget: Budget) -> Iterator[datetime]:
        every, first = self._rule.interval, self._start.year * 12 + self._start.month - 1
        begin = first + (lower.year * 12 + lower.month - 1 - first) // every * every
        for number in range(begin, (last + 1) * 12, every):
            budget.spend(1)
            year, month = divmod(number, 12)
            if self._months and month + 1 not in self._months:
                continue
            day = date(year, month + 1, 1)
            yield from self._of_period(day, self._days_of_month(day), lower)

    def _weekly(self, lower: date, last: int, budget: Budget) -> Iterator[datetime]:
        rule, start = self._rule, self._start.date()
        week = start - _DAY * ((start.weekday() - rule.week_start) % 7)
        offsets = sorted((day - rule.week_start) % 7 for day in self._weekdays)
        every = timedelta(weeks=rule.interval)
        week += (lower - week) // every * every
        while week.year <= last:
            budget.spend(1)
            days = offsets
            if self._months:
                days = [offset for offset in offsets if (week + _DAY * offset).month in self._months]
            if days:
                yield from self._of_period(week, days, lower)
            week += every

    def _daily(self, lower: date, last: int, budget: Budget) -> Iterator[datetime]:
        origin, modulus, by_remainder = self._start.toordinal(), self._modulus, self._by_remainder
        for year in range(lower.year, last + 1):
            first = date(year, 1, 1)
            days = self._days_of_year(year)
            budget.spend(1 + len(days) // _DAYS_PER_STEP)
            ahead = first.toordinal() - origin
            begin = bisect_left(days, (lower - first).days) if year == lower.year else 0
            for day in days[begin:] if begin else days:
                times = by_remainder.get((ahead + day) % modulus)
                if times is not None:
                    yield from _at(first + _DAY * day, times)

    def _of_period(self, first: date, days: Sequence[int], lower: date) -> Iterator[datetime]:
        """The times on the `days` (offsets) of a period that begins on `first`, without days before `lower`."""
        least = (lower - first).days
        if self._positions:
            moments = self._moments.get(len(days))
            if moments is None:
                moments = self._moments[len(days)] = _chosen(len(days), self._times, self._positions)
            for moment in moments:
                number, time = divmod(moment, _DAY_S)
                if days[number] >= least:
                    yield from _at(first + _DAY * days[number], (time,))
            return
        for day in days:
            if day >= least:
                yield from _at(first + _DAY * day, self._times)

    def _days_of_year(self, year: int) -> list[int]:
        """The matching days of a year, counted from 0."""
        kind = YearKind(
            date(year, 1, 1).weekday(),
            _LEAP if _is_leap(year) else _NORMAL,
            bool(self._weeks) and _is_leap(year - 1),
            bool(self._weeks) and _is_leap(year + 1),
        )
        days = self._years.get(kind)
        if days is None:
            days = self._years[kind] = sorted(self._match(kind))
        return days

    def _match(self, kind: YearKind) -> set[int]:
        total = sum(kind.lengths)
        days: set[int] = set()
        begin = 0
        for month, length in enumerate(kind.lengths, 1):
            if not self._months or month in self._months:
                offsets = self._of_month((kind.weekday + begin) % 7, length, in_month=bool(self._months))
                days.update(begin + offset for offset in offsets)
            begin += length
        if self._placed and not self._months:
            days &= _of_weekdays(kind.weekday, total, self._weekdays, self._placed)
        if self._year_days:
            days &= {day - 1 if day > 0 else total + day for day in self._year_days}
        if self._weeks:
            days &= self._of_weeks(kind)
        return days

    def _days_of_month(self, first: date) -> list[int]:
        length = (_LEAP if _is_leap(first.year) else _NORMAL)[first.month - 1]
        kind = length, first.weekday()
        days = self._month_kinds.get(kind)
        if days is None:
            days = self._month_kinds[kind] = sorted(self._of_month(first.weekday(), length, in_month=True))
        return days

    def _of_month(self, weekday: int, length: int, *, in_month: bool) -> set[int]:
        """The matching days of a month that begins on `weekday`. `in_month`: places (1MO) count within the month."""
        days = set(range(length))
        if self._month_days:
            days &= {day - 1 if day > 0 else length + day for day in self._month_days}
        if (self._placed and in_month) or (self._weekdays and not self._placed):
            days &= _of_weekdays(weekday, length, self._weekdays, self._placed)
        return days

    def _of_weeks(self, kind: YearKind) -> set[int]:
        """The days in the weeks of `BYWEEKNO`: this year's weeks, and at its ends weeks of the years beside it."""
        start = self._rule.week_start
        first, total = _first_week(kind.weekday, start), sum(kind.lengths)
        after = total + _first_week(kind.weekday + total, start)
        before = 365 + kind.follows_leap
        own = (after - first) // 7
        last = (first - _first_week(kind.weekday - before, start) + before) // 7
        ahead = 365 + kind.precedes_leap
        coming = (total + ahead + _first_week(kind.weekday + total + ahead, start) - after) // 7
        offsets = {day for week in range(own) if self._has_week(week + 1, own) for day in range(7 * week, 7 * week + 7)}
        days = {first + day for day in offsets}
        if self._has_week(last, last):
            days.update(range(first))
        if self._has_week(1, coming):
            days.update(range(after, total))
        return days

    def _has_week(self, number: int, of: int) -> bool:
        return number in self._weeks or number - of - 1 in self._weeks


def _first_week(weekday: int, start: int) -> int:
    """The offset of the first week of a year that begins on `weekday`: the first week with four days in the year."""
    lead = (weekday - start) % 7
    return -lead if lead <= 3 else 7 - lead


def _of_weekdays(weekday: int, length: int, plain: frozenset[int], placed: frozenset[tuple[int, int]]) -> set[int]:
    """The matching days of a period that begins on `weekday`: the `plain` weekdays, and the `placed` ones (1MO)."""
    matching = {day for each in plain for day in range((each - weekday) % 7, length, 7)}
    for each, place in placed:
        days = range((each - weekday) % 7, length, 7)
        if abs(place) <= len(days):
            matching.add(days[place - 1 if place > 0 else place])
    return matching


def _chosen(days: int, times: Sequence[int], positions: Iterable[int]) -> list[int]:
    """The times at `positions` among those of all `days`, in order; without positions all times of one day."""
    if not positions:
        return list(times)
    total = days * len(times)
    places = {position - 1 if position > 0 else total + position for position in positions}
    return [place // len(times) * _DAY_S + times[place % len(times)] for place in sorted(places) if 0 <= place < total]


def _at(day: date, times: Iterable[int]) -> Iterator[datetime]:
    midnight = datetime(day.year, day.month, day.day)
    for time in times:
        yield midnight + timedelta(seconds=time)


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


@lru_cache(maxsize=128)
def expansion(rule: str, start: datetime) -> Expansion:
    """The expansion of the rule in a text, counting from `start`. Raises Invalid for a text that is no rule."""
    return Expansion(parse(rule), start)
