"""The figures as a table for a terminal, and as a JSON file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench.measure import Figure
from bench.overload import Overload

Medians = Mapping[str, Mapping[str, Figure]]
_PEER = "peer"


def table(medians: Medians, facts: Mapping[str, str]) -> str:
    """Format the medians, one line for each row and system."""
    lines = [
        "",
        f"{'':<23}{'':<14}{'CPU-µs':>9}{'peer':>7}{'rate/s':>9}{'p50 ms':>9}{'p99':>8}{'p99.9':>8}",
        f"{'':<23}{'':<14}{'each':>9}{'x':>7}",
    ]
    for row, by_system in medians.items():
        peer = by_system.get(_PEER)
        for place, (name, figure) in enumerate(by_system.items()):
            title = row if place == 0 else ""
            if row == "idle":
                idle = f"{figure.idle_share * 100:.1f} % of a core, {figure.memory_mb:.0f} MB"
                lines.append(f"{title:<23}{name:<14}{idle:>25}")
                continue
            times = f"{peer.cpu_us / figure.cpu_us:.1f}" if peer is not None and figure.cpu_us else ""
            latency = "".join(
                f"{value:>{width}.1f}"
                for value, width in ((figure.p50_ms, 9), (figure.p99_ms, 8), (figure.p999_ms, 8))
                if value
            )
            lines.append(f"{title:<23}{name:<14}{figure.cpu_us:>9.1f}{times:>7}{figure.rate_per_s:>9.0f}{latency}")
    lines += ["", "where the CPU goes (µs each):"]
    for row, by_system in medians.items():
        for name, figure in by_system.items():
            if row != "idle":
                parts = ", ".join(f"{part} {used:.1f}" for part, used in figure.parts.items() if used)
                lines.append(f"  {row:<23}{name:<14}{parts}")
    lines += ["", "; ".join(f"{name} {value}" for name, value in facts.items() if name != "libraries"), ""]
    return "\n".join(lines)


def write(
    folder: Path,
    facts: Mapping[str, str],
    medians: Medians,
    rounds: Mapping[str, Mapping[str, list[Figure]]],
    overloads: Sequence[Overload],
    duration_s: float,
) -> Path:
    """Write the medians and the figures of each round to a new file in `folder`; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    at = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    path = folder / f"{at}.json"
    content = {"at": at, "seconds": round(duration_s, 1), "facts": facts, "medians": medians, "rounds": rounds}
    content["overload"] = overloads
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    return path
