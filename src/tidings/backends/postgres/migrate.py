"""Migrations: numbered SQL files, applied once each, in order, by one process at a time.

`NNNN_pre_name.sql` runs before new code serves, and must suit the old; `NNNN_post_name.sql` when no old code is left.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Collection
from importlib.resources import files

import asyncpg
from msgspec import Struct

from tidings.backends.postgres.checks import check_pooling, check_server
from tidings.backends.postgres.connection import connect, translated
from tidings.model.errors import SettingsError

FOLDER = files(__package__) / "migrations"
PHASES = ("pre", "post")
AHEAD = 7
"""Days of partitions that are made in advance."""

_LOCK = 7166200101
_NAME = re.compile(r"^(\d{4})_(pre|post)_\w+\.sql$")
_DAY = 86_400_000


class Migration(Struct, frozen=True):
    """One file. `checksum` is the SHA-256 of its text, in hex."""

    name: str
    phase: str
    text: str

    @property
    def checksum(self) -> str:
        """What tells whether the file was changed after it was applied."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations, in order."""
    return [
        Migration(entry.name, match[2], entry.read_text(encoding="utf-8"))
        for entry in sorted(FOLDER.iterdir(), key=lambda entry: entry.name)
        if (match := _NAME.match(entry.name))
    ]


async def migrate(
    dsn: str, phases: Collection[str] = PHASES, known: Collection[Migration] | None = None, now: int | None = None
) -> list[str]:
    """Bring the database up to date; the names of the files that were applied now.

    `now` (milliseconds since the epoch) says for which days partitions are made. Each file is one transaction.

    Raises:
        SettingsError: a file that was applied has changed, or the database was migrated by a newer version.
        Unavailable: the database does not answer.
    """
    wanted = list(migrations() if known is None else known)
    connection = await connect(dsn, "tidings-migrate", lock_timeout="0", statement_timeout="0")
    try:
        with translated():
            await check_server(connection)
            # A lock of the session is what keeps two of us apart.
            other = await connect(dsn, "tidings-migrate")
            try:
                await check_pooling(connection, other)
            finally:
                await other.close()
            await connection.execute("SELECT pg_advisory_lock($1)", _LOCK, timeout=600)
            applied = await _applied(connection, {migration.name: migration for migration in wanted})
            done = []
            for migration in wanted:
                if migration.name not in applied and migration.phase in phases:
                    await _apply(connection, migration)
                    done.append(migration.name)
            today = (int(time.time() * 1000) if now is None else now) // _DAY
            await connection.execute("SELECT ensure_partitions($1, $2)", today - 1, AHEAD + 2)
            return done
    finally:
        await connection.close()


async def _applied(connection: asyncpg.Connection[asyncpg.Record], known: dict[str, Migration]) -> set[str]:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS migration (name text PRIMARY KEY, checksum text NOT NULL, "
        "at timestamptz NOT NULL DEFAULT now())"
    )
    rows = await connection.fetch("SELECT name, checksum FROM migration")
    for name, checksum in rows:
        match = _NAME.match(name)
        if name not in known:
            if match is not None and match[2] == "pre":
                continue  # a newer version is being rolled out beside us; its first half suits us
            raise SettingsError(
                f"the database has the migration {name}, which this version of Tidings does not know: a newer version "
                "has used it. Run that version, or point database.dsn at another database."
            )
        if known[name].checksum != checksum:
            raise SettingsError(
                f"the migration {name} was changed after it was applied to this database. Restore the file, and put "
                "the change into a new migration."
            )
    return {name for name, _ in rows}


async def _apply(connection: asyncpg.Connection[asyncpg.Record], migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.text, timeout=3600)
            await connection.execute(
                "INSERT INTO migration (name, checksum) VALUES ($1, $2)", migration.name, migration.checksum
            )
    except asyncpg.PostgresError as error:
        error.add_note(f"in migration {migration.name}")
        raise
