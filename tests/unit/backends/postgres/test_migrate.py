"""Migrations: their sum is the schema, and they refuse changed files and newer databases."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from hashlib import sha256
from importlib.resources import files

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from support import eventually, unique
from support.postgres import on_database
from support.stores import NOW
from tidings.backends.postgres.leaves import suffix
from tidings.backends.postgres.migrate import Migration, migrate, migrations
from tidings.backends.postgres.queue import PostgresQueue
from tidings.backends.postgres.server import Server
from tidings.backends.postgres.statements import check_queries, load
from tidings.backends.postgres.store import PostgresStore
from tidings.model.errors import SettingsError, Unavailable
from tidings.model.user import Profile

DAY = 86_400_000
OURS = "namespace.nspname IN ('public', 'queue')"
CATALOGUES = {
    "relations": f"""
        SELECT namespace.nspname, relname, relkind, relpersistence, reloptions, pg_get_partkeydef(class.oid),
            pg_get_expr(relpartbound, class.oid),
            (SELECT reloptions FROM pg_class toast WHERE toast.oid = class.reltoastrelid)
        FROM pg_class class JOIN pg_namespace namespace ON namespace.oid = relnamespace WHERE {OURS}""",
    "columns": f"""
        SELECT namespace.nspname, relname, attname, attnum, format_type(atttypid, atttypmod), attnotnull, attidentity,
            attstorage, collname, pg_get_expr(adbin, adrelid)
        FROM pg_attribute JOIN pg_class class ON class.oid = attrelid
        JOIN pg_namespace namespace ON namespace.oid = relnamespace
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        LEFT JOIN pg_collation ON pg_collation.oid = attcollation
        WHERE {OURS} AND attnum > 0 AND NOT attisdropped""",
    "indexes": f"""
        SELECT pg_get_indexdef(indexrelid), indisunique, indisvalid
        FROM pg_index JOIN pg_class class ON class.oid = indexrelid
        JOIN pg_namespace namespace ON namespace.oid = relnamespace WHERE {OURS}""",
    "constraints": f"""
        SELECT conname, conrelid::regclass::text, pg_get_constraintdef(pg_constraint.oid)
        FROM pg_constraint JOIN pg_namespace namespace ON namespace.oid = connamespace WHERE {OURS}""",
    "functions": f"""
        SELECT pg_get_functiondef(pg_proc.oid)
        FROM pg_proc JOIN pg_namespace namespace ON namespace.oid = pronamespace WHERE {OURS}""",
}  # fmt: skip


@pytest.fixture
async def empty_dsn(postgres_server: Server) -> AsyncIterator[str]:
    name = unique("empty").replace("-", "_")
    connection = await asyncpg.connect(postgres_server.dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    yield on_database(postgres_server.dsn, name)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def catalogue(dsn: str) -> dict[str, list[str]]:
    connection = await asyncpg.connect(dsn)
    try:
        return {
            kind: sorted(str(tuple(row)) for row in await connection.fetch(question))
            for kind, question in CATALOGUES.items()
        }
    finally:
        await connection.close()


async def run(dsn: str, statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def test_the_migrations_add_up_to_the_schema(empty_dsn: str, postgres_server: Server) -> None:
    for migration in migrations():
        await run(empty_dsn, migration.text)
    migrated = await catalogue(empty_dsn)
    await run(empty_dsn, "DROP SCHEMA public CASCADE; DROP SCHEMA queue CASCADE; CREATE SCHEMA public")
    schema = (files("tidings.backends.postgres") / "schema.sql").read_text(encoding="utf-8")
    await run(empty_dsn, schema)
    assert await catalogue(empty_dsn) == migrated
    assert len(migrated["relations"]) > 20


FIRST_WITHOUT_LOCKS = 31
"""Before this migration two indexes were built while the table was locked. No release had these tables full."""


@pytest.mark.parametrize(
    "migration", [one for one in migrations() if int(one.name[:4]) >= FIRST_WITHOUT_LOCKS] or [None]
)
def test_an_index_on_a_table_that_may_be_full_is_built_concurrently(migration: Migration | None) -> None:
    if migration is not None:
        check_indexes(migration.text)


def check_indexes(sql: str) -> None:
    made = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?([\w.]+)", sql))
    for how, table in re.findall(r"CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?(?:IF NOT EXISTS )?\w+ ON ([\w.]+)", sql):
        assert how or table in made, f"the index on {table} locks it: write CREATE INDEX CONCURRENTLY"


def test_the_check_of_indexes_tells_new_tables_from_full_ones() -> None:
    check_indexes("CREATE TABLE a (b int); CREATE INDEX a_b ON a (b);")
    check_indexes("CREATE INDEX CONCURRENTLY schedule_b ON schedule (b);")
    with pytest.raises(AssertionError, match="schedule"):
        check_indexes("CREATE TABLE a (b int); CREATE UNIQUE INDEX schedule_b ON schedule (b);")


async def test_each_file_is_applied_once_whoever_is_first(empty_dsn: str) -> None:
    done = await asyncio.gather(*(migrate(empty_dsn) for _ in range(4)))
    assert sorted(done) == [[], [], [], [migration.name for migration in migrations()]]
    assert await migrate(empty_dsn) == []


async def test_a_file_that_was_changed_is_refused(empty_dsn: str) -> None:
    await migrate(empty_dsn)
    first, *rest = migrations()
    changed = Migration(first.name, first.phase, first.text + "-- more\n")
    with pytest.raises(SettingsError, match=f"{first.name} was changed after it was applied"):
        await migrate(empty_dsn, known=[changed, *rest])


async def test_a_newer_database_is_refused_unless_only_its_first_half_is_there(empty_dsn: str) -> None:
    await migrate(empty_dsn, known=[*migrations(), Migration("9998_pre_x.sql", "pre", "CREATE TABLE x (y int)")])
    assert await migrate(empty_dsn) == []
    await migrate(empty_dsn, known=[*migrations(), Migration("9998_pre_x.sql", "pre", "CREATE TABLE x (y int)"),
                                    Migration("9999_post_x.sql", "post", "DROP TABLE x")])  # fmt: skip
    with pytest.raises(SettingsError, match=r"9999_post_x.sql, which this version of Tidings does not know"):
        await migrate(empty_dsn)


async def test_a_phase_at_a_time(empty_dsn: str) -> None:
    known = [*migrations(), Migration("9999_post_x.sql", "post", "CREATE TABLE x (y int)")]
    assert await migrate(empty_dsn, ["pre"], known=known) == [one.name for one in known if one.phase == "pre"]
    assert await migrate(empty_dsn, known=known) == [one.name for one in known if one.phase == "post"]


async def test_a_file_that_fails_leaves_nothing(empty_dsn: str) -> None:
    broken = Migration("9999_pre_x.sql", "pre", "CREATE TABLE half (y int); SELECT 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError) as failed:
        await migrate(empty_dsn, known=[*migrations(), broken])
    assert failed.value.__notes__ == ["in migration 9999_pre_x.sql"]
    assert await migrate(empty_dsn) == []
    with pytest.raises(asyncpg.UndefinedTableError):
        await run(empty_dsn, "SELECT FROM half")


async def test_leaves_are_made_once(postgres_dsn: str) -> None:
    day = 25_000  # in the year 2038
    store = await PostgresStore.open(postgres_dsn)
    connection = await asyncpg.connect(postgres_dsn)
    try:
        assert await store.history.maintain(day * DAY) == 3 * 9
        assert await store.history.maintain(day * DAY) == 0
        assert (
            await connection.fetchval("SELECT count(*) FROM day WHERE number BETWEEN $1 AND $2", day - 1, day + 7) == 9
        )
        with pytest.raises(asyncpg.CheckViolationError, match="no partition"):
            await connection.execute(
                "INSERT INTO notification (id, tenant, category, body) VALUES (first_id($1), 't', 'c', '')",
                (day + 8) * DAY,
            )
    finally:
        await connection.close()
        await store.close()


async def test_rows_of_the_default_partitions_move_to_their_day_or_are_kept_apart(empty_dsn: str) -> None:
    """The history of a version with default partitions, with rows of a day without leaves and an impossible id."""
    before = [one for one in migrations() if one.name < "0020"]
    today = NOW // DAY
    for migration in before:
        await run(empty_dsn, migration.text)
    await run(empty_dsn, f"SELECT ensure_partitions({today - 1}, 3)")
    connection = await asyncpg.connect(empty_dsn)
    try:
        for at in (today * DAY, (today - 20) * DAY, (today - 19) * DAY - 1, 0):
            await connection.execute(
                "INSERT INTO notification (id, tenant, category, body) VALUES (first_id($1), 'acme', 'news', '')", at
            )
            await connection.execute(
                "INSERT INTO event (id, rank, step, attempt, at, reason, provider, reference, detail, address) "
                "VALUES (first_id($1), 24, 0, 1, $1, '', '', '', '', '')",
                at,
            )
        for migration in migrations()[len(before) :]:
            await run(empty_dsn, migration.text)
        rows = await connection.fetch(
            "SELECT tableoid::regclass::text, count(*) FROM notification GROUP BY 1 ORDER BY 1"
        )
        assert [tuple(row) for row in rows] == [
            (f"notification_{suffix(today - 20)}", 2), (f"notification_{suffix(today)}", 1),
        ]  # fmt: skip
        assert await connection.fetchval("SELECT count(*) FROM event_stray") == 1
        assert await connection.fetchval("SELECT count(*) FROM notification_stray") == 1
        letters = await connection.fetch("SELECT tenant, category FROM letter")
        assert [tuple(row) for row in letters] == [("acme", "news")] * 3, "old dead letters are found by tenant"
        assert await connection.fetchval("SELECT count(*) FROM day WHERE state = 'open' AND dirty") == 4
    finally:
        await connection.close()


async def test_every_statement_is_checked_against_the_schema(postgres_dsn: str) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    try:
        assert await check_queries(connection) > 40
        await connection.execute("ALTER TABLE users DROP COLUMN profile")
        with pytest.raises(asyncpg.UndefinedColumnError) as failed:
            await check_queries(connection)
        assert "in standings.sql, statement" in failed.value.__notes__[0]
    finally:
        await connection.close()


async def test_a_database_that_does_not_exist(postgres_server: Server) -> None:
    dsn = on_database(postgres_server.dsn, "nowhere")
    for opening in (migrate(dsn), PostgresStore.open(dsn), PostgresQueue.open(dsn)):
        with pytest.raises(SettingsError, match=r"database.dsn cannot be used.*nowhere"):
            await opening


def test_statements_carry_no_comments() -> None:
    assert all("--" not in text and text for text in load("history").values())


async def test_devices_that_several_profiles_have_go_to_the_newest(empty_dsn: str) -> None:
    """An earlier version stored the same device in several profiles."""
    earlier = [one for one in migrations() if one.name < "0011"]
    (devices,) = [one for one in migrations() if one.name.startswith("0011")]
    for migration in earlier:
        await run(empty_dsn, migration.text)
    profiles = {
        "ann": (1, Profile(name="Änn", devices=("one", "two", "four"), attributes={"a": [1.5, None, "x"]})),
        "bob": (3, Profile(devices=("three", "one"))),
        "eve": (2, Profile(devices=("two", "one"))),
        "none": (9, Profile(email="none@example.com")),
    }
    connection = await asyncpg.connect(empty_dsn)
    try:
        await connection.executemany(
            "INSERT INTO users (tenant, user_id, bucket, profile, updated_at) VALUES ('t', $1, 0, $2, $3)",
            [(who, msgspec.json.encode(profile), at) for who, (at, profile) in profiles.items()],
        )
        await connection.execute(devices.text)
        rows = await connection.fetch("SELECT user_id, profile, updated_at FROM users ORDER BY user_id")
        stored = {who: msgspec.json.decode(profile, type=Profile) for who, profile, _ in rows}
        assert {who: profile.devices for who, profile in stored.items()} == {
            "ann": ("four",),
            "bob": ("three", "one"),
            "eve": ("two",),
            "none": (),
        }
        assert stored["ann"] == msgspec.structs.replace(profiles["ann"][1], devices=("four",))
        owners = await connection.fetch("SELECT digest, user_id FROM device")
        assert {bytes(digest): who for digest, who in owners} == {
            sha256(token.encode()).digest(): who
            for token, who in (("one", "bob"), ("two", "eve"), ("three", "bob"), ("four", "ann"))
        }
        await connection.execute(devices.text)
        assert await connection.fetch("SELECT user_id, profile, updated_at FROM users ORDER BY user_id") == rows
    finally:
        await connection.close()


class TestConcurrently:
    """Indexes of large tables, created outside of a transaction."""

    INDEX = Migration(
        "9998_pre_x.sql", "pre", "-- concurrently\nCREATE INDEX CONCURRENTLY users_x ON users (updated_at);\n"
    )

    async def test_an_index_is_created_beside_readers_and_writers(self, empty_dsn: str) -> None:
        await migrate(empty_dsn)
        writer = await asyncpg.connect(empty_dsn)
        writing = writer.transaction()
        await writing.start()
        await writer.execute("INSERT INTO tenant (id, name, created_at) VALUES ('t', 't', 1)")
        making = asyncio.create_task(migrate(empty_dsn, known=[*migrations(), self.INDEX]))
        await run(
            empty_dsn, "INSERT INTO users (tenant, user_id, bucket, profile, updated_at) VALUES ('t', 'u', 1, '', 1)"
        )
        await writing.commit()
        await writer.close()
        assert await making == [self.INDEX.name]

    async def test_an_interrupted_index_is_created_again(self, empty_dsn: str) -> None:
        await migrate(empty_dsn)
        connection = await asyncpg.connect(empty_dsn)
        try:
            await connection.execute(self.INDEX.text)
            await connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'users_x'::regclass")
            before = await connection.fetchval("SELECT 'users_x'::regclass::oid")
            assert await migrate(empty_dsn, known=[*migrations(), self.INDEX]) == [self.INDEX.name]
            [(after, valid)] = await connection.fetch(
                "SELECT indexrelid, indisvalid FROM pg_index WHERE indexrelid = 'users_x'::regclass"
            )
            assert valid
            assert after != before
        finally:
            await connection.close()

    async def test_an_index_that_was_created_but_not_noted_stays(self, empty_dsn: str) -> None:
        await migrate(empty_dsn)
        await run(empty_dsn, self.INDEX.text)
        assert await migrate(empty_dsn, known=[*migrations(), self.INDEX]) == [self.INDEX.name]
        assert await migrate(empty_dsn, known=[*migrations(), self.INDEX]) == []


async def test_a_change_of_a_busy_table_gives_up_and_tries_again(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration that waits for its lock would make all other transactions wait behind it."""
    monkeypatch.setattr("tidings.backends.postgres.migrate._LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr("tidings.backends.postgres.migrate._BETWEEN_TRIES_S", 0.2)
    await migrate(empty_dsn)
    reader = await asyncpg.connect(empty_dsn)
    reading = reader.transaction()
    await reading.start()
    await reader.fetch("SELECT FROM users")
    change = Migration("9998_pre_x.sql", "pre", "ALTER TABLE users ADD COLUMN more text")
    with capture_logs() as logs:
        changing = asyncio.create_task(migrate(empty_dsn, known=[*migrations(), change]))
        await eventually(lambda: len([log for log in logs if "waits for a lock" in log["event"]]) >= 2)
        async with asyncio.timeout(5):
            await run(empty_dsn, "SELECT FROM users")
        await reading.commit()
        assert await changing == [change.name]
    await reader.close()


async def test_a_lock_that_is_never_released_raises(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.backends.postgres.migrate._LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr("tidings.backends.postgres.migrate._TRIES", 2)
    await migrate(empty_dsn)
    reader = await asyncpg.connect(empty_dsn)
    reading = reader.transaction()
    await reading.start()
    await reader.fetch("SELECT FROM users")
    change = Migration("9998_pre_x.sql", "pre", "ALTER TABLE users ADD COLUMN more text")
    with pytest.raises(Unavailable, match="lock timeout"):
        await migrate(empty_dsn, known=[*migrations(), change])
    await reading.rollback()
    await reader.close()
