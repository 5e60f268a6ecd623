"""The rows of the table: the measurements that each round takes, and their medians."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from statistics import median

import msgspec
from msgspec import Struct

from bench import processes, workload
from bench.measure import Bench, Figure, System
from bench.queue_alone import PHASES, QueueRun
from bench.servers import ROOT, python


class Sizes(Struct, frozen=True):
    """How many notifications or items each measurement uses; for the slower peer, divided by `peer_divisor`.

    Idling is measured in the first round alone: for `idle_s` seconds, after `rest_s` seconds in which connections
    close.
    """

    rounds: int
    single: int
    batched: int
    paced: int
    queue: int
    rest_s: float
    idle_s: float
    peer_divisor: int = 4
    paced_rate_per_s: float = 50.0


QUICK = Sizes(rounds=1, single=2_000, batched=10_000, paced=200, queue=30_000, rest_s=5.0, idle_s=10.0)
FULL = Sizes(rounds=3, single=6_000, batched=40_000, paced=750, queue=100_000, rest_s=65.0, idle_s=60.0)

ROWS = {
    "accept single": "one in each request, no worker runs",
    "accept batch": f"{workload.BATCH} in each request, no worker runs",
    "flow single": "one in each request, a vendor call each",
    "flow batched": f"{workload.BATCH} in each request, equal contents share vendor calls",
    "flow batch, own calls": f"{workload.BATCH} in each request, a vendor call each",
    "flow batch, SMTP": f"{workload.BATCH} in each request, a mail each to smtp-sink over SMTP without encryption",
    "flow batch, STARTTLS": f"{workload.BATCH} in each request, a mail each to smtp-sink behind stunnel, with STARTTLS",
    "flow at a fixed rate": "one in each request at a steady pace; latency from request to vendor",
    "queue put": "batches of 500, 300 bytes each",
    "queue claim + done": "batches of 500",
    "idle": "CPU share of one core, and memory",
}
"""The rows, with what each measures."""


class Table:
    """The figures of all rounds, by row and system."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, list[Figure]]] = {row: {} for row in ROWS}

    def add(self, row: str, system: str, figure: Figure) -> None:
        """Add one measurement."""
        self.figures[row].setdefault(system, []).append(figure)

    def medians(self) -> dict[str, dict[str, Figure]]:
        """Return the medians over the rounds, of each number separately, by row and system."""
        return {row: {name: _median(found) for name, found in by.items()} for row, by in self.figures.items() if by}


def _median(figures: list[Figure]) -> Figure:
    numbers = ("cpu_us", "rate_per_s", "p50_ms", "p99_ms", "p999_ms", "idle_share", "memory_mb")
    medians = {name: median(getattr(figure, name) for figure in figures) for name in numbers}
    parts = {name: median(figure.parts.get(name, 0.0) for figure in figures) for name in figures[0].parts}
    memory = {
        name: median(figure.memory_parts.get(name, 0.0) for figure in figures) for name in figures[0].memory_parts
    }
    return Figure(**medians, parts=parts, memory_parts=memory)


def warm_up(bench: Bench, system: System) -> None:
    """Send some of everything, unmeasured, to fill caches: connections, prepared statements, compiled templates."""
    system.start_workers()
    for mode in workload.MODES:
        bench.flow(system, mode, workload.BATCH)
    system.stop_workers()


def measure(bench: Bench, system: System, sizes: Sizes, *, peer: bool, first: bool) -> Iterator[tuple[str, Figure]]:
    """Yield the rows of one round of one system; `first`: of the first round."""
    divisor = sizes.peer_divisor if peer else 1
    single = sizes.single // divisor
    batched = sizes.batched // divisor // workload.BATCH * workload.BATCH
    yield "accept single", bench.accept(system, workload.SINGLE, single)
    yield "accept batch", bench.accept(system, workload.BATCHED, batched)
    system.start_workers()
    bench.drain(system, single + batched)
    yield "flow single", bench.flow(system, workload.SINGLE, single)
    yield "flow batched", bench.flow(system, workload.BATCHED, batched)
    yield "flow batch, own calls", bench.flow(system, workload.PERSONAL, max(workload.BATCH, batched // 4 // 500 * 500))
    yield "flow at a fixed rate", bench.latency(system, workload.SINGLE, sizes.paced, sizes.paced_rate_per_s)
    if first:
        yield "idle", bench.idle(system, sizes.rest_s, sizes.idle_s)
    system.stop_workers()


def queue_alone(queue_run: QueueRun, servers: Mapping[str, int]) -> Iterator[tuple[str, Figure]]:
    """Yield the rows of the queue alone. CPU is counted of `servers` and of the process that uses the queue."""
    command = python("bench.queue_alone")
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        roots = {**servers, "client": process.pid}

        def send(line: str) -> None:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()

        send(msgspec.json.encode(queue_run).decode())
        answer = process.stdout.readline().strip()
        for phase, row in zip(PHASES, ("queue put", "queue claim + done"), strict=True):
            if answer != phase:
                raise RuntimeError(f"the process of `bench.queue_alone` ended before the phase {phase}")
            before, started = processes.cpu_us(roots), time.monotonic()
            send("go")
            answer = process.stdout.readline().strip()
            duration_s, after = time.monotonic() - started, processes.cpu_us(roots)
            parts = {name: (used - before[name]) / queue_run.count for name, used in after.items()}
            yield row, Figure(cpu_us=sum(parts.values()), rate_per_s=queue_run.count / duration_s, parts=parts)
        send("end")
