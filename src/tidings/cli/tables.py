"""Tables that never cut anything off: in columns if the terminal is wide enough, else each row as several lines."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tidings.cli.plain import say

_UNLIMITED = 10_000
_NARROWEST = 20
_LOOKS: dict[str, Any] = {"box": box.SIMPLE, "padding": (0, 1, 0, 0), "pad_edge": False, "title_justify": "left"}


class Column(Struct, frozen=True):
    """A column with its heading; numbers are right-aligned."""

    name: str
    is_number: bool = False


def width() -> int:
    """The width for output: COLUMNS, or the terminal's width; unlimited without both (a pipe, a file)."""
    return max(_NARROWEST, shutil.get_terminal_size((_UNLIMITED, 24)).columns)


def console() -> Console:
    """The console for tables, with colours only in a terminal."""
    return Console(highlight=False, width=width())


def print_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], title: str = "", total: Sequence[str] | None = None
) -> None:
    """Print the rows, and `total` as the last one, set apart. The first column names the row."""
    out = console()
    table = Table(title=title or None, **_LOOKS)
    for column in columns:
        table.add_column(column.name, justify="right" if column.is_number else "left", no_wrap=True)
    body = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    for row in body:
        table.add_row(*row)
    if total is not None:
        table.add_section()
        table.add_row(*map(Text, total))
        body.append([Text(cell) for cell in total])
    if Measurement.get(out, out.options.update(width=_UNLIMITED), table).maximum <= out.width:
        out.print(table)
        return
    if title:
        say(title)
    for row in body:
        say(f"\n{row[0].plain}")
        cells = [f"{column.name} {cell.plain}" for column, cell in zip(columns[1:], row[1:], strict=True) if cell.plain]
        for line in _filled(cells, out.width):
            say(line)
    say()


def _filled(pieces: Sequence[str], width: int) -> list[str]:
    """The pieces in indented lines; a piece is divided only if it is longer than a line."""
    lines: list[str] = []
    for piece in pieces:
        if lines and len(lines[-1]) + 3 + len(piece) <= width:
            lines[-1] += f"   {piece}"
        elif len(piece) + 2 <= width:
            lines.append(f"  {piece}")
        else:
            lines += textwrap.wrap(
                piece, width, initial_indent="  ", subsequent_indent="    ", break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip
    return lines
