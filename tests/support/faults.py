"""The options of the tests that break things, and their reports at the end of a run.

`--minutes 10` makes the storm long, `--seed 7` repeats its faults. TIDINGS_FAULT_REPORT names a file for the figures.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from support.judge import Verdict, write

SHORT = 0.5
"""Minutes that the storm lasts by default, as in an ordinary test run. Each fault comes once."""
SHORT_SEED = 7
SPARE = 1_200
"""Seconds for everything around a storm: starting, settling, judging."""
REPORT = "TIDINGS_FAULT_REPORT"

_reports: dict[str, Verdict] = {}
_headings: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options."""
    group = parser.getgroup("faults")
    group.addoption("--minutes", type=float, default=SHORT, help="how long the storm of faults lasts, on each queue")
    group.addoption("--seed", type=int, default=None, help="which storm: the same one has the same plan of faults")


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line("markers", "storm: lasts as long as --minutes says")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Set the storm's time limit."""
    for item in items:
        if item.get_closest_marker("storm") is not None:
            item.add_marker(pytest.mark.timeout(config.getoption("minutes") * 60 + SPARE))


@pytest.fixture
def minutes(request: pytest.FixtureRequest) -> float:
    """The length of the storm."""
    asked: float = request.config.getoption("minutes")
    return asked


@pytest.fixture
def seed(request: pytest.FixtureRequest, minutes: float) -> int:
    """The seed of the storm. A long storm gets another one each time."""
    asked: int | None = request.config.getoption("seed")
    if asked is not None:
        return asked
    return SHORT_SEED if minutes <= SHORT else random.SystemRandom().randrange(1_000_000)


def tell(name: str, heading: str, verdict: Verdict) -> None:
    """Show this report after the tests, and write it to the report file."""
    _reports[name], _headings[name] = verdict, heading
    if file := os.environ.get(REPORT):
        write(Path(file), _reports)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the reports."""
    for name, verdict in _reports.items():
        terminalreporter.section(f"faults: {name}")
        for line in (_headings[name], *verdict.lines()):
            terminalreporter.line(line)
