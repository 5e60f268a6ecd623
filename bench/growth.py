"""Growth: what a notification, a page of a list and an account cost when the history is large.

    python -m bench.growth                        # 1 and 10 million rows: half an hour, 6 GB of disk
    python -m bench.growth --millions 1 10 100    # hours, 60 GB

20,000 notifications go through the flow. Then SQL copies their rows into the 28 days before today, with ids of those
days, until the history has the wanted number of rows. After each filling the same things are measured.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct
from psycopg import sql

from bench import rows, workload
from bench.measure import Bench, Vendor
from bench.postgres import Postgres
from bench.system import TENANT, Tidings
from tidings.backends.postgres.leaves import suffix
from tidings.backends.postgres.store import PostgresStore
from tidings.model.days import DAY_MS
from tidings.model.vocabulary import State

SEED = 20_000
DAYS = 28
"""The days before today that are filled; the default retention keeps them."""
ROUNDS = 3
LAST = UUID(int=2**128 - 1)
ASKED, ASKED_FOR_S = 100, 4.0
"""How often each question is put to the API, and for how long at most."""
FLAT_WITHIN = 0.10
SETTLE_S = 20.0
"""Pause after a filling, in which the system writes back what it changed."""

_SHIFTED = """encode(overlay(uuid_send(id) PLACING substring(int8send(
    ({first_ms} + (('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint + copy * {step_ms}) % {day_ms})
) FROM 3 FOR 6) FROM 1 FOR 6), 'hex')::uuid"""
"""An id with another instant: its first 48 bits. Everything behind them stays, so that no two copies are equal."""


class Size(Struct):
    """What was measured with `rows` rows in the history: each figure by its name, in its unit."""

    rows: int
    figures: dict[str, float] = {}


class Grown(Tidings):
    """Tidings whose deliveries of today alone are counted as recorded, because counting all would take minutes."""

    def recorded(self) -> int:
        """Count the deliveries of today that are recorded as sent."""
        return asyncio.run(_sent_since(self.dsn, int(time.time() * 1000) // DAY_MS * DAY_MS))


async def _sent_since(dsn: str, since: int) -> int:
    store = await PostgresStore.open(dsn, 2)
    try:
        found = await store.history.tally(TENANT, since)
        return sum(row.count for row in found if row.channel is not None and row.state is State.SENT)
    finally:
        await store.close()


def main(arguments: Sequence[str]) -> None:
    """Fill and measure, print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__.partition("\n")[0])
    parser.add_argument("--millions", nargs="+", type=float, default=[1.0, 10.0], help="rows, in millions")
    parser.add_argument("--folder", type=Path, help="where the database goes; deleted at the end")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="tidings-growth-", dir=options.folder))
    folder.chmod(0o755)  # root runs PostgreSQL as another user
    try:
        print(table(list(measure(folder, sorted(options.millions)))))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, millions: Sequence[float]) -> Iterator[Size]:
    """Fill a database step by step; yield the figures of each step."""
    with ExitStack() as stack:
        vendor = Vendor(folder, 0.0)
        stack.callback(vendor.stop)
        postgres = Postgres(folder / "postgres")
        stack.callback(postgres.stop)
        system = Grown("tidings", folder / "system", postgres, vendor.port)
        stack.callback(system.close)
        bench = Bench(folder, vendor)
        _say("warming up, and sending the notifications that are copied")
        rows.warm_up(bench, system)
        system.start_workers()
        bench.flow(system, workload.BATCHED, SEED)
        until = UUID(int=time.time_ns() // 1_000_000 << 80)
        with psycopg.connect(system.dsn, autocommit=True) as connection:
            for size in millions:
                filled = fill(connection, round(size * 1e6), until)
                began = time.perf_counter()
                days = asyncio.run(_roll(system.dsn))
                if days:
                    _say(f"summed up {days} days, {(time.perf_counter() - began) / days:.2f} s each")
                _say(f"measuring with {filled:,} rows")
                figures = dict(_flow(bench, system)) | dict(_questions(system))
                yield Size(filled, figures)


async def _roll(dsn: str) -> int:
    """Sum up the days that were filled, as a worker does; otherwise it would do so during the measurement."""
    store = await PostgresStore.open(dsn, 2)
    try:
        return await store.days.roll(int(time.time() * 1000))
    finally:
        await store.close()


def fill(connection: psycopg.Connection, wanted: int, until: UUID) -> int:
    """Copy the rows of today with ids below `until` into earlier days until these have `wanted`; how many they have."""
    today = int(time.time() * 1000) // DAY_MS
    seed = _count(connection, [today], until)
    days = range(today - DAYS, today)
    for day in days:
        connection.execute("SELECT ensure_partitions(%s, 1)", [day])
    have = _count(connection, days)
    rounds = max(0, round((wanted - have) / (seed * DAYS)))
    first_copy = round(have / (seed * DAYS))
    for number, day in enumerate(days, 1):
        if rounds:
            for parent in ("notification", "event"):
                _copy(connection, parent, today, day, range(first_copy, first_copy + rounds), until)
                connection.execute(sql.SQL("VACUUM ANALYZE {}").format(_leaf(parent, day)))
            connection.execute("UPDATE day SET dirty = true, rolled_at = NULL WHERE number = %s", [day])
            _say(f"filled {number} of {DAYS} days")
    connection.execute("CHECKPOINT")
    time.sleep(SETTLE_S)
    return _count(connection, days)


def _copy(connection: psycopg.Connection, parent: str, source: int, target: int, copies: range, until: UUID) -> None:
    columns = [
        row[0]
        for row in connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND column_name <> 'id' "
            "ORDER BY ordinal_position",
            [f"{parent}_{suffix(target)}"],
        )
    ]
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    shifted = _SHIFTED.format(first_ms=target * DAY_MS, step_ms=DAY_MS // 997, day_ms=DAY_MS)
    connection.execute(
        sql.SQL(
            "INSERT INTO {target} (id, {names}) SELECT {shifted}, {names} FROM {source}, "
            "generate_series({first}, {last}) AS copy WHERE id < {until} ORDER BY 1"
        ).format(
            target=_leaf(parent, target),
            names=names,
            shifted=sql.SQL(shifted),  # numbers alone are formatted into it
            source=_leaf(parent, source),
            first=copies.start,
            last=copies.stop - 1,
            until=sql.Literal(until),
        )
    )


def _leaf(parent: str, day: int) -> sql.Identifier:
    return sql.Identifier(f"{parent}_{suffix(day)}")


def _count(connection: psycopg.Connection, days: Sequence[int], until: UUID = LAST) -> int:
    total = 0
    for day in days:
        for parent in ("notification", "event"):
            row = connection.execute(
                sql.SQL("SELECT count(*) FROM {} WHERE id < {}").format(_leaf(parent, day), until)
            ).fetchone()
            total += 0 if row is None else int(row[0])
    return total


def _flow(bench: Bench, system: Tidings) -> Iterator[tuple[str, float]]:
    measured = [bench.flow(system, workload.BATCHED, SEED) for _ in range(ROUNDS)]
    yield "a notification, in batches (CPU-µs)", statistics.median(figure.cpu_us for figure in measured)
    singly = [bench.flow(system, workload.SINGLE, SEED // 10) for _ in range(ROUNDS)]
    yield "a notification, one by one (CPU-µs)", statistics.median(figure.cpu_us for figure in singly)


def _questions(system: Tidings) -> Iterator[tuple[str, float]]:
    today = datetime.now(UTC).date()
    week = {"since": str(today - timedelta(days=7)), "until": str(today)}
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=60)
    first = _ask(connection, system.headers, "/v1/notifications", {"limit": 50})
    middle = (datetime.now(UTC) - timedelta(days=DAYS // 2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    old = _ask(connection, system.headers, "/v1/notifications", {"limit": 1, "until": middle})["notifications"][0]["id"]
    asked: Mapping[str, Callable[[int], tuple[str, Mapping[str, object]]]] = {
        "the newest 50 notifications (ms)": lambda _: ("/v1/notifications", {"limit": 50}),
        "the next 50 (ms)": lambda _: ("/v1/notifications", {"limit": 50, "cursor": first["next"]}),
        "50 of two weeks ago (ms)": lambda _: ("/v1/notifications", {"limit": 50, "until": middle}),
        "the newest 50 of a user (ms)": lambda n: ("/v1/notifications", {"limit": 50, "user_id": f"user-{n}"}),
        "a notification of two weeks ago (ms)": lambda _: (f"/v1/notifications/{old}", {}),
        "the account of 24 hours (ms)": lambda _: ("/v1/accounting", {}),
        "the account of a week (ms)": lambda _: ("/v1/accounting", week),
    }
    for name, question in asked.items():
        took_ms: list[float] = []
        ends = time.perf_counter() + ASKED_FOR_S
        for number in range(1, ASKED + 1):
            if time.perf_counter() > ends:
                break
            path, query = question(number)
            began = time.perf_counter()
            _ask(connection, system.headers, path, query)
            took_ms.append((time.perf_counter() - began) * 1000)
        yield name, statistics.median(took_ms)


def _ask(
    connection: http.client.HTTPConnection, headers: Mapping[str, str], path: str, query: Mapping[str, object]
) -> dict[str, list[dict[str, str]]]:
    connection.request("GET", f"{path}?{urlencode(query)}" if query else path, headers=dict(headers))
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path} answered {answer.status}: {body[:300]!r}")
    found: dict[str, list[dict[str, str]]] = msgspec.json.decode(body)
    return found


def table(sizes: Sequence[Size]) -> str:
    """The figures of each size, and how many times the first size's figure the last one is."""
    lines = [f"{'rows in the history':<42}" + "".join(f"{size.rows:>14,}" for size in sizes) + f"{'last/first':>12}"]
    for name, first in sizes[0].figures.items():
        values = "".join(f"{size.figures[name]:>14.1f}" for size in sizes)
        ratio = sizes[-1].figures[name] / first
        lines.append(f"{name:<42}{values}{ratio:>11.2f}{' ' if ratio <= 1 + FLAT_WITHIN else '!'}")
    return "\n".join(lines)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
