"""The queue alone: put, then claim and done, as a stage does it, in a process whose CPU counts.

`python -m bench.queue_alone` reads a `QueueRun` as JSON from the first line of its standard input. Before each phase it
prints a line and waits for one, so that the parent process can read the CPU times between the phases.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop
from msgspec import Struct

from tidings.backends.kafka.queue import KafkaQueue
from tidings.backends.postgres.queue import PostgresQueue
from tidings.ports.queue import Item, Queue

TOPIC = "bench"
GROUP = "bench"
PHASES = ("put", "claim")


class QueueRun(Struct, frozen=True):
    """What to measure: a `kind` of queue at `where` (a DSN, or Kafka's bootstrap servers), with `count` items."""

    kind: str
    where: str
    count: int
    batch: int = 500
    item_bytes: int = 300


async def _open(queue_run: QueueRun) -> Queue:
    if queue_run.kind == "kafka":
        return await KafkaQueue.open(queue_run.where, partitions=8, replication=1, prefix="alone.")
    return await PostgresQueue.open(queue_run.where)


async def _put(queue: Queue, queue_run: QueueRun) -> None:
    body = bytes(range(256)) * (queue_run.item_bytes // 256) + bytes(queue_run.item_bytes % 256)
    for start in range(0, queue_run.count, queue_run.batch):
        await queue.put([Item(TOPIC, f"tenant/user-{start + number}", body) for number in range(queue_run.batch)])


async def _claim(queue: Queue, queue_run: QueueRun) -> None:
    left = queue_run.count
    while left:
        claim = await queue.claim(TOPIC, GROUP, queue_run.batch, 30.0)
        if claim is None:
            raise TimeoutError(f"{left} of {queue_run.count} items did not come within 30 s")
        left -= len(claim.items)
        await claim.done()


async def run(queue_run: QueueRun) -> None:
    """Warm up, then run the phases when the parent process says so."""
    loop = asyncio.get_running_loop()
    queue = await _open(queue_run)
    try:
        await queue.declare({TOPIC: (GROUP,)})
        warm_up = msgspec.structs.replace(queue_run, count=queue_run.batch)
        await _put(queue, warm_up)
        await _claim(queue, warm_up)
        for phase, work in zip(PHASES, (_put, _claim), strict=True):
            print(phase, flush=True)
            await loop.run_in_executor(None, sys.stdin.readline)
            await work(queue, queue_run)
        print("end", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
    finally:
        await queue.close()


if __name__ == "__main__":
    uvloop.run(run(msgspec.json.decode(sys.stdin.readline(), type=QueueRun)))
