"""Loads SQL from the files beside this module and prepares every statement at start, so that a bad one fails at boot.

Each statement of a file begins with a line `-- name: x`, followed by comments that say why it is as it is. A piece of
SQL that several statements of a file share begins with `-- part: y`; `{y}` stands for it in the statements and parts
below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from tidings.backends.postgres.connection import Connected
from tidings.model.vocabulary import State
from tidings.policy.transitions import rank

_HEADER = re.compile(r"^-- (name|part): (\w+)$", re.MULTILINE)
FOLDER = files(__package__) / "sql"
BY_DAY = ("days", "history", "letters", "schedule")
"""The templates whose statements name the tables of one day (leaves.py). In them `{pending_rank}` is the rank of the
fact that a delivery is merely pending, which has no row."""
_PENDING_RANK = rank(State.PENDING, 1)


def load(file: str) -> Mapping[str, str]:
    """The statements of `sql/<file>.sql`, by name, without comments: those would travel to the server for nothing."""
    pieces = _HEADER.split((FOLDER / f"{file}.sql").read_text(encoding="utf-8"))
    statements: dict[str, str] = {}
    parts: dict[str, str] = {}
    for kind, name, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        code = "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip().rstrip(";")
        (parts if kind == "part" else statements)[name] = code
    for name, part in reversed(parts.items()):
        statements = {key: statement.replace(f"{{{name}}}", part) for key, statement in statements.items()}
    return statements


def of_leaf(template: str, suffix: str, number: int) -> str:
    """The statement for the leaf of the day `number`, whose tables' names end in `suffix`."""
    text = template.replace("{day}", suffix).replace("{number}", str(number))
    return text.replace("{pending_rank}", str(_PENDING_RANK))


async def check_queries(connection: Connected) -> int:
    """Prepare every statement; returns how many. Raises asyncpg.PostgresError, with the statement's name as a note."""
    checked = 0
    files = sorted(entry.name for entry in FOLDER.iterdir() if entry.name.endswith(".sql"))
    for file in [*files, *(f"templates/{name}.sql" for name in BY_DAY)]:
        for name, text in load(file.removesuffix(".sql")).items():
            try:
                await connection.prepare(of_leaf(text, "carried", -1))
            except Exception as error:
                error.add_note(f"in {file}, statement {name}")
                raise
            checked += 1
    return checked
