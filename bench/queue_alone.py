"""The queue alone, in a process of its own that is counted: put, then claim and done, as a stage does it.

`python -m bench.queue_alone` reads an `Errand` as JSON from the first line of its standard input. Before each phase it
prints a line and waits for a line, so that whoever started it can read the CPU time of everybody in between.
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


class Errand(Struct, frozen=True):
    """What to do. `where` is a DSN, or Kafka's bootstrap servers; `size` the bytes of an item."""

    kind: str
    where: str
    count: int
    batch: int = 500
    size: int = 300


async def _open(errand: Errand) -> Queue:
    if errand.kind == "kafka":
        return await KafkaQueue.open(errand.where, partitions=8, replication=1, prefix="alone.")
    return await PostgresQueue.open(errand.where)


async def _put(queue: Queue, errand: Errand) -> None:
    body = bytes(range(256)) * (errand.size // 256) + bytes(errand.size % 256)
    for start in range(0, errand.count, errand.batch):
        await queue.put([Item(TOPIC, f"tenant/user-{start + number}", body) for number in range(errand.batch)])


async def _claim(queue: Queue, errand: Errand) -> None:
    left = errand.count
    while left:
        claim = await queue.claim(TOPIC, GROUP, errand.batch, 30.0)
        if claim is None:
            raise TimeoutError(f"{left} items never came")
        left -= len(claim.items)
        await claim.done()


async def run(errand: Errand) -> None:
    """Go through the phases."""
    loop = asyncio.get_running_loop()
    queue = await _open(errand)
    try:
        await queue.declare({TOPIC: (GROUP,)})
        warm = msgspec.structs.replace(errand, count=errand.batch)
        await _put(queue, warm)
        await _claim(queue, warm)
        for phase, work in zip(PHASES, (_put, _claim), strict=True):
            print(phase, flush=True)
            await loop.run_in_executor(None, sys.stdin.readline)
            await work(queue, errand)
        print("end", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
    finally:
        await queue.close()


if __name__ == "__main__":
    uvloop.run(run(msgspec.json.decode(sys.stdin.readline(), type=Errand)))
