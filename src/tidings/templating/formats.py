"""The filters for dates, numbers, money and plurals, in the formats of the reader's locale.

The formats are CLDR's, through Babel. A filter takes the reader's locale and timezone from the variables `locale` and
`timezone`, which every template has. A value that is missing prints nothing; a value that is no date or number is an
error. Numbers are rounded half up, as shops do, from the digits that were given.

A day (`2026-05-04`) is not an instant: it is the same day everywhere, and has no time. The engine's fuel does not count
work in Python, so each call here burns its cost itself (fuel.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation, localcontext
from functools import lru_cache, wraps
from typing import Any, Literal, ParamSpec, TypeVar, cast

from babel import Locale, UnknownLocaleError, dates, numbers
from minijinja import pass_state
from minijinja._lowlevel import State

from tidings.policy.wall_clock import zone
from tidings.templating.fuel import FUEL
from tidings.templating.values import NOTHING, BadArgument, Nothing, text_of

Length = Literal["short", "medium", "long", "full"]
_LENGTHS = frozenset({"short", "medium", "long", "full"})
_MAX_DECIMALS = 12
_MAX_DIGITS = 60
_MILLISECONDS_FROM = 100_000_000_000
"""From this number on a time is taken as milliseconds since the epoch: as seconds it would be after the year 5000."""
_MANY_DIGITS = 3 * _MAX_DIGITS
"""Enough for the product of two numbers, and for the decimals of a format."""
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_OFFSET = re.compile(r"(?<=[0-9])(?:Z|[+-][0-9]{2}:[0-9]{2})$")
# A date by its day of the year (2026-124), which the standard library does not parse.
_ORDINAL = re.compile(r"([0-9]{4})-?([0-9]{3})")


def _exact(calculation: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The calculation with enough digits: with the usual 28, Babel raises and products are rounded."""

    @wraps(calculation)
    def exact(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with localcontext(prec=_MANY_DIGITS):
            return calculation(*args, **kwargs)

    return exact


@lru_cache(maxsize=1024)
def formats_of(tag: str) -> Locale:
    """Babel's formats for a BCP 47 locale: its own, else its language's, else English."""
    subtags = tag.split("-")
    for end in range(len(subtags), 0, -1):
        try:
            return Locale.parse("_".join(subtags[:end]))
        except (UnknownLocaleError, ValueError):
            continue
    return Locale("en")


@pass_state
def date_filter(state: State, value: Any, length: str = "medium") -> str:
    """`{{ order.placed|date("long") }}`: the day; for a value with a time the day in the reader's timezone."""
    return "" if value is NOTHING else _date(_reader(state), _scalar(value), _length(length))


@pass_state
def time_filter(state: State, value: Any, length: str = "short") -> str:
    """`{{ order.placed|time }}`: the time of day in the reader's timezone."""
    return "" if value is NOTHING else _time(_reader(state), _scalar(value), _length(length))


@pass_state
def datetime_filter(state: State, value: Any, length: str = "medium") -> str:
    """`{{ order.placed|datetime("full") }}`: day and time in the reader's timezone."""
    return "" if value is NOTHING else _datetime(_reader(state), _scalar(value), _length(length))


@pass_state
def number_filter(state: State, value: Any, decimals: int | None = None) -> str:
    """`{{ 1234.5|number(2) }}`: a number with the reader's separators and `decimals` places (by default at most 3)."""
    return "" if value is NOTHING else _decimals(_reader(state)[0], _figure(value), decimals)


@pass_state
def percent_filter(state: State, value: Any, decimals: int = 0) -> str:
    """`{{ 0.25|percent }}`: a fraction as a percentage."""
    return "" if value is NOTHING else _percentage(_reader(state)[0], _figure(value), decimals)


@pass_state
def currency_filter(state: State, value: Any, currency: str = "") -> str:
    """`{{ order.total|currency("EUR") }}`: an amount of money; `currency` is an ISO 4217 code."""
    if value is NOTHING:
        return ""
    return _money(_reader(state)[0], _figure(value), currency if isinstance(currency, str) else "")


@pass_state
def plural_filter(state: State, value: Any, other: str | None = None, **forms: str) -> str:
    """`{{ n|plural(one="# item", other="# items") }}`: the language's form for this number, with its digits for `#`.

    The forms are CLDR's: zero, one, two, few, many, other; `other` replaces forms that are not given. The form is
    chosen for the number as it is shown: 1.00 is shown as 1.
    """
    if other is None or not set(forms) <= {"zero", "one", "two", "few", "many"}:
        raise BadArgument('plural takes forms of the language: plural(one="# item", other="# items")')
    if value is NOTHING:
        return ""
    digits, category = _counted(_reader(state)[0], _figure(value))
    form = forms.get(category, other)
    if not isinstance(form, str):
        raise BadArgument('the forms of plural are texts: plural(one="# item", other="# items")')
    FUEL.burn(len(form) // 64)
    return form.replace("#", digits)


def pluralize_filter(value: Any, singular: Any = "", plural: Any = "s") -> str:
    """`item{{ n|pluralize }}`: an English ending: `singular` for one, as a number is shown or a list is long."""
    if value is NOTHING:
        return ""
    count = len(value) if isinstance(value, list | tuple | dict) else _figure(value)
    return text_of(singular if _counted("en", count)[1] == "one" else plural)


@_exact
def times(value: Any, factor: Any) -> int | float | Nothing:
    """`{{ price|times(quantity) }}`: the product of two numbers."""
    FUEL.burn(2)
    if _lacks(value, factor):
        return NOTHING
    return _plain(_number(value) * _number(factor))


@_exact
def plus(value: Any, addend: Any) -> int | float | Nothing:
    """`{{ price|plus(shipping) }}`: the sum of two numbers."""
    FUEL.burn(2)
    if _lacks(value, addend):
        return NOTHING
    return _plain(_number(value) + _number(addend))


FILTERS: Mapping[str, Callable[..., Any]] = {
    "date": date_filter,
    "time": time_filter,
    "datetime": datetime_filter,
    "number": number_filter,
    "percent": percent_filter,
    "currency": currency_filter,
    "plural": plural_filter,
    "pluralize": pluralize_filter,
    "times": times,
    "plus": plus,
}

FOR_THE_READER = frozenset(FILTERS) - {"pluralize", "times", "plus"}
"""The filters that use the reader's locale or timezone."""


def _lacks(*operands: Any) -> bool:
    """Whether one of the operands has no value."""
    return any(operand is NOTHING for operand in operands)


def _reader(state: State) -> tuple[str, str | None]:
    tag, timezone = state.lookup("locale"), state.lookup("timezone")
    return (tag if isinstance(tag, str) else "en", timezone if isinstance(timezone, str) else None)


@lru_cache(maxsize=4096)
def _date(reader: tuple[str, str | None], value: str | float, length: Length) -> str:
    FUEL.burn(10)
    moment = _moment(value)
    day = moment.astimezone(zone(reader[1])).date() if isinstance(moment, datetime) else moment
    return dates.format_date(day, length, locale=formats_of(reader[0]))


@lru_cache(maxsize=4096)
def _time(reader: tuple[str, str | None], value: str | float, length: Length) -> str:
    FUEL.burn(12)
    return _clock(reader, _instant(value, "time"), length)


@lru_cache(maxsize=4096)
def _datetime(reader: tuple[str, str | None], value: str | float, length: Length) -> str:
    FUEL.burn(20)
    moment = _moment(value)
    locale = formats_of(reader[0])
    if not isinstance(moment, datetime):  # a day has no time to show, and is the same day everywhere
        return dates.format_date(moment, length, locale=locale)
    day = dates.format_date(moment.astimezone(zone(reader[1])).date(), length, locale=locale)
    pattern = str(dates.get_datetime_format(length, locale=locale)).replace("'", "")
    return pattern.replace("{0}", _clock(reader, moment, length)).replace("{1}", day)


def _clock(reader: tuple[str, str | None], moment: datetime, length: Length) -> str:
    locale = formats_of(reader[0])
    pattern: str = locale.time_formats[length].pattern
    if _writes_half_days_out(locale):
        pattern = re.sub(r"(?<!a)a(?!a)", "aaaa", pattern)
    return dates.format_time(moment, pattern, tzinfo=zone(reader[1]), locale=locale)


@lru_cache(maxsize=1024)
def _writes_half_days_out(locale: Locale) -> bool:
    """Whether CLDR abbreviates the half days as AM and PM although the language has its own names (ko: 오전, 오후)."""
    names = locale.day_periods.get("format", {})
    short, wide = names.get("abbreviated", {}), names.get("wide", {})
    return short.get("am") == "AM" and wide.get("am", "AM") != "AM" and not wide["am"].isascii()


@lru_cache(maxsize=4096)
@_exact
def _decimals(tag: str, value: str | float, decimals: int | None) -> str:
    FUEL.burn(10)
    number = _rounded(_number(value), 3 if decimals is None else _places(decimals))
    return str(numbers.format_decimal(number, format=_pattern(decimals), locale=formats_of(tag)))


@lru_cache(maxsize=4096)
@_exact
def _counted(tag: str, value: str | float) -> tuple[str, str]:
    """The digits of a number as they are shown, and the plural category of the number as shown."""
    FUEL.burn(10)
    number = _rounded(_number(value), 3)
    shown = number.to_integral_value() if number == number.to_integral_value() else number.normalize()
    locale = formats_of(tag)
    return str(numbers.format_decimal(shown, locale=locale)), str(locale.plural_form(abs(shown)))


@lru_cache(maxsize=4096)
@_exact
def _percentage(tag: str, value: str | float, decimals: int) -> str:
    FUEL.burn(12)
    locale = formats_of(tag)
    pattern = locale.percent_formats[None].pattern.replace("#,##0", _pattern(decimals) or "#,##0")
    return str(numbers.format_percent(_rounded(_number(value), _places(decimals) + 2), format=pattern, locale=locale))


@lru_cache(maxsize=4096)
@_exact
def _money(tag: str, value: str | float, currency: str) -> str:
    FUEL.burn(18)
    code = currency.upper()
    if not numbers.is_currency(code):
        raise BadArgument(f'currency takes an ISO 4217 code, such as currency("EUR"), not {currency[:40]!r}')
    amount = _rounded(_number(value), numbers.get_currency_precision(code))
    return str(numbers.format_currency(amount, code, locale=formats_of(tag)))


def _rounded(number: Decimal, places: int) -> Decimal:
    """The number rounded half up, away from zero: 2.665 becomes 2.67 with two places. Zero has no sign."""
    rounded = number.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP)
    return abs(rounded) if rounded.is_zero() else rounded


def _instant(value: str | float, name: str) -> datetime:
    moment = _moment(value)
    if isinstance(moment, datetime):
        return moment
    raise BadArgument(f"{str(value).strip()[:40]!r} is a day and has no time; show it with date instead of {name}")


def _moment(value: str | float) -> datetime | date:
    """The day or instant in a value; an instant without an offset is in UTC."""
    try:
        if isinstance(value, str):
            text = value.strip().upper()
            if (day := _day(text)) is not None:
                return day
            moment = datetime.fromisoformat(text)
            return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        seconds = value / 1000 if abs(value) >= _MILLISECONDS_FROM else value
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise BadArgument(
            f"date, time and datetime take RFC 3339 texts such as 2026-05-04T10:30:00Z, not {str(value)[:40]!r}"
        ) from None


def _day(text: str) -> date | None:
    """The day that a text names without a time, in any form of ISO 8601; None when it is no day.

    XML Schema's days may have an offset, which does not move them: 2026-05-04+02:00.
    """
    text = _OFFSET.sub("", text)
    try:
        ordinal = _ORDINAL.fullmatch(text)
        if ordinal is None:
            return date.fromisoformat(text)
        return datetime.strptime("".join(ordinal.groups()), "%Y%j").date()  # noqa: DTZ007 (a day has no timezone)
    except ValueError:
        return None


def _scalar(value: Any) -> str | float:
    FUEL.burn(1)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    raise BadArgument("date, time and datetime take RFC 3339 texts such as 2026-05-04T10:30:00Z")


def _length(text: str) -> Length:
    if text not in _LENGTHS:
        raise BadArgument(f"dates are short, medium, long or full, not {text!r}")
    return cast("Length", text)


def _figure(value: Any) -> str | float:
    """The value, unchanged, if it may be a number; it can serve as a cache's key. Raises BadArgument."""
    FUEL.burn(1)
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
    if isinstance(value, str):
        value = value.strip()
        if len(value) > _MAX_DIGITS or "_" in value:
            return None
    try:
        return Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        return None


def _plain(number: Decimal) -> int | float:
    if number == number.to_integral_value():
        return int(number)
    return float(number)


def _places(decimals: object) -> int:
    if isinstance(decimals, bool) or not isinstance(decimals, int) or not 0 <= decimals <= _MAX_DECIMALS:
        raise BadArgument(f"the number of decimals is 0 to {_MAX_DECIMALS}")
    return decimals


def _pattern(decimals: int | None) -> str | None:
    if decimals is None:
        return None
    places = _places(decimals)
    return "#,##0" + ("." + "0" * places if places else "")
