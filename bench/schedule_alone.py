"""The schedule alone, with many waiting rows: what waiting costs, and how fast due rows are put into their queue.

    python -m bench.schedule_alone                 # 1,000,000 rows wait, 10,000 fall due in one second
    python -m bench.schedule_alone --waiting 100000 --burst 50000

Store and queue are a PostgreSQL with durable settings; the schedule runs in this process, as in a worker.
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
from tidings.pipeline.schedule.stage import BATCH, LEASE_S, Schedule
from tidings.ports.queue import Item, Queue
from tidings.telemetry.metrics import Metrics

BODY_BYTES = 500
"""The body of a row: a notification with a template and some data."""
IDLE_S = 10.0
LEAD_MS = 3_000
"""Time to write the rows before they fall due."""

_FILL = """
INSERT INTO schedule (notification, due, ready, topic, key, body)
SELECT gen_random_uuid(), due, due, 'requests.normal', convert_to('shop/user-' || number, 'UTF8'),
    convert_to(repeat('x', $4), 'UTF8')
FROM (SELECT number, $2::bigint + (random() * $3)::bigint AS due FROM generate_series(1, $1) AS number) AS rows
"""


class TimedQueue:
    """A queue that remembers when its puts were durable, in `put_at_ms`."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._left = 0
        self._done = asyncio.Event()
        self.put_at_ms: list[float] = []

    def expect(self, count: int) -> None:
        """Start again; wait for `count` items."""
        self._left = count
        self._done.clear()
        self.put_at_ms.clear()

    async def put(self, items: Sequence[Item]) -> None:
        """Put the items, and remember the time."""
        await self._queue.put(items)
        self.put_at_ms.append(time.time() * 1000)
        self._left -= len(items)
        if self._left <= 0:
            self._done.set()

    async def all_put(self) -> None:
        """Wait until all expected items have been put."""
        await self._done.wait()


async def measure(dsn: str, server: int, waiting: int, burst: int) -> None:
    """Fill the schedule, print the plans, measure idling, then let the burst fall due."""
    await migrate(dsn)
    store, queue = await PostgresStore.open(dsn), await PostgresQueue.open(dsn)
    connection = await connect(dsn, "bench")
    clock, roots = SystemClock(), {"postgres": server, "schedule": os.getpid()}
    try:
        await queue.declare(topics.subscriptions())
        print(f"writing {waiting:,} waiting rows")
        await connection.execute(_FILL, waiting, clock.now() + 3_600_000, 30 * 86_400_000, BODY_BYTES, timeout=600)
        await connection.execute("VACUUM ANALYZE schedule", timeout=600)
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for name, arguments in (("next_due", ""), ("due", f"({clock.now()}, {BATCH}, {round(LEASE_S * 1000)})")):
            await connection.execute(f"PREPARE {name} AS {load('schedule')[name]}")
            rows = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) EXECUTE {name}{arguments}")
            print(f"\n{name}, with nothing due:", *(row[0] for row in rows), sep="\n  ")

        timed_queue, stopping = TimedQueue(queue), asyncio.Event()
        schedule = Schedule(store.schedule, timed_queue, MemoryObjects(), clock, Metrics())  # type: ignore[arg-type]  # uses `put` only
        running = asyncio.create_task(schedule.run(stopping))
        await asyncio.sleep(1)
        before = processes.cpu_us(roots)
        await asyncio.sleep(IDLE_S)
        after = processes.cpu_us(roots)
        used = {name: (after[name] - before[name]) / IDLE_S / 10_000 for name in roots}
        print("\nidle:", ", ".join(f"{name} {share:.2f} %" for name, share in used.items()), "of a core")

        for within_ms, words in ((999, "in one second"), (0, "at one instant")):
            due_ms = clock.now() + LEAD_MS
            timed_queue.expect(burst)
            await connection.execute(_FILL, burst, due_ms, within_ms, BODY_BYTES, timeout=600)
            if clock.now() > due_ms:
                raise RuntimeError("writing the rows took until after they were due: choose a smaller --burst")
            before = processes.cpu_us(roots)
            await timed_queue.all_put()
            cpu_us = sum(processes.cpu_us(roots).values()) - sum(before.values())
            first_ms = timed_queue.put_at_ms[0] - due_ms
            last_ms = timed_queue.put_at_ms[-1] - due_ms - within_ms
            batches, cpu_us_each = len(timed_queue.put_at_ms), cpu_us / burst
            print(
                f"{burst:,} rows due {words}: the first batch was in its queue {first_ms:.0f} ms after the first was "
                f"due, the last {last_ms:.0f} ms after the last; {batches} batches, {cpu_us_each:.0f} µs of CPU a row"
            )
        stopping.set()
        await running
    finally:
        await connection.close()
        await queue.close()
        await store.close()


def main(arguments: Sequence[str]) -> None:
    """Measure the schedule as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.schedule_alone", description="Measure waiting and due rows of the schedule."
    )
    parser.add_argument("--waiting", type=int, default=1_000_000, help="rows that only wait")
    parser.add_argument("--burst", type=int, default=10_000, help="rows that fall due in the same second")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="tidings-bench-"))
    folder.chmod(0o755)  # PostgreSQL's own user must be able to enter
    postgres = Postgres(folder / "postgres")
    try:
        uvloop.run(measure(postgres.database("schedule"), postgres.pid, chosen.waiting, chosen.burst))
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
