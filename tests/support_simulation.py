"""The seeds of the simulation, run beside all other tests: those wait most of the time, and this takes what is left."""

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

from tidings.simulation.run import Report
from tidings.simulation.sweep import sweep

SEEDS = 3_000 if os.environ.get("CI") else 300
_SWEEP = pytest.StashKey["_Sweep"]()


class _Sweep:
    """A process that runs all seeds, politely, and writes a line for each."""

    def __init__(self) -> None:
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - both are closed in `end`
        self._err: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdout=self._out, stderr=self._err, start_new_session=True
        )

    def reports(self) -> list[Report]:
        """What came of each seed, in order, when all have been run."""
        status = self._process.wait()
        self._err.seek(0)
        assert status == 0, f"the simulation broke off: {self._err.read().decode(errors='replace')}"
        self._out.seek(0)
        return [msgspec.json.decode(line, type=Report) for line in self._out]

    def end(self) -> None:
        """Leave nothing behind."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._out.close()
        self._err.close()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin at once when the seeds are wanted."""
    wanted = any("reports" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        session.config.stash[_SWEEP] = _Sweep()


def pytest_unconfigure(config: pytest.Config) -> None:
    """All tests are over, or somebody has ended them."""
    sweeping = config.stash.get(_SWEEP, None)
    if sweeping is not None:
        sweeping.end()


@pytest.fixture(scope="session")
def reports(request: pytest.FixtureRequest) -> list[Report]:
    """What came of each seed."""
    return request.config.stash[_SWEEP].reports()


def main() -> None:
    """Run the seeds for whoever started this process, for as long as that lives."""
    os.nice(19)
    parent = os.getppid()
    for report in sweep(1, SEEDS, cores=os.cpu_count() or 1):
        if os.getppid() != parent:
            return
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")


if __name__ == "__main__":
    main()
