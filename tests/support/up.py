"""`tidings up` as a newcomer runs it: the real command and its real processes, in a folder of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support import eventually
from support.postgres import open_folder

TIDINGS = (sys.executable, "-m", "tidings.cli")
STARTED_WITHIN = 90
ENDED_WITHIN = 60


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}


def parent_of(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    state, parent = stat.rpartition(")")[2].split()[:2]
    return 0 if state in {"Z", "X"} else int(parent)


def family_of(pid: int) -> set[int]:
    """The process and all its descendants."""
    parents = {int(entry.name): parent_of(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if parent_of(pid)}


class Up:
    """One run of `tidings up` on a data folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.output = folder / "output"
        command = [*TIDINGS, "up", "--data-dir", str(folder / "data"), *(arguments or ("--port", "0"))]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=folder, env=environment(), start_new_session=True
            )
        self.family: set[int] = set()

    @property
    def text(self) -> str:
        return self.output.read_text()

    async def ready(self) -> Up:
        """Wait for the greeting."""

        def greeted() -> bool:
            assert self.process.poll() is None, self.text
            return "Ctrl-C stops everything" in self.text

        await eventually(greeted, STARTED_WITHIN, 0.1)
        self.family = family_of(self.process.pid)
        assert len(self.family) > 5
        return self

    async def ended(self) -> int:
        """Wait until the process and its descendants have ended. Returns its exit code."""
        await eventually(lambda: self.process.poll() is not None, ENDED_WITHIN)
        await eventually(lambda: not alive(self.family), ENDED_WITHIN)
        assert self.process.returncode is not None
        return self.process.returncode

    def running(self) -> dict[str, object]:
        """The process's notes about itself for other commands."""
        found: dict[str, object] = json.loads((self.folder / "data" / "running.json").read_bytes())
        return found

    def end(self) -> None:
        """End everything that is left of the run."""
        for pid in self.family | family_of(self.process.pid):
            if alive({pid}):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    async def tidings(self, *arguments: str) -> str:
        """The output of another command on this data folder."""
        result = await self._command(arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    async def fails(self, *arguments: str) -> str:
        """The error output of another command that fails."""
        result = await self._command(arguments)
        assert result.returncode in {1, 2}, result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        return result.stderr

    async def _command(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        command = [*TIDINGS, *arguments, "--data-dir", str(self.folder / "data")]
        return await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, cwd=self.folder, env=environment(), check=False
        )

    async def paste(self) -> str:
        """Run the printed command in a shell, as a newcomer does. Returns the id in the answer."""
        (line,) = [line for line in self.text.splitlines() if line.startswith("curl ")]
        result = await asyncio.to_thread(
            subprocess.run, ["/bin/sh", "-c", line], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        answer: dict[str, str] = json.loads(result.stdout)
        assert "id" in answer, answer
        return answer["id"]

    async def rested(self, id: str) -> dict[str, object]:
        """The notification once it rests."""
        view: dict[str, object] = json.loads(await self.tidings("status", id, "--follow", "--json"))
        return view


@pytest.fixture
def up_folder() -> Iterator[Path]:
    made = open_folder("tidings-up-")
    yield made
    shutil.rmtree(made)


@pytest.fixture
def ups() -> Iterator[list[Up]]:
    runs: list[Up] = []
    yield runs
    for run in runs:
        run.end()


async def start(started: list[Up], folder: Path) -> Up:
    run = Up(folder)
    started.append(run)
    return await run.ready()
