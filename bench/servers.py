"""Starts and stops the processes that a measurement needs; each writes its output to a file in the run's folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.processes import eventually

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether a process accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A child process, in a process group of its own."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        # The kernel ends the child when this process ends, however that happens.
        end_with_parent = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*end_with_parent, *command],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def is_running(self) -> bool:
        """Return True while it runs.

        Raises:
            RuntimeError: it has ended; the text has the end of its output.
        """
        if self._process.poll() is not None:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"{self.log.stem} ended with {self._process.returncode}:\n{tail}")
        return True

    def await_port(self, port: int, deadline_s: float = 30.0) -> None:
        """Wait until something listens on the port."""
        eventually(lambda: self.is_running() and listens(port), deadline_s, f"{self.log.stem} on port {port}")

    def stop(self, deadline_s: float = 15.0) -> None:
        """Send SIGTERM; after `deadline_s` kill the whole process group."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs one of our modules with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


class Redis(Process):
    """A Redis that survives a crash: it writes each command through to an append-only file."""

    def __init__(self, folder: Path, fsync: str = "always") -> None:
        self.port = free_port()
        folder.mkdir(parents=True)
        arguments = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder), "--save", ""]
        super().__init__(
            ["redis-server", *arguments, "--appendonly", "yes", "--appendfsync", fsync], folder / "redis.log"
        )
        self.await_port(self.port)

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"redis://127.0.0.1:{self.port}/0"
