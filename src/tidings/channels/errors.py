"""The error tables: turns a row into a result, and writes the tables for people.

A row's `detail` says what the code means, in case the vendor does not. A code with several meanings has a row for each,
named `<code> <case>`.
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

ACCOUNT_WAIT_S = 60.0
"""How long to wait when the fault lies with the account (a key, a payment): a person must act, which takes minutes."""

HEADER = ("Code", "Meaning", "Reason", "What follows", "Address")
EVENTS_HEADER = ("Event", "Meaning", "Reason", "State", "Address")


def follow(row: Row, said: str, asked_s: float | None = None) -> Row:
    """The result for a vendor's answer: the row with the vendor's words `said`, and the wait that it asks for."""
    detail = said or row.detail
    if isinstance(row, Retry):
        return msgspec.structs.replace(row, after_s=row.after_s if asked_s is None else asked_s, detail=detail)
    return msgspec.structs.replace(row, detail=detail)


class Table(Struct, frozen=True):
    """A table for the documentation and the command line."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(provider: type[Provider[Any]]) -> Iterator[Table]:
    """The tables of a vendor's errors and of its later events; none for a provider without a vendor."""
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
        of_kind = list(tables(provider))
        if of_kind:
            parts.append(f"## {kind}\n\nSource: {provider.ERRORS_PAGE}\n")
            parts += [_markdown(table) for table in of_kind]
    return "\n".join(parts)


def _sorted(errors: Mapping[int | str, Row]) -> list[tuple[int | str, Row]]:
    """The rows in order: names, then numbers, then numbers with dots."""
    return sorted(errors.items(), key=lambda pair: _sort_key(str(pair[0])))


def _sort_key(code: str) -> tuple[int, list[int], str]:
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
    pause = "" if row.after_s is None else f" after {row.after_s:g} s"
    whom = about(row)
    if whom is About.ACCOUNT:
        return f"all wait{pause}"
    if whom is About.UNOFFERED:
        return f"waits{pause}"
    return f"again, patiently{pause}" if row.patient else f"again{pause}"


def _address(*, suppress: bool) -> str:
    return "suppressed" if suppress else ""


def _markdown(table: Table) -> str:
    lines = [table.header, tuple("---" for _ in table.header), *table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("|  |", "| |")
