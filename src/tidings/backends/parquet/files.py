"""The archive's files as Parquet, through DuckDB. DuckDB is imported on first use because it takes 35 MB."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

from tidings.model.errors import Unreadable
from tidings.policy.routing import FIRST_SLOT
from tidings.policy.transitions import STATES_PER_ATTEMPT, state_of
from tidings.ports.days import COLUMNS, EVENTS, NOTIFICATIONS

MEMORY_LIMIT = "256MB"
ROW_GROUP_ROWS = 10_000
_MOST_LINE_BYTES = 67_108_864
_SLOTS = 0xFF

_INSTANT = "('0x' || replace(left(id, 13), '-', ''))::BIGINT"
"""The instant in an id, in milliseconds since the epoch."""
_SLOT = "('0x' || right(id, 2))::SMALLINT"


@cache
def _channel() -> str:
    """An SQL expression for the channel of a slot. A channel's slots start at its first one."""
    cases = sorted(((first, channel.value) for channel, first in FIRST_SLOT.items()), reverse=True)
    whens = " ".join(f"WHEN {_SLOT} >= {first} THEN '{name}'" for first, name in cases)
    return f"CASE WHEN {_SLOT} = 0 THEN NULL {whens} END"


@cache
def _states() -> str:
    names = []
    for number in range(STATES_PER_ATTEMPT):
        try:
            names.append(f"'{state_of(number).value}'")
        except IndexError:
            break
    return f"[{', '.join(names)}]"


def _typed(kind: str) -> str:
    """The SQL that turns the CSV's texts into the columns of the file."""
    if kind == NOTIFICATIONS:
        return (
            f"tenant, id::UUID AS id, user_id, category, {_INSTANT} AS accepted_at_ms, "
            "pending_at::BIGINT AS pending_at, unhex(pending_slots) AS pending_slots, "
            "unhex(pending_addresses) AS pending_addresses, unhex(body) AS body"
        )
    return (
        f"tenant, id::UUID AS id, {_channel()} AS channel, "
        f"{_states()}[rank::INTEGER % {STATES_PER_ATTEMPT} + 1] AS state, rank::INTEGER AS rank, step::INTEGER AS step,"
        ' attempt::INTEGER AS attempt, "at"::BIGINT AS "at", reason, provider, reference, detail, address'
    )


def _text(kind: str, name: str) -> str:
    """The SQL that turns a column back into its text in the CSV."""
    if kind == NOTIFICATIONS and name in {"pending_slots", "pending_addresses", "body"}:
        return f"lower(hex({name}))"
    return f'"{name}"::VARCHAR'


class ParquetFiles:
    """See ArchiveFiles. DuckDB gets one thread and bounded memory, and spills to the folder of the written file."""

    suffix = ".parquet"

    async def write(self, kind: str, rows: Path, file: Path) -> None:
        """See ArchiveFiles."""
        await asyncio.to_thread(_run, file, _writing(kind, file), {"rows": str(rows)})

    async def check(self, kind: str, file: Path) -> tuple[int, int]:
        """See ArchiveFiles."""
        [(rows, digest)] = await asyncio.to_thread(_run, file, _checking(kind), {"file": str(file)})
        return rows, int(digest)

    async def read(self, kind: str, file: Path, notification_id: UUID) -> Sequence[tuple[Any, ...]]:
        """See ArchiveFiles."""
        last = UUID(int=notification_id.int | (_SLOTS if kind == EVENTS else 0))
        asked = {"file": str(file), "first": str(notification_id), "last": str(last)}
        found: list[tuple[Any, ...]] = await asyncio.to_thread(_run, file, _READING[kind], asked)
        return found


def _writing(kind: str, file: Path) -> str:
    columns = ", ".join(f"'{name}': 'VARCHAR'" for name in COLUMNS[kind])
    # `parallel = false`: there is only one thread, and quoted values may contain line breaks.
    return f"""
        COPY (
            SELECT {_typed(kind)}
            FROM read_csv(
                $rows, columns = {{{columns}}}, auto_detect = false, header = false, parallel = false,
                delim = ',', quote = '"', escape = '"', nullstr = '', allow_quoted_nulls = false, new_line = '\\n',
                max_line_size = {_MOST_LINE_BYTES}, buffer_size = {2 * _MOST_LINE_BYTES}
            )
        ) TO '{_literal(file)}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP_ROWS})
        """  # noqa: S608 - columns of ours, and a file that we named


def _checking(kind: str) -> str:
    texts = ", ".join(f"coalesce({_text(kind, name)}, chr(30))" for name in COLUMNS[kind])
    return f"""
        SELECT count(*), coalesce(sum(('0x' || substr(md5(concat_ws(chr(31), {texts})), 1, 15))::BIGINT), 0)
        FROM read_parquet($file)
        """  # noqa: S608 - columns of ours


_READING = {
    NOTIFICATIONS: """
        SELECT tenant, id, pending_at, pending_slots, pending_addresses, body FROM read_parquet($file)
        WHERE id BETWEEN $first::UUID AND $last::UUID
        """,
    EVENTS: """
        SELECT id, rank, step, attempt, "at", reason, provider, reference, detail, address FROM read_parquet($file)
        WHERE id BETWEEN $first::UUID AND $last::UUID
        """,
}


def _run(file: Path, statement: str, arguments: dict[str, str]) -> list[tuple[Any, ...]]:
    duckdb = import_module("duckdb")
    settings = {
        "threads": 1,
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(file.parent),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with closing(duckdb.connect(config=settings)) as connection:
        try:
            found: list[tuple[Any, ...]] = connection.execute(statement, arguments).fetchall()
        except duckdb.Error as error:
            raise Unreadable(f"{file.name}: {error}") from error
    return found


def _literal(file: Path) -> str:
    return str(file).replace("'", "''")
