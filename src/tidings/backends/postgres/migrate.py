"""Migrations: numbered SQL files, each applied once, in order, by one process at a time.

`NNNN_pre_name.sql` runs before the new version serves, so the old version must work with it. `NNNN_post_name.sql` runs
when no process of the old version is left.

A file is one transaction. It waits for a lock only for seconds, because other transactions would wait behind it; then
it gives up and tries again. A file that begins with the line `-- concurrently` is one statement outside of a
transaction, for an index of a large table. If it broke off, the invalid index is dropped and created again.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Collection
from importlib.resources import files

import asyncpg
import structlog
from msgspec import Struct

from tidings.backends.postgres.checks import check_pooling, check_server
from tidings.backends.postgres.connection import connect, translated
from tidings.model.days import DAY_MS
from tidings.model.errors import SettingsError, Unavailable
from tidings.policy.days import AHEAD_DAYS

FOLDER = files(__package__) / "migrations"
PHASES = ("pre", "post")

_LOCK = 7166200101
_LOCK_TIMEOUT = "3s"
_TRIES = 40
_BETWEEN_TRIES_S = 1.0
_TURNS = 3_000
_BETWEEN_TURNS_S = 0.2
_CONCURRENTLY = "-- concurrently"
_INDEX = re.compile(r"^CREATE (?:UNIQUE )?INDEX CONCURRENTLY (\w+)", re.MULTILINE)
_NAME = re.compile(r"^(\d{4})_(pre|post)_\w+\.sql$")
_LONGEST_S = 24 * 3600
"""The most seconds for one file: an index of a table that has grown for years takes long."""

_log = structlog.get_logger("tidings.migrate")


class Migration(Struct, frozen=True):
    """One file."""

    name: str
    phase: str
    text: str

    @property
    def concurrent(self) -> bool:
        """True if it runs outside of a transaction."""
        return self.text.startswith(_CONCURRENTLY)

    @property
    def checksum(self) -> str:
        """The SHA-256 of the text, in hex. It shows whether the file was changed after it was applied."""
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
    """Bring the database up to date. Returns the names of the files that this call applied.

    Partitions are created for the days around `now` (milliseconds since the epoch).

    Raises:
        SettingsError: an applied file was changed, or a newer version has migrated the database.
        Unavailable: the database does not answer, or a lock was not free in all that time.
    """
    wanted = list(migrations() if known is None else known)
    connection = await connect(dsn, "tidings-migrate", lock_timeout="0", statement_timeout="0")
    try:
        with translated():
            await check_server(connection)
            # Two migrating processes are kept apart by a session's lock, which a pooler in transaction mode would
            # break.
            other = await connect(dsn, "tidings-migrate")
            try:
                await check_pooling(connection, other)
            finally:
                await other.close()
            await _take_turn(connection)
            applied = await _applied(connection, {migration.name: migration for migration in wanted})
            done = []
            for migration in wanted:
                if migration.name not in applied and migration.phase in phases:
                    apply = _apply_concurrently if migration.concurrent else _apply_patiently
                    await apply(connection, migration)
                    done.append(migration.name)
            today = (int(time.time() * 1000) if now is None else now) // DAY_MS
            await connection.execute("SELECT ensure_partitions($1, $2)", today - 1, AHEAD_DAYS + 2)
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
                continue  # a newer version is being rolled out; this version works with its `pre` migrations
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


async def _take_turn(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Wait until no other process migrates. Polls, because a statement that waits in the server delays CREATE INDEX."""
    for _ in range(_TURNS):
        if await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
            return
        await asyncio.sleep(_BETWEEN_TURNS_S)
    raise Unavailable(f"another process has been migrating this database for {_TURNS * _BETWEEN_TURNS_S:.0f} s")


async def _apply_patiently(connection: asyncpg.Connection[asyncpg.Record], migration: Migration) -> None:
    for tries_left in reversed(range(_TRIES)):
        try:
            await _apply(connection, migration)
            return
        except asyncpg.LockNotAvailableError:
            if not tries_left:
                raise
            _log.info("a migration waits for a lock", migration=migration.name, tries_left=tries_left)
            await asyncio.sleep(_BETWEEN_TRIES_S)


async def _apply_concurrently(connection: asyncpg.Connection[asyncpg.Record], migration: Migration) -> None:
    index = _INDEX.search(migration.text)
    try:
        valid = (
            None
            if index is None
            else await connection.fetchval(
                "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", index[1]
            )
        )
        if index is not None and valid is False:
            await connection.execute(f"DROP INDEX CONCURRENTLY {index[1]}", timeout=_LONGEST_S)
        if valid is not True:
            await connection.execute(migration.text, timeout=_LONGEST_S)
        await _note(connection, migration)
    except asyncpg.PostgresError as error:
        error.add_note(f"in migration {migration.name}")
        raise


async def _note(connection: asyncpg.Connection[asyncpg.Record], migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO migration (name, checksum) VALUES ($1, $2)", migration.name, migration.checksum
    )


async def _apply(connection: asyncpg.Connection[asyncpg.Record], migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            await connection.execute(migration.text, timeout=_LONGEST_S)
            await _note(connection, migration)
    except asyncpg.PostgresError as error:
        error.add_note(f"in migration {migration.name}")
        raise
