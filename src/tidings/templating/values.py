"""How templates see and print JSON values.

An optional variable that is left out or null, and null inside the data, become `NOTHING`. It prints nothing, is false,
has no items, and its fields are NOTHING too. So a template may use an optional variable with or without an `if`, and
never prints "None".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final


class BadArgument(ValueError):
    """A filter got a value that it cannot format; the text says what it takes."""


class Nothing:
    """The class of `NOTHING`, the value of variables that have none."""

    __slots__ = ()

    def __str__(self) -> str:
        return ""

    def __repr__(self) -> str:
        return "nothing"

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __getitem__(self, name: object) -> Nothing:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Nothing)

    def __hash__(self) -> int:
        return 0


NOTHING: Final[Nothing] = Nothing()


def is_nothing(value: object) -> bool:
    """Whether it is no value: NOTHING, or None, as which the engine passes undefined names to Python."""
    return value is None or isinstance(value, Nothing)


def text_of(value: Any) -> str:
    """The value as text for people. Raises BadArgument for a list or an object, which have no such text."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, Nothing):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _digits(value)
    if isinstance(value, Mapping):
        raise BadArgument("an object cannot be printed; print one of its fields: {{ order.number }}")
    raise BadArgument("a list cannot be printed; go through it with {% for %}, or write {{ names|join(', ') }}")


def filled(data: Mapping[str, Any], optional: Iterable[str]) -> Mapping[str, Any]:
    """The data with `NOTHING` for optional variables that are left out or null, and for null inside other values."""
    changed: dict[str, Any] = {name: NOTHING for name in optional if data.get(name) is None}
    for name, value in data.items():
        if (type(value) is dict or type(value) is list) and _has_null(value):
            changed[name] = _without_null(value)
    return {**data, **changed} if changed else data


def _has_null(value: dict[str, Any] | list[Any]) -> bool:
    for each in value.values() if type(value) is dict else value:
        if each is None or ((type(each) is dict or type(each) is list) and _has_null(each)):
            return True
    return False


def _without_null(value: Any) -> Any:
    if value is None:
        return NOTHING
    if isinstance(value, dict):
        return {name: _without_null(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_null(each) for each in value]
    return value


def _digits(number: float) -> str:
    """All digits of a number, without an exponent: 1, 0.1, 0.0000001, 1000000000000000000000."""
    if not math.isfinite(number):
        raise BadArgument("the result is no number")
    return f"{int(number)}" if number == int(number) and abs(number) < 1e21 else f"{Decimal(repr(number)):f}"
