"""The rules hold under every seed; and the simulation itself is what it says: repeatable, and watched from outside."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tidings.config import Delivering
from tidings.simulation.run import simulate
from tidings.simulation.sweep import sweep

SEEDS = 10_000 if os.environ.get("CI") else 300
MOST_LIMITS = 1 + SEEDS // 2_000
"""Seeds that may meet a known limit (docs/reliability.md, "A process that freezes")."""
SAME_AGAIN = "from tidings.simulation.run import simulate\nprint([simulate(seed).digest for seed in range(20, 26)])"


@pytest.mark.timeout(1800)
def test_every_rule_is_kept() -> None:
    broken = []
    limited = []
    days = 0.0
    seeds = []
    for report in sweep(1, SEEDS, cores=os.cpu_count() or 1):
        days += report.seconds / 86_400
        seeds.append(report.seed)
        if report.limits:
            limited.append(f"tidings simulate --seed {report.seed}")
        if report.violations:
            broken.append(f"tidings simulate --seed {report.seed}\n    {report.violations[0]}")
    assert len(limited) <= MOST_LIMITS, limited
    assert not broken, "\n".join([f"{len(broken)} of {SEEDS} seeds broke a rule:", *broken[:20]])
    assert seeds == list(range(1, SEEDS + 1))
    assert days > SEEDS / 1000  # they did run


def test_a_seed_does_the_same_in_every_process() -> None:
    """Neither the order of hashes nor anything else of a process decides."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", SAME_AGAIN],
            env={"PYTHONHASHSEED": hash_seed, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "31337")
    }
    assert len(digests) == 1


def test_tracing_changes_nothing_and_tells_what_happened() -> None:
    silent, told = simulate(7), simulate(7, traced=True)
    assert silent.digest == told.digest
    assert not silent.trace
    assert any("is offered" in line for line in told.trace)


def test_other_settings_are_another_run() -> None:
    assert simulate(3).digest != simulate(3, Delivering(attempts=7, lease=33.0)).digest
