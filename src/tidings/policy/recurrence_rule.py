"""Parses recurrence rules (RFC 5545 section 3.3.10); each error says what would be right.

A text has a rule and, on lines of their own as in calendars, the times that the recurrence leaves out (`EXDATE`).
Refused are rules that come true more than once a minute (`FREQ=SECONDLY`, several `BYSECOND`), `BYSETPOS` below a day,
and `UNTIL` with a date alone, which leaves open whether that day counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from enum import IntEnum
from functools import lru_cache
from typing import NoReturn

from msgspec import Struct

from tidings.model.errors import Invalid

LONGEST = 500
"""Characters of a rule."""
MOST_EXCLUDED = 500
"""Times that a recurrence may leave out."""
MOST_COUNT = 1_000
MOST_INTERVAL = 10_000
PATH = "$.rrule"


class Frequency(IntEnum):
    """The length of a rule's periods, the longest first."""

    YEARLY = 0
    MONTHLY = 1
    WEEKLY = 2
    DAILY = 3
    HOURLY = 4
    MINUTELY = 5


_FREQUENCIES = {frequency.name: frequency for frequency in Frequency}
_WEEKDAYS = {name: number for number, name in enumerate(("MO", "TU", "WE", "TH", "FR", "SA", "SU"))}
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
_EXDATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt][0-9]{2}:[0-9]{2}(?::[0-9]{2})?[Zz]?)?")


class Rule(Struct, frozen=True):
    """A checked rule.

    `until` is naive or UTC. `days` are weekdays (0 is Monday), each with its place in the month or year: -1 is the
    last, 0 means all. `excluded` are whole dates, wall-clock times and instants in UTC. Absent lists are empty.
    """

    frequency: Frequency
    interval: int = 1
    count: int | None = None
    until: datetime | None = None
    week_start: int = 0
    days: tuple[tuple[int, int], ...] = ()
    numbers: dict[str, tuple[int, ...]] = {}
    excluded: frozenset[date | datetime] = frozenset()

    def by(self, name: str) -> tuple[int, ...] | None:
        """The numbers of a part (`BYMONTH`), None when the rule has no such part."""
        return self.numbers.get(name)


@lru_cache(maxsize=4096)
def parse(text: str) -> Rule:
    """The rule in a text like `FREQ=WEEKLY;BYDAY=MO`, with or without `RRULE:` and `EXDATE` lines. Raises Invalid."""
    line, excluded = _lines(text)
    parts = _split(line)
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
        week_start=week_start,
        days=_days(parts["BYDAY"]) if "BYDAY" in parts else (),
        numbers={name: _list(name, parts[name]) for name in _NUMBERS if name in parts},
        excluded=frozenset(excluded),
    )
    _check_together(rule)
    return rule


def written(text: str) -> tuple[str, tuple[str, ...]]:
    """The rule's line of a text, and the times left out: `2026-12-24` or `2026-12-24T09:00:00`, with Z in UTC."""
    line, excluded = _lines(text)
    return line, tuple(_iso(moment) for moment in excluded)


def joined(rule: str, excluded: Sequence[str]) -> str:
    """The text of a rule (one line) that leaves out `excluded`, times as `written` returns them. Raises Invalid."""
    if len(excluded) > MOST_EXCLUDED:
        raise Invalid("too_many", f"a recurrence leaves out at most {MOST_EXCLUDED} times", "$.exdates")
    moments = [_moment(text, f"$.exdates[{at}]") for at, text in enumerate(excluded)]
    return "\n".join([rule, *(["EXDATE:" + ",".join(map(_basic, moments))] if moments else [])])


def _lines(text: str) -> tuple[str, list[date | datetime]]:
    """The rule's line, and the times that the other lines leave out."""
    rules: list[str] = []
    excluded: list[date | datetime] = []
    for line in re.sub(r"\r?\n[ \t]", "", text).splitlines():
        name, separator, value = line.strip().partition(":")
        name, *parameters = name.upper().split(";")
        if name == "EXDATE" and separator:
            if not set(parameters) <= {"VALUE=DATE", "VALUE=DATE-TIME"}:
                _refuse("EXDATE is on the recurrence's wall clock, or ends with Z in UTC; leave TZID out")
            excluded += [_excluded(each) for each in value.split(",")]
        elif name in {"DTSTART", "RDATE", "EXRULE", "DTEND", "DURATION"} and separator:
            _refuse(f"{name} has no place here: the start is the field start, and other times are other recurrences")
        elif line.strip():
            rules.append(line.strip())
    if len(rules) != 1:
        _refuse("give one rule; a rule is written like FREQ=WEEKLY;BYDAY=MO,TH;INTERVAL=2")
    if len(excluded) > MOST_EXCLUDED:
        _refuse(f"a recurrence leaves out at most {MOST_EXCLUDED} times")
    return rules[0], excluded


def _excluded(text: str) -> date | datetime:
    moment = _calendar(text.strip().upper())
    if moment is None:
        _refuse("EXDATE is a list of times, 20261224T090000, or of whole days, 20261224")
    return moment


def _calendar(text: str) -> date | datetime | None:
    """The date or time that RFC 5545 writes so; None when the text is neither."""
    try:
        if re.fullmatch(r"[0-9]{8}", text):
            return datetime.strptime(text, "%Y%m%d").date()
        if _UNTIL.fullmatch(text):
            zone = UTC if text[-1] == "Z" else None
            return datetime.strptime(text.removesuffix("Z"), "%Y%m%dT%H%M%S").replace(tzinfo=zone)
    except ValueError:
        return None
    return None


def _moment(text: str, path: str) -> date | datetime:
    basic = re.sub(r"[-:]", "", text.upper()) if _EXDATE.fullmatch(text) else ""
    head, mark, zone = basic.partition("Z")
    moment = _calendar((head + "00" if len(head) == 13 else head) + mark + zone)
    if moment is None:
        raise Invalid(
            "invalid_local_time",
            "write the time that is left out on the wall clock, 2026-12-24T09:00, or a whole day, 2026-12-24",
            path,
        )
    return moment


def _iso(moment: date | datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _basic(moment: date | datetime) -> str:
    return re.sub(r"[-:]", "", _iso(moment))


def _split(text: str) -> dict[str, str]:
    if len(text) > LONGEST:
        _refuse(f"a rule has at most {LONGEST} characters")
    parts: dict[str, str] = {}
    *pieces, last = text.upper().removeprefix("RRULE:").split(";")
    for part in [*pieces, last] if last else pieces:  # some calendars end a rule with a semicolon
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
    moment = _calendar(text)
    if isinstance(moment, datetime):
        return moment
    if moment is not None:
        _refuse(
            f"UNTIL has a time, or it is left open whether that day counts: UNTIL={text}T235959 on the wall clock with "
            f"the day, UNTIL={text}T000000 without it"
        )
    known = bool(_UNTIL.fullmatch(text))
    right = "UNTIL has a time: UNTIL=20261231T235959 on the wall clock, or UNTIL=20261231T225959Z in UTC"
    raise Invalid("invalid_rrule", "UNTIL is no date and time of the calendar" if known else right, PATH)


def _days(text: str) -> tuple[tuple[int, int], ...]:
    days = []
    for part in text.split(","):
        match = _DAY.fullmatch(part)
        if match is None or (match["place"] and not 1 <= abs(int(match["place"])) <= 53):
            _refuse("BYDAY is a list of days, MO,TH, with a place where they are of a month or year: 1MO or -1FR")
        days.append((_WEEKDAYS[match["day"]], int(match["place"] or 0)))
    return tuple(days)


def _list(name: str, text: str) -> tuple[int, ...]:
    low, high = _NUMBERS[name]
    numbers = []
    for part in text.split(","):
        number = int(part) if part.isascii() and _NUMBER.fullmatch(part) else None
        if number is None or not low <= (abs(number) if name in _SIGNED else number) <= high:
            signed = f", or counted from the end -{low} to -{high}" if name in _SIGNED else ""
            _refuse(f"{name} is a list of numbers from {low} to {high}{signed}")
        numbers.append(number)
    return tuple(numbers)


def _check_together(rule: Rule) -> None:
    """Raise Invalid for parts that do not go together: the table of RFC 5545, and the limits of Tidings."""
    yearly, monthly = rule.frequency is Frequency.YEARLY, rule.frequency is Frequency.MONTHLY
    has: Callable[[str], bool] = rule.numbers.__contains__
    if has("BYWEEKNO") and not yearly:
        _refuse("BYWEEKNO goes with FREQ=YEARLY alone")
    if has("BYYEARDAY") and rule.frequency in {Frequency.MONTHLY, Frequency.WEEKLY, Frequency.DAILY}:
        _refuse("BYYEARDAY does not go with FREQ=MONTHLY, WEEKLY or DAILY")
    if has("BYMONTHDAY") and rule.frequency == Frequency.WEEKLY:
        _refuse("BYMONTHDAY does not go with FREQ=WEEKLY")
    if any(place for _, place in rule.days):
        if not (yearly or monthly):
            _refuse("a place before a day (1MO) goes with FREQ=MONTHLY or YEARLY alone")
        if has("BYWEEKNO"):
            _refuse("a place before a day (1MO) does not go with BYWEEKNO")
    if has("BYSETPOS"):
        if rule.frequency in {Frequency.HOURLY, Frequency.MINUTELY}:
            _refuse("BYSETPOS needs FREQ=DAILY or a longer one")
        if not rule.days and rule.numbers.keys() == {"BYSETPOS"}:
            _refuse("BYSETPOS chooses from what another BY… part gives; there is none")
    if len(set(rule.numbers.get("BYSECOND", ()))) > 1:
        _refuse("nothing is sent more often than once a minute: BYSECOND has one number")


def _refuse(detail: str) -> NoReturn:
    raise Invalid("invalid_rrule", detail, PATH)
