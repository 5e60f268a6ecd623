"""Recurrence rules as they are written: RFC 5545 section 3.3.10, checked so that each error says what would be right.

Not accepted is what would be sent more often than once a minute (`FREQ=SECONDLY`, several `BYSECOND`), `BYSETPOS` below
a day, and `UNTIL` as a date without a time, which leaves open whether that day counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NoReturn

from dateutil import rrule
from dateutil.rrule import weekday
from msgspec import Struct

from tidings.model.errors import Invalid

LONGEST = 500
"""Characters of a rule."""
MOST_COUNT = 1_000
MOST_INTERVAL = 10_000
PATH = "$.rrule"

_FREQUENCIES = {
    "YEARLY": rrule.YEARLY,
    "MONTHLY": rrule.MONTHLY,
    "WEEKLY": rrule.WEEKLY,
    "DAILY": rrule.DAILY,
    "HOURLY": rrule.HOURLY,
    "MINUTELY": rrule.MINUTELY,
}
_WEEKDAYS = {
    "MO": rrule.MO,
    "TU": rrule.TU,
    "WE": rrule.WE,
    "TH": rrule.TH,
    "FR": rrule.FR,
    "SA": rrule.SA,
    "SU": rrule.SU,
}
_NUMBERS = {
    "BYSECOND": (0, 59),
    "BYMINUTE": (0, 59),
    "BYHOUR": (0, 23),
    "BYMONTHDAY": (1, 31),
    "BYYEARDAY": (1, 366),
    "BYWEEKNO": (1, 53),
    "BYMONTH": (1, 12),
    "BYSETPOS": (1, 366),
}
_SIGNED = frozenset({"BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYSETPOS"})
_KNOWN = frozenset({"FREQ", "INTERVAL", "COUNT", "UNTIL", "BYDAY", "WKST"}) | _NUMBERS.keys()
_DAY = re.compile(r"(?P<place>[+-]?[1-9][0-9]?)?(?P<day>MO|TU|WE|TH|FR|SA|SU)")
_NUMBER = re.compile(r"[+-]?[0-9]{1,3}")
_UNTIL = re.compile(r"[0-9]{8}T[0-9]{6}Z?")


class Rule(Struct, frozen=True):
    """A rule that was checked. `frequency` is dateutil's number; absent lists are empty; `until` is naive or UTC."""

    frequency: int
    interval: int = 1
    count: int | None = None
    until: datetime | None = None
    week_start: int = 0
    days: tuple[weekday, ...] = ()
    numbers: dict[str, tuple[int, ...]] = {}

    def by(self, name: str) -> tuple[int, ...] | None:
        """The numbers of a part (`BYMONTH`), None when the rule has no such part."""
        return self.numbers.get(name)


@lru_cache(maxsize=4096)
def parse(text: str) -> Rule:
    """The rule in `FREQ=WEEKLY;BYDAY=MO`; `RRULE:` may stand before it. Raises Invalid."""
    parts = _split(text)
    if "FREQ" not in parts:
        _refuse("a rule begins with how often: FREQ=DAILY, WEEKLY, MONTHLY, YEARLY, HOURLY or MINUTELY")
    if parts["FREQ"] == "SECONDLY":
        _refuse("nothing is sent more often than once a minute: FREQ=MINUTELY is the most")
    if parts["FREQ"] not in _FREQUENCIES:
        _refuse(f"FREQ is one of {', '.join(_FREQUENCIES)}")
    if "COUNT" in parts and "UNTIL" in parts:
        _refuse("give COUNT or UNTIL, not both")
    week_start = _WEEKDAYS.get(parts.get("WKST", "MO"))
    if week_start is None:
        _refuse(f"WKST is one of {', '.join(_WEEKDAYS)}")
    rule = Rule(
        frequency=_FREQUENCIES[parts["FREQ"]],
        interval=_whole(parts, "INTERVAL", MOST_INTERVAL) or 1,
        count=_whole(parts, "COUNT", MOST_COUNT),
        until=_until(parts["UNTIL"]) if "UNTIL" in parts else None,
        week_start=week_start.weekday,
        days=_days(parts["BYDAY"]) if "BYDAY" in parts else (),
        numbers={name: _list(name, parts[name]) for name in _NUMBERS if name in parts},
    )
    _check_together(rule)
    return rule


def _split(text: str) -> dict[str, str]:
    if len(text) > LONGEST:
        _refuse(f"a rule has at most {LONGEST} characters")
    parts: dict[str, str] = {}
    for part in text.upper().removeprefix("RRULE:").split(";"):
        name, separator, value = part.partition("=")
        if not separator or not value:
            _refuse("a rule is written like FREQ=WEEKLY;BYDAY=MO,TH;INTERVAL=2")
        if name not in _KNOWN:
            _refuse(f"there is no part {name[:20]!r}; the parts are {', '.join(sorted(_KNOWN))}")
        if name in parts:
            _refuse(f"{name} stands there twice")
        parts[name] = value
    return parts


def _whole(parts: dict[str, str], name: str, most: int) -> int | None:
    text = parts.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= most):
        _refuse(f"{name} is a whole number from 1 to {most}")
    return int(text)


def _until(text: str) -> datetime:
    if not _UNTIL.fullmatch(text):
        _refuse("UNTIL has a time: UNTIL=20261231T235959 on the wall clock, or UNTIL=20261231T225959Z in UTC")
    try:
        return datetime.strptime(text.removesuffix("Z"), "%Y%m%dT%H%M%S").replace(
            tzinfo=UTC if text[-1] == "Z" else None
        )
    except ValueError:
        _refuse("UNTIL is no date and time of the calendar")


def _days(text: str) -> tuple[weekday, ...]:
    found = []
    for part in text.split(","):
        match = _DAY.fullmatch(part)
        if match is None or (match["place"] and not 1 <= abs(int(match["place"])) <= 53):
            _refuse("BYDAY is a list of days, MO,TH, with a place where they are of a month or year: 1MO or -1FR")
        day = _WEEKDAYS[match["day"]]
        found.append(day(int(match["place"])) if match["place"] else day)
    return tuple(found)


def _list(name: str, text: str) -> tuple[int, ...]:
    low, high = _NUMBERS[name]
    found = []
    for part in text.split(","):
        number = int(part) if part.isascii() and _NUMBER.fullmatch(part) else None
        if number is None or not low <= (abs(number) if name in _SIGNED else number) <= high:
            signed = f", or counted from the end -{low} to -{high}" if name in _SIGNED else ""
            _refuse(f"{name} is a list of numbers from {low} to {high}{signed}")
        found.append(number)
    return tuple(found)


def _check_together(rule: Rule) -> None:
    """What the parts may not do together: the table of RFC 5545, and our own limits."""
    yearly, monthly = rule.frequency == rrule.YEARLY, rule.frequency == rrule.MONTHLY
    has: Callable[[str], bool] = rule.numbers.__contains__
    if has("BYWEEKNO") and not yearly:
        _refuse("BYWEEKNO goes with FREQ=YEARLY alone")
    if has("BYYEARDAY") and rule.frequency in {rrule.MONTHLY, rrule.WEEKLY, rrule.DAILY}:
        _refuse("BYYEARDAY does not go with FREQ=MONTHLY, WEEKLY or DAILY")
    if has("BYMONTHDAY") and rule.frequency == rrule.WEEKLY:
        _refuse("BYMONTHDAY does not go with FREQ=WEEKLY")
    if any(day.n for day in rule.days):
        if not (yearly or monthly):
            _refuse("a place before a day (1MO) goes with FREQ=MONTHLY or YEARLY alone")
        if has("BYWEEKNO"):
            _refuse("a place before a day (1MO) does not go with BYWEEKNO")
    if has("BYSETPOS"):
        if rule.frequency in {rrule.HOURLY, rrule.MINUTELY}:
            _refuse("BYSETPOS needs FREQ=DAILY or a longer one")
        if not rule.days and rule.numbers.keys() == {"BYSETPOS"}:
            _refuse("BYSETPOS chooses from what another BY… part gives; there is none")
    if len(set(rule.numbers.get("BYSECOND", ()))) > 1:
        _refuse("nothing is sent more often than once a minute: BYSECOND has one number")


def _refuse(detail: str) -> NoReturn:
    raise Invalid("invalid_rrule", detail, PATH)
