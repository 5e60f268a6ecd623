"""Parses instants in RFC 3339, and in close variants of it whose meaning is not in doubt."""

from __future__ import annotations

import re
from datetime import date
from typing import NoReturn

from tidings.model.errors import Invalid

_SHAPE = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?P<fraction>[.,][0-9]+)?)?"
    r"(?P<offset>[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?)?(?P<rest>.*)",
    re.DOTALL,
)
_RIGHT = "2026-01-31T09:00:00Z or 2026-01-31T09:00:00+01:00"
_NO_OFFSET = f"write the time with its offset: {_RIGHT}"
_EPOCH = date(1970, 1, 1).toordinal()
_LONGEST = 100


def parse(text: str, path: str = "$") -> int:
    """The instant in milliseconds since the epoch; finer fractions are cut off.

    Seconds may be left out (`2026-01-31T09:00Z`, as java.time prints it), and the offset may be written without its
    colon or its minutes. A leap second (`23:59:60Z` at the end of a month) is the instant after it.

    Raises:
        Invalid: `no_timezone` or `invalid_time`, saying what is wrong with this text.
    """
    try:
        return _parsed(text)
    except ValueError as error:
        code = "no_timezone" if str(error) == _NO_OFFSET else "invalid_time"
        raise Invalid(code, str(error), path) from error


def _parsed(text: str) -> int:
    """As `parse`, but raises ValueError with the sentence that says what is wrong."""
    match = _SHAPE.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        _refuse(f"write the time as {_RIGHT}")
    part = match.groupdict()
    if match["hour"] is None or match["rest"]:
        _incomplete(match)
    if match["offset"] is None:
        _refuse(_NO_OFFSET)
    year, month, day, hour, minute = (int(part[name]) for name in ("year", "month", "day", "hour", "minute"))
    second = int(match["second"] or 0)
    if hour == 24:
        _refuse("there is no hour 24: midnight is 00:00 of the day that begins with it")
    if hour > 24:
        _refuse(f"there is no hour {hour}: hours are 00 to 23")
    if minute > 59:
        _refuse(f"there is no minute {minute}: minutes are 00 to 59")
    if second > 60:
        _refuse(f"there is no second {second}: seconds are 00 to 59")
    # Not as a datetime: that overflows where the offset leads out of the calendar.
    minutes = (_days(year, month, day) * 24 + hour) * 60 + minute - _offset(match["offset"])
    if second == 60 and not _ends_a_month(minutes):
        _refuse("a second 60 is a leap second, and comes only at the end of a month in UTC: 23:59:60Z")
    whole = (minutes * 60 + second) * 1000
    return whole if match["fraction"] is None or second == 60 else whole + int((match["fraction"][1:] + "00")[:3])


def _days(year: int, month: int, day: int) -> int:
    """The date in days since the epoch."""
    if year == 0:
        _refuse("there is no year 0000: years are 0001 to 9999")
    if not 1 <= month <= 12:
        _refuse(f"there is no month {month:02}: months are 01 to 12")
    try:
        return date(year, month, day).toordinal() - _EPOCH
    except ValueError:
        _refuse(f"there is no {year:04}-{month:02}-{day:02}: that month has other days")


def _ends_a_month(minutes: int) -> bool:
    """Whether this minute (since the epoch, in UTC) is the last of a month."""
    days, minute = divmod(minutes + 1, 24 * 60)
    following = days + _EPOCH
    return minute == 0 and 1 < following <= date.max.toordinal() and date.fromordinal(following).day == 1


def _offset(text: str) -> int:
    """The offset in minutes ahead of UTC."""
    if text in {"Z", "z"}:
        return 0
    hours, minutes = int(text[1:3]), int(text[3:].removeprefix(":") or 0)
    if hours > 23 or minutes > 59:
        _refuse(f"there is no offset {text}: offsets go from -23:59 to +23:59")
    ahead = hours * 60 + minutes
    return -ahead if text[0] == "-" else ahead


def _incomplete(match: re.Match[str]) -> NoReturn:
    """Refuse a text that begins as a time and does not go on as one."""
    rest: str = match["rest"]
    if match["hour"] is not None:
        if match["offset"] is None:
            _refuse(f"after the time comes its offset alone, not {rest[:40]!r}: write {_RIGHT}")
        if rest.isspace():
            _refuse("leave out the white space at the end")
        _refuse(f"leave out {rest[:40]!r} at the end: the time is complete before it; write {_RIGHT}")
    if not rest:
        _refuse(f"this is a date alone; write a time with it: {_RIGHT}")
    _refuse(f"after the date comes T, then hours and minutes with two digits each, then the offset: {_RIGHT}")


def _refuse(sentence: str) -> NoReturn:
    raise ValueError(sentence)
