"""The filters that templates have beside the engine's: dates, numbers, money and plurals as the reader writes them.

Formats are CLDR's, through Babel. A filter takes the reader's locale and timezone from the variables `locale` and
`timezone`, which every template has. What cannot be read as a date or number is an error, not an empty text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Literal, cast

from babel import Locale, UnknownLocaleError, dates, numbers
from minijinja import pass_state
from minijinja._lowlevel import State

from tidings.policy.wall_clock import zone

Length = Literal["short", "medium", "long", "full"]
_LENGTHS = frozenset({"short", "medium", "long", "full"})
_MAX_DECIMALS = 12
_MAX_DIGITS = 60
_MILLISECONDS_FROM = 100_000_000_000
"""A number of this size or more counts milliseconds since the epoch: as seconds it would be after the year 5000."""


class BadArgument(ValueError):
    """A filter was given what it cannot format; the text says what it takes."""


@lru_cache(maxsize=1024)
def reading(tag: str) -> Locale:
    """The formats of a BCP 47 locale: its own, else its language's, else English."""
    subtags = tag.split("-")
    for end in range(len(subtags), 0, -1):
        try:
            return Locale.parse("_".join(subtags[:end]))
        except (UnknownLocaleError, ValueError):
            continue
    return Locale("en")


@pass_state
def date_filter(state: State, value: Any, length: str = "medium") -> str:
    """`{{ order.placed|date("long") }}`: the day, in the reader's timezone where the value has a time."""
    return _date(_reader(state), _scalar(value), _length(length))


@pass_state
def time_filter(state: State, value: Any, length: str = "short") -> str:
    """`{{ order.placed|time }}`: the time of day in the reader's timezone."""
    return _time(_reader(state), _scalar(value), _length(length))


@pass_state
def datetime_filter(state: State, value: Any, length: str = "medium") -> str:
    """`{{ order.placed|datetime("full") }}`: day and time in the reader's timezone."""
    return _datetime(_reader(state), _scalar(value), _length(length))


@pass_state
def number_filter(state: State, value: Any, decimals: int | None = None) -> str:
    """`{{ 1234.5|number(2) }}`: a number with the reader's separators and `decimals` places (by default at most 3)."""
    return _decimals(_reader(state)[0], _figure(value), decimals)


@pass_state
def percent_filter(state: State, value: Any, decimals: int = 0) -> str:
    """`{{ 0.25|percent }}`: a share as a percentage."""
    return _percentage(_reader(state)[0], _figure(value), decimals)


@pass_state
def currency_filter(state: State, value: Any, currency: str = "") -> str:
    """`{{ order.total|currency("EUR") }}`: an amount of money; `currency` is an ISO 4217 code."""
    return _money(_reader(state)[0], _figure(value), currency if isinstance(currency, str) else "")


@pass_state
def plural_filter(state: State, value: Any, other: str | None = None, **forms: str) -> str:
    """`{{ n|plural(one="# item", other="# items") }}`: the form that the language has for this number, `#` its digits.

    The forms are CLDR's: zero, one, two, few, many, other; `other` stands for those that are not given.
    """
    if other is None or not set(forms) <= {"zero", "one", "two", "few", "many"}:
        raise BadArgument('plural takes forms of the language: plural(one="# item", other="# items")')
    count = _number(value)
    locale = reading(_reader(state)[0])
    form = forms.get(locale.plural_form(count), other)
    return form.replace("#", str(numbers.format_decimal(count, locale=locale))) if "#" in form else form


def times(value: Any, factor: Any) -> int | float:
    """`{{ price|times(quantity) }}`: the product of two numbers."""
    return _plain(_number(value) * _number(factor))


def plus(value: Any, addend: Any) -> int | float:
    """`{{ price|plus(shipping) }}`: the sum of two numbers."""
    return _plain(_number(value) + _number(addend))


FILTERS: Mapping[str, Callable[..., Any]] = {
    "date": date_filter,
    "time": time_filter,
    "datetime": datetime_filter,
    "number": number_filter,
    "percent": percent_filter,
    "currency": currency_filter,
    "plural": plural_filter,
    "times": times,
    "plus": plus,
}

FOR_THE_READER = frozenset(FILTERS) - {"times", "plus"}
"""The filters that ask for the reader's locale or timezone."""


def _reader(state: State) -> tuple[str, str | None]:
    tag, timezone = state.lookup("locale"), state.lookup("timezone")
    return (tag if isinstance(tag, str) else "en", timezone if isinstance(timezone, str) else None)


@lru_cache(maxsize=4096)
def _date(reader: tuple[str, str | None], value: str | float, length: Length) -> str:
    moment = _moment(value)
    day = moment.astimezone(zone(reader[1])).date() if isinstance(moment, datetime) else moment
    return dates.format_date(day, length, locale=reading(reader[0]))


@lru_cache(maxsize=4096)
def _time(reader: tuple[str, str | None], value: str | float, length: Length) -> str:
    return dates.format_time(_instant(value), length, tzinfo=_zone(reader), locale=reading(reader[0]))


@lru_cache(maxsize=4096)
def _datetime(reader: tuple[str, str | None], value: str | float, length: Length) -> str:
    return dates.format_datetime(_instant(value), length, tzinfo=_zone(reader), locale=reading(reader[0]))


@lru_cache(maxsize=4096)
def _decimals(tag: str, value: str | float, decimals: int | None) -> str:
    return str(numbers.format_decimal(_number(value), format=_pattern(decimals), locale=reading(tag)))


@lru_cache(maxsize=4096)
def _percentage(tag: str, value: str | float, decimals: int) -> str:
    locale = reading(tag)
    pattern = locale.percent_formats[None].pattern.replace("#,##0", _pattern(decimals) or "#,##0")
    return str(numbers.format_percent(_number(value), format=pattern, locale=locale))


@lru_cache(maxsize=4096)
def _money(tag: str, value: str | float, currency: str) -> str:
    code = currency.upper()
    if not numbers.is_currency(code):
        raise BadArgument(f'currency takes an ISO 4217 code, such as currency("EUR"), not {currency[:40]!r}')
    return str(numbers.format_currency(_number(value), code, locale=reading(tag)))


def _zone(reader: tuple[str, str | None]) -> Any:
    return zone(reader[1])


def _instant(value: str | float) -> datetime:
    moment = _moment(value)
    if isinstance(moment, datetime):
        return moment
    return datetime(moment.year, moment.month, moment.day, tzinfo=UTC)


def _moment(value: str | float) -> datetime | date:
    """The day or instant that a value stands for; an instant without an offset is in UTC."""
    try:
        if isinstance(value, str):
            if len(value) == 10:
                return date.fromisoformat(value)
            moment = datetime.fromisoformat(value)
            return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        seconds = value / 1000 if abs(value) >= _MILLISECONDS_FROM else value
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise BadArgument(
            f"date, time and datetime take RFC 3339 texts such as 2026-05-04T10:30:00Z, not {str(value)[:40]!r}"
        ) from None


def _scalar(value: Any) -> str | float:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    raise BadArgument("date, time and datetime take RFC 3339 texts such as 2026-05-04T10:30:00Z")


def _length(text: str) -> Length:
    if text not in _LENGTHS:
        raise BadArgument(f"dates are short, medium, long or full, not {text!r}")
    return cast("Length", text)


def _figure(value: Any) -> str | float:
    """A value that can be a number, and a key."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    raise BadArgument(f"a number was expected, not {str(value)[:40]!r}")


def _number(value: Any) -> Decimal:
    number = _decimal(value)
    if number is None or not number.is_finite() or abs(number.adjusted()) > _MAX_DIGITS:
        raise BadArgument(f"a number was expected, not {str(value)[:40]!r}")
    return number


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and len(value) > _MAX_DIGITS:
        return None
    try:
        return Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        return None


def _plain(number: Decimal) -> int | float:
    return int(number) if number == number.to_integral_value() else float(number)


def _pattern(decimals: int | None) -> str | None:
    if decimals is None:
        return None
    if isinstance(decimals, bool) or not isinstance(decimals, int) or not 0 <= decimals <= _MAX_DECIMALS:
        raise BadArgument(f"the number of decimals is 0 to {_MAX_DECIMALS}")
    return "#,##0" + ("." + "0" * decimals if decimals else "")
