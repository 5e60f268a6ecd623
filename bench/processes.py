"""CPU time and memory of whole process trees, from /proc (proc(5)).

CPU is read from the running totals that the kernel keeps, so nothing is sampled and nothing is missed between two
readings: a process's own time (`utime`, `stime`) and the time of its children that ended and were waited for
(`cutime`, `cstime`). The sum over a tree therefore only grows, also while processes come and go in it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
_SETTLED_SHARE = 0.08
_SETTLE_WINDOW = 0.3


class ProcessGone(RuntimeError):
    """A root of the tree ended while it was measured: the figures of the run are worth nothing."""


class _Stat(Struct, frozen=True):
    parent: int
    cpu_us: int


def _read(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in brackets, may hold anything. A zombie keeps its times until its parent has waited for it.
    fields = text.rpartition(")")[2].split()
    return _Stat(int(fields[1]), sum(int(field) for field in fields[11:15]) * _TICK_US)


def _everyone() -> dict[int, _Stat]:
    everyone: dict[int, _Stat] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _read(int(entry.name))) is not None:
            everyone[int(entry.name)] = stat
    return everyone


def _tree(root: int, everyone: Mapping[int, _Stat]) -> set[int]:
    """`root` and all its living descendants. Raises ProcessGone."""
    if root not in everyone:
        raise ProcessGone(f"process {root} ended during the measurement")
    children: dict[int, list[int]] = {}
    for pid, stat in everyone.items():
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
    """Microseconds of CPU (user and system) that the tree of each root has used so far, by the root's name.

    Raises:
        ProcessGone: one of `roots` is not there.
    """
    everyone = _everyone()
    return {name: sum(everyone[pid].cpu_us for pid in _tree(root, everyone)) for name, root in roots.items()}


def machine_us() -> int:
    """Microseconds of CPU that everything on this machine has used so far (user, nice, system, interrupts)."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    idle = {3, 4}  # idle and waiting for a disk; what a hypervisor took (7) is nobody's here
    return sum(int(field) for place, field in enumerate(fields[:7]) if place not in idle) * _TICK_US


def memory_bytes(roots: Mapping[str, int]) -> dict[str, int]:
    """Proportional set size of each tree: memory that several processes share is counted once in all."""
    everyone = _everyone()
    return {name: sum(_pss(pid) for pid in _tree(root, everyone)) for name, root in roots.items()}


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def settle(roots: Mapping[str, int], deadline: float) -> None:
    """Return once the trees have been quiet (at most 8 % of a core) for 0.6 s.

    Raises:
        TimeoutError: they were still busy after `deadline` seconds.
    """
    until = time.monotonic() + deadline
    quiet = 0
    before, then = sum(cpu_us(roots).values()), time.monotonic()
    while quiet < 2:
        if then > until:
            raise TimeoutError(f"the system was still busy {deadline:.0f} s after the last delivery")
        time.sleep(_SETTLE_WINDOW)
        after, now = sum(cpu_us(roots).values()), time.monotonic()
        share = (after - before) / 1e6 / (now - then)
        quiet = quiet + 1 if share <= _SETTLED_SHARE else 0
        before, then = after, now


def eventually(probe: Callable[[], bool], deadline: float, what: str, pause: float = 0.02) -> None:
    """Return once `probe()` is true.

    Raises:
        TimeoutError: not within `deadline` seconds; the text says `what` was awaited.
    """
    until = time.monotonic() + deadline
    while not probe():
        if time.monotonic() > until:
            raise TimeoutError(f"gave up after {deadline:.0f} s waiting for {what}")
        time.sleep(pause)
