"""The schedule alone, with much waiting: what waiting costs, and how fast what is due leaves.

    python -m bench.schedule_alone                 # 1,000,000 rows wait, 10,000 fall due in one second
    python -m bench.schedule_alone --waiting 100000 --burst 50000

A PostgreSQL of its own with durable settings is store and queue; the schedule runs in this process, as in a worker.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench import processes
from bench.postgres import Postgres
from tidings.backends.memory.clock import SystemClock
from tidings.backends.memory.objects import MemoryObjects
from tidings.backends.postgres.connection import connect
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.queue import PostgresQueue
from tidings.backends.postgres.statements import load
from tidings.backends.postgres.store import PostgresStore
from tidings.model import topics
from tidings.pipeline.schedule.stage import BATCH, LEASE, Schedule
from tidings.ports.queue import Item, Queue
from tidings.telemetry.metrics import Metrics

BODY = 500
"""Bytes of a row: a notification with a template and some data."""
IDLE_SECONDS = 10.0
LEAD = 3_000
"""Milliseconds for writing the rows before they fall due."""

_FILL = """
INSERT INTO schedule (notification, due, ready, topic, key, body)
SELECT gen_random_uuid(), due, due, 'requests.normal', convert_to('shop/user-' || number, 'UTF8'),
    convert_to(repeat('x', $4), 'UTF8')
FROM (SELECT number, $2::bigint + (random() * $3)::bigint AS due FROM generate_series(1, $1) AS number) AS rows
"""


class Noting:
    """A queue that notes when items were durable."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._left = 0
        self._done = asyncio.Event()
        self.times: list[float] = []

    def expect(self, count: int) -> None:
        """Begin anew, until `count` items have been put."""
        self._left = count
        self._done.clear()
        self.times.clear()

    async def put(self, items: Sequence[Item]) -> None:
        """Put, then note."""
        await self._queue.put(items)
        self.times.append(time.time() * 1000)
        self._left -= len(items)
        if self._left <= 0:
            self._done.set()

    async def all(self) -> None:
        """Return when everything that was expected has been put."""
        await self._done.wait()


async def measure(dsn: str, server: int, waiting: int, burst: int) -> None:
    """Fill, look at the plans, idle, and let the burst go."""
    await migrate(dsn)
    store, queue = await PostgresStore.open(dsn), await PostgresQueue.open(dsn)
    connection = await connect(dsn, "bench")
    clock, roots = SystemClock(), {"postgres": server, "schedule": os.getpid()}
    try:
        await queue.declare(topics.subscriptions())
        print(f"writing {waiting:,} rows that wait")
        await connection.execute(_FILL, waiting, clock.now() + 3_600_000, 30 * 86_400_000, BODY, timeout=600)
        await connection.execute("VACUUM ANALYZE schedule", timeout=600)
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for name, arguments in (("next_due", ""), ("due", f"({clock.now()}, {BATCH}, {round(LEASE * 1000)})")):
            await connection.execute(f"PREPARE {name} AS {load('schedule')[name]}")
            rows = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) EXECUTE {name}{arguments}")
            print(f"\n{name}, with nothing due:", *(row[0] for row in rows), sep="\n  ")

        noting, stopping = Noting(queue), asyncio.Event()
        schedule = Schedule(store.schedule, noting, MemoryObjects(), clock, Metrics())  # type: ignore[arg-type]  # put alone
        running = asyncio.create_task(schedule.run(stopping))
        await asyncio.sleep(1)
        before = processes.cpu_us(roots)
        await asyncio.sleep(IDLE_SECONDS)
        after = processes.cpu_us(roots)
        used = {name: (after[name] - before[name]) / IDLE_SECONDS / 10_000 for name in roots}
        print("\nidle:", ", ".join(f"{name} {share:.2f} %" for name, share in used.items()), "of a core")

        for within, words in ((999, "in one second"), (0, "at one instant")):
            due = clock.now() + LEAD
            noting.expect(burst)
            await connection.execute(_FILL, burst, due, within, BODY, timeout=600)
            if clock.now() > due:
                raise RuntimeError("the rows were written after they were due; choose a smaller --burst")
            before = processes.cpu_us(roots)
            await noting.all()
            cpu = sum(processes.cpu_us(roots).values()) - sum(before.values())
            first, last = noting.times[0] - due, noting.times[-1] - due - within
            print(
                f"{burst:,} rows due {words}: the first batch was in its queue {first:.0f} ms after the first was due, "
                f"the last {last:.0f} ms after the last; {len(noting.times)} batches, {cpu / burst:.0f} µs of CPU a row"
            )
        stopping.set()
        await running
    finally:
        await connection.close()
        await queue.close()
        await store.close()


def main(arguments: Sequence[str]) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.schedule_alone", description="Waiting, and falling due.")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="rows that wait meanwhile")
    parser.add_argument("--burst", type=int, default=10_000, help="rows that fall due in the same second")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="tidings-bench-"))
    folder.chmod(0o755)  # PostgreSQL's own user must be able to pass
    postgres = Postgres(folder / "postgres")
    try:
        uvloop.run(measure(postgres.database("schedule"), postgres.pid, chosen.waiting, chosen.burst))
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
