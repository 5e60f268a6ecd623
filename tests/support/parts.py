"""Parts that a machine may lack. A test that needs a missing part is skipped and listed; in CI it fails.

`@needs("kafka")` on a test, or `require("kafka")` in a fixture.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".cache"
"""Where tests keep what they download; ignored by git."""

KAFKA_JARS = CACHE / "kafka" / "libs"
KAFKA_POM = Path(__file__).resolve().parent.parent / "kafka" / "pom.xml"
"""Names the broker's version. `KAFKA_JARS` has a copy of the one that its jars came from."""


def has_kafka_jars() -> bool:
    """Whether `KAFKA_JARS` has the jars of the version that `KAFKA_POM` names."""
    came_from = KAFKA_JARS / KAFKA_POM.name
    return came_from.exists() and came_from.read_text() == KAFKA_POM.read_text()


def _kafka() -> str | None:
    if shutil.which("java") is None:
        return "no `java` on the PATH: install Java 17 or later"
    if not has_kafka_jars() and shutil.which("mvn") is None:
        return "no `mvn` on the PATH to download the broker with: install Maven 3"
    return None


def chromium_executable() -> str | None:
    """The browser's path, or None."""
    named = os.environ.get("TIDINGS_TEST_CHROMIUM")
    candidates = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next((path for name in candidates if (path := shutil.which(name))), None)


def _chromium() -> str | None:
    if importlib.util.find_spec("playwright") is None:
        return "the package playwright is not installed"
    if chromium_executable() is None:
        return "no `chromium` on the PATH: install it, or name it in TIDINGS_TEST_CHROMIUM"
    return None


PARTS: dict[str, Callable[[], str | None]] = {"kafka": _kafka, "chromium": _chromium}
"""For each part a check that returns why it is missing here, or None."""

_missed: dict[str, int] = {}


@cache
def missing(part: str) -> str | None:
    """Why `part` is missing on this machine; None if it is there."""
    return PARTS[part]()


def require(part: str) -> None:
    """Skip the running test if `part` is missing; in CI fail it."""
    reason = missing(part)
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{part} is missing, and CI must have every part: {reason}", pytrace=False)
    _missed[part] = _missed.get(part, 0) + 1
    pytest.skip(f"{part}: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(part, ...): parts that a machine may lack; see tests/support/parts.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for part in mark.args:
            require(part)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _missed:
        return
    terminalreporter.section("not tested: parts that this machine lacks")
    for part, count in sorted(_missed.items()):
        terminalreporter.line(f"{part}: {count} tests not run; {missing(part)}")
