"""SQL from the files beside this module: named statements, prepared at start so that a bad one fails at boot.

A file holds statements that each begin with a line `-- name: x`, followed by comments that say why it is as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from tidings.backends.postgres.connection import Connected

_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
FOLDER = files(__package__) / "sql"
BY_DAY = ("days", "history", "letters", "schedule")
"""The templates whose statements each name the tables of one day (leaves.py)."""


def load(file: str) -> Mapping[str, str]:
    """The statements of `sql/<file>.sql`, by name."""
    parts = _HEADER.split((FOLDER / f"{file}.sql").read_text(encoding="utf-8"))
    # Comments would travel to the server with every statement that is not prepared yet, and hide there.
    return {
        name: "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip().rstrip(";")
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


async def check_queries(connection: Connected) -> int:
    """Prepare every statement of every file; the number of them. Raises asyncpg.PostgresError, naming the statement."""
    checked = 0
    files = sorted(entry.name for entry in FOLDER.iterdir() if entry.name.endswith(".sql"))
    for file in [*files, *(f"templates/{name}.sql" for name in BY_DAY)]:
        for name, text in load(file.removesuffix(".sql")).items():
            try:
                await connection.prepare(text.replace("{day}", "carried").replace("{number}", "-1"))
            except Exception as error:
                error.add_note(f"in {file}, statement {name}")
                raise
            checked += 1
    return checked
