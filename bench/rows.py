"""What the table has: each row a measurement, taken round after round, and what a round consists of."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from statistics import median

import msgspec
from msgspec import Struct

from bench import processes, workload
from bench.measure import Bench, Figure, System
from bench.queue_alone import PHASES, Errand
from bench.servers import ROOT, python


class Sizes(Struct, frozen=True):
    """How much is sent in one measurement. `slow` divides it for the peer, whose figures settle with fewer."""

    rounds: int
    single: int
    batched: int
    paced: int
    queue: int
    idle: float
    slow: int = 4
    rate: float = 50.0


QUICK = Sizes(rounds=1, single=2_000, batched=10_000, paced=200, queue=30_000, idle=2.0)
FULL = Sizes(rounds=3, single=6_000, batched=40_000, paced=750, queue=100_000, idle=5.0)

ROWS = {
    "accept single": "one in each request, nothing sends",
    "accept batch": f"{workload.BATCH} in each request, nothing sends",
    "flow single": "one in each request, a vendor call each",
    "flow batched": f"{workload.BATCH} in each request, equal contents share vendor calls",
    "flow batch, own calls": f"{workload.BATCH} in each request, a vendor call each",
    "flow at a fixed rate": "one in each request at a steady pace; latency from request to vendor",
    "queue put": "batches of 500, 300 bytes each",
    "queue claim + done": "batches of 500",
    "idle": "CPU share of one core, and memory",
}
"""Row to what it is."""


class Table:
    """All figures of all rounds."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, list[Figure]]] = {row: {} for row in ROWS}

    def add(self, row: str, system: str, figure: Figure) -> None:
        """Note one measurement."""
        self.figures[row].setdefault(system, []).append(figure)

    def medians(self) -> dict[str, dict[str, Figure]]:
        """Row to system to the medians over the rounds, each number by itself."""
        return {row: {name: _median(found) for name, found in by.items()} for row, by in self.figures.items() if by}


def _median(figures: list[Figure]) -> Figure:
    numbers = ("cpu_us", "rate", "p50", "p99", "p999", "idle_share", "memory_mb")
    middle = {name: median(getattr(figure, name) for figure in figures) for name in numbers}
    parts = {name: median(figure.parts.get(name, 0.0) for figure in figures) for name in figures[0].parts}
    memory = {
        name: median(figure.memory_parts.get(name, 0.0) for figure in figures) for name in figures[0].memory_parts
    }
    return Figure(**middle, parts=parts, memory_parts=memory)


def warm_up(bench: Bench, system: System) -> None:
    """Some of everything, unmeasured: connections, prepared statements, caches, compiled templates."""
    system.start_workers()
    for mode in workload.MODES:
        bench.flow(system, mode, workload.BATCH)
    system.stop_workers()


def measure(bench: Bench, system: System, sizes: Sizes, *, peer: bool) -> Iterator[tuple[str, Figure]]:
    """One round of one system."""
    part = sizes.slow if peer else 1
    single = sizes.single // part
    batched = sizes.batched // part // workload.BATCH * workload.BATCH
    yield "accept single", bench.accept(system, workload.SINGLE, single)
    yield "accept batch", bench.accept(system, workload.BATCHED, batched)
    system.start_workers()
    bench.drain(system, single + batched)
    yield "flow single", bench.flow(system, workload.SINGLE, single)
    yield "flow batched", bench.flow(system, workload.BATCHED, batched)
    yield "flow batch, own calls", bench.flow(system, workload.PERSONAL, max(workload.BATCH, batched // 4 // 500 * 500))
    yield "flow at a fixed rate", bench.latency(system, workload.SINGLE, sizes.paced, sizes.rate)
    yield "idle", bench.idle(system, sizes.idle)
    system.stop_workers()


def queue_alone(errand: Errand, servers: Mapping[str, int]) -> Iterator[tuple[str, Figure]]:
    """The queue's two phases; `servers` are counted with the process that uses them."""
    command = python("bench.queue_alone")
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        roots = {**servers, "client": process.pid}

        def say(line: str) -> None:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()

        say(msgspec.json.encode(errand).decode())
        heard = process.stdout.readline().strip()
        for phase, row in zip(PHASES, ("queue put", "queue claim + done"), strict=True):
            if heard != phase:
                raise RuntimeError(f"the queue's process ended before {phase}")
            before, started = processes.cpu_us(roots), time.monotonic()
            say("go")
            heard = process.stdout.readline().strip()
            seconds, after = time.monotonic() - started, processes.cpu_us(roots)
            parts = {name: (used - before[name]) / errand.count for name, used in after.items()}
            yield row, Figure(cpu_us=sum(parts.values()), rate=errand.count / seconds, parts=parts)
        say("end")
