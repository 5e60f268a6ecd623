"""The error tables: what a row makes of a vendor's no, and how people read all rows.

A row's `detail` says what the code means, for when the vendor does not. A code whose meaning depends on more than
itself has a row for each case, named `<code> <case>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from tidings.model.sending import About, Rejected, Retry
from tidings.policy.retry import about
from tidings.ports.provider import Provider

Row: TypeAlias = Retry | Rejected

ACCOUNT = 60.0
"""Seconds to wait when the fault lies with the account (a key, a payment): a person must act, which takes minutes."""

HEADER = ("Code", "Meaning", "Reason", "What follows", "Address")
EVENTS_HEADER = ("Event", "Meaning", "Reason", "State", "Address")


def follow(row: Row, said: str, asked: float | None = None) -> Row:
    """The result that a row gives: `said` are the vendor's words, `asked` the seconds that it asks to wait."""
    detail = said or row.detail
    if isinstance(row, Retry):
        return msgspec.structs.replace(row, after=row.after if asked is None else asked, detail=detail)
    return msgspec.structs.replace(row, detail=detail)


class Table(Struct, frozen=True):
    """A table for people."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(provider: type[Provider[Any]]) -> Iterator[Table]:
    """What a provider's vendor answers, and what it reports later; none for a provider without a vendor."""
    if provider.ERRORS:
        yield Table(HEADER, [_error(str(code), row) for code, row in _sorted(provider.ERRORS)])
    if provider.EVENTS:
        rows: list[tuple[str, ...]] = [
            (name, event.detail, event.reason or event.kind, event.state.value, _address(suppress=event.suppress))
            for name, event in provider.EVENTS.items()
        ]
        yield Table(EVENTS_HEADER, rows)


def markdown(providers: Mapping[str, type[Provider[Any]]]) -> str:
    """The sections of `docs/provider-errors.md`, one for each kind."""
    parts = []
    for kind, provider in providers.items():
        found = list(tables(provider))
        if found:
            parts.append(f"## {kind}\n\nSource: {provider.ERRORS_PAGE}\n")
            parts += [_markdown(table) for table in found]
    return "\n".join(parts)


def _sorted(errors: Mapping[int | str, Row]) -> list[tuple[int | str, Row]]:
    """Names, then numbers, then numbers with dots, each in order."""
    return sorted(errors.items(), key=lambda pair: _place(str(pair[0])))


def _place(code: str) -> tuple[int, list[int], str]:
    number, _, _ = code.partition(" ")
    parts = number.split(".")
    return (len(parts), [int(part) for part in parts], code) if number.replace(".", "").isdecimal() else (0, [], code)


def _error(code: str, row: Row) -> tuple[str, ...]:
    if isinstance(row, Retry):
        return (code, row.detail, row.reason, _again(row), "")
    return (
        code,
        row.detail,
        row.reason,
        "another provider" if row.fallback else "final",
        _address(suppress=row.suppress),
    )


def _again(row: Retry) -> str:
    time = "" if row.after is None else f" after {row.after:g} s"
    whose = about(row)
    if whose is About.ACCOUNT:
        return f"all wait{time}"
    if whose is About.UNOFFERED:
        return f"waits{time}"
    return f"again, patiently{time}" if row.patient else f"again{time}"


def _address(*, suppress: bool) -> str:
    return "suppressed" if suppress else ""


def _markdown(table: Table) -> str:
    lines = [table.header, tuple("---" for _ in table.header), *table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("|  |", "| |")
