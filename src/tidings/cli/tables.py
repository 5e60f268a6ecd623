"""Tables that fit: as columns where there is room, else each row as lines of its own. Nothing in them is cut off."""

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

_WITHOUT_END = 10_000
_NARROWEST = 20
_LOOKS: dict[str, Any] = {"box": box.SIMPLE, "padding": (0, 1, 0, 0), "pad_edge": False, "title_justify": "left"}


class Column(Struct, frozen=True):
    """A column with its heading; numbers stand to the right."""

    name: str
    is_number: bool = False


def width() -> int:
    """Columns to write in: what COLUMNS says, else the terminal's; without either (a pipe, a file) there is no end."""
    return max(_NARROWEST, shutil.get_terminal_size((_WITHOUT_END, 24)).columns)


def console() -> Console:
    """Where tables go; colours only in a terminal."""
    return Console(highlight=False, width=width())


def print_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], title: str = "", total: Sequence[str] | None = None
) -> None:
    """Print the rows; `total` is a last one, set apart. The first column names a row."""
    place = console()
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
    if Measurement.get(place, place.options.update(width=_WITHOUT_END), table).maximum <= place.width:
        place.print(table)
        return
    if title:
        say(title)
    for row in body:
        say(f"\n{row[0].plain}")
        told = [f"{column.name} {cell.plain}" for column, cell in zip(columns[1:], row[1:], strict=True) if cell.plain]
        for line in _filled(told, place.width):
            say(line)
    say()


def _filled(pieces: Sequence[str], width: int) -> list[str]:
    """The pieces in indented lines, none of them divided unless it is longer than a line."""
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
