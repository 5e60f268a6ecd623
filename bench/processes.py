"""CPU time and memory of whole process trees, from /proc (proc(5)).

CPU comes from totals that the kernel keeps, so nothing is sampled and nothing is missed between two readings: a
process's own time (`utime`, `stime`), and the time of its ended children that it has waited for (`cutime`, `cstime`).
So the sum over a tree never falls, even while processes start and end in it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Self

from msgspec import Struct

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
_SETTLED_SHARE = 0.08
_SETTLE_WINDOW_S = 0.3


class ProcessGone(RuntimeError):
    """The root of a tree ended while it was measured, so the figures of the run are invalid."""


class _Stat(Struct, frozen=True):
    parent: int
    cpu_us: int


def _read(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in brackets, may contain spaces and brackets. A zombie keeps its times until its parent waits for it.
    fields = text.rpartition(")")[2].split()
    return _Stat(int(fields[1]), sum(int(field) for field in fields[11:15]) * _TICK_US)


def _all_processes() -> dict[int, _Stat]:
    stats: dict[int, _Stat] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _read(int(entry.name))) is not None:
            stats[int(entry.name)] = stat
    return stats


def _tree(root: int, stats: Mapping[int, _Stat]) -> set[int]:
    """Return `root` and all its living descendants. Raises ProcessGone."""
    if root not in stats:
        raise ProcessGone(f"process {root} ended during the measurement")
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return found


def cpu_us(roots: Mapping[str, int]) -> dict[str, int]:
    """Return the microseconds of CPU (user and system) that the tree of each root has used so far, by the root's name.

    Raises:
        ProcessGone: one of `roots` has ended.
    """
    stats = _all_processes()
    return {name: sum(stats[pid].cpu_us for pid in _tree(root, stats)) for name, root in roots.items()}


def machine_us() -> int:
    """Return the microseconds of CPU that the whole machine has used so far (user, nice, system, interrupts)."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    idle = {3, 4}  # idle, and waiting for a disk; time that the hypervisor took (7) is left out too
    return sum(int(field) for place, field in enumerate(fields[:7]) if place not in idle) * _TICK_US


def memory_bytes(roots: Mapping[str, int]) -> dict[str, int]:
    """Return the proportional set size of each tree: memory that several processes share counts once in total."""
    stats = _all_processes()
    return {name: sum(_pss(pid) for pid in _tree(root, stats)) for name, root in roots.items()}


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def settle(roots: Mapping[str, int], deadline_s: float) -> None:
    """Wait until the trees have been quiet (at most 8 % of a core) for 0.6 s.

    Raises:
        TimeoutError: they were still busy after `deadline_s`.
    """
    until = time.monotonic() + deadline_s
    quiet = 0
    before, then = sum(cpu_us(roots).values()), time.monotonic()
    while quiet < 2:
        if then > until:
            raise TimeoutError(f"the system was still busy {deadline_s:.0f} s after the last delivery")
        time.sleep(_SETTLE_WINDOW_S)
        after, now = sum(cpu_us(roots).values()), time.monotonic()
        share = (after - before) / 1e6 / (now - then)
        quiet = quiet + 1 if share <= _SETTLED_SHARE else 0
        before, then = after, now


def eventually(probe: Callable[[], bool], deadline_s: float, what: str, pause_s: float = 0.02) -> None:
    """Wait until `probe()` is true.

    Raises:
        TimeoutError: it was not true within `deadline_s`; the text names `what` was awaited.
    """
    until = time.monotonic() + deadline_s
    while not probe():
        if time.monotonic() > until:
            raise TimeoutError(f"gave up after {deadline_s:.0f} s of waiting for {what}")
        time.sleep(pause_s)


class _Sample(Struct, frozen=True):
    at_ns: int
    memory_mb: dict[str, float]
    cpu_s: dict[str, float]


class Watch:
    """Samples once a second the memory and CPU of the processes `roots`, and the CPU of `beside` and the machine."""

    def __init__(self, roots: Mapping[str, int], beside: Mapping[str, int]) -> None:
        self._roots = dict(roots)
        self._beside = dict(beside)
        self._samples: list[_Sample] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def most_mb(self, begin_ns: int, end_ns: int) -> dict[str, float]:
        """Return the most memory of each part between two instants of the wall clock."""
        samples = self._between(begin_ns, end_ns)
        return {part: max(sample.memory_mb[part] for sample in samples) for part in self._roots}

    def growth_mb(self, begin_ns: int, end_ns: int) -> dict[str, float]:
        """Return by how much the median memory of the last quarter exceeds that of the first."""
        samples = self._between(begin_ns, end_ns)
        quarter = max(1, len(samples) // 4)
        return {
            part: median(sample.memory_mb[part] for sample in samples[-quarter:])
            - median(sample.memory_mb[part] for sample in samples[:quarter])
            for part in self._roots
        }

    def cores(self, begin_ns: int, end_ns: int) -> dict[str, float]:
        """Return how many cores each part used; `others` is the rest of the machine."""
        first, *_, last = self._between(begin_ns, end_ns)
        span_s = (last.at_ns - first.at_ns) / 1e9
        return {part: (last.cpu_s[part] - first.cpu_s[part]) / span_s for part in last.cpu_s}

    def _between(self, begin_ns: int, end_ns: int) -> list[_Sample]:
        return [sample for sample in self._samples if begin_ns <= sample.at_ns < end_ns]

    def _run(self) -> None:
        while not self._over.wait(1.0):
            memory_mb = {part: size / 1e6 for part, size in memory_bytes(self._roots).items()}
            try:
                used_us = cpu_us(self._roots | self._beside)
            except ProcessGone:
                return  # the load generator has ended
            cpu_s = {part: microseconds / 1e6 for part, microseconds in used_us.items()}
            cpu_s["others"] = machine_us() / 1e6 - sum(cpu_s.values())
            self._samples.append(_Sample(time.time_ns(), memory_mb, cpu_s))
