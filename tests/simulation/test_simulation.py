"""All rules hold in every seed, and the simulation is repeatable."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.simulation import SEEDS
from tidings.sections import Delivering
from tidings.simulation.run import Report, simulate

MOST_LIMITS = -(-SEEDS // 5_000)
"""How many seeds may meet a known limit (docs/reliability.md, "A recorder that is far behind")."""
SAME_AGAIN = "from tidings.simulation.run import simulate\nprint([simulate(seed).digest for seed in range(20, 26)])"


@pytest.mark.timeout(1800)
def test_every_rule_is_kept(reports: list[Report]) -> None:
    assert [report.seed for report in reports] == list(range(1, SEEDS + 1))
    assert sum(report.seconds for report in reports) / 86_400 > SEEDS / 1000, (
        "too few virtual days: the seeds did not run"
    )
    limited = [f"tidings simulate --seed {report.seed}" for report in reports if report.limits]
    assert len(limited) <= MOST_LIMITS, limited
    broken = [_described(report) for report in reports if report.violations]
    assert not broken, "\n".join([f"{len(broken)} of {SEEDS} seeds broke a rule:", *broken[:20]])


def _described(report: Report) -> str:
    return f"tidings simulate --seed {report.seed}\n    {report.violations[0]}"


def test_a_seed_does_the_same_in_every_process() -> None:
    """The result depends neither on the hash seed nor on anything else of the process."""
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


def test_a_trace_changes_nothing_and_lists_the_offers() -> None:
    untraced, traced = simulate(7), simulate(7, traced=True)
    assert untraced.digest == traced.digest
    assert not untraced.trace
    assert any("is offered" in line for line in traced.trace)


def test_other_settings_give_another_run() -> None:
    assert simulate(3).digest != simulate(3, Delivering(attempts=7, lease=33.0)).digest
