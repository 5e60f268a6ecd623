"""Runs the seeds of the simulation beside all other tests, which wait most of the time and leave CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import IO

import msgspec
import pytest

from support import program
from tidings.simulation.run import Report
from tidings.simulation.seeds import simulate_seeds

SEEDS = 3_000 if os.environ.get("CI") else 300
_SWEEP = pytest.StashKey["_Sweep"]()


class _Sweep:
    """A process that runs all seeds at low priority and writes a line for each."""

    def __init__(self) -> None:
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - both are closed in `end`
        self._err: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        command, environment = program("simulation")
        self._process = subprocess.Popen(
            command, env=environment, stdout=self._out, stderr=self._err, start_new_session=True
        )

    def reports(self) -> list[Report]:
        """The results of all seeds, in order, once all have run."""
        status = self._process.wait()
        self._err.seek(0)
        assert status == 0, f"the simulation broke off: {self._err.read().decode(errors='replace')}"
        self._out.seek(0)
        return [msgspec.json.decode(line, type=Report) for line in self._out]

    def end(self) -> None:
        """End the process and delete its files."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._out.close()
        self._err.close()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start at once if a test needs the seeds."""
    wanted = any("reports" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        session.config.stash[_SWEEP] = _Sweep()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End, because all tests have ended or were aborted."""
    sweeping = config.stash.get(_SWEEP, None)
    if sweeping is not None:
        sweeping.end()


@pytest.fixture(scope="session")
def reports(request: pytest.FixtureRequest) -> list[Report]:
    """The results of all seeds."""
    return request.config.stash[_SWEEP].reports()


def main() -> None:
    """Run the seeds for the parent process, as long as it lives."""
    os.nice(19)
    parent = os.getppid()
    for report in simulate_seeds(1, SEEDS, cores=os.cpu_count() or 1):
        if os.getppid() != parent:
            return
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")


if __name__ == "__main__":
    main()
