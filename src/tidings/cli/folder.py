"""The data folder: which process uses it, and the files by which `tidings up` and other commands communicate."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from tidings.cli.plain import CannotGoOn
from tidings.config import DEMO_KEY_FILE

LEAST_FREE_BYTES = 200 * 1024 * 1024


class Running(Struct, frozen=True):
    """The `tidings up` that runs on a data folder.

    - `pid`: its process; `children`: the processes of its roles.
    - `real`: the channels that are sent for real, such as `email by smtp`.
    - `restarts`: how many restarts have ended; None: this version cannot restart.
    - `restarting`: the role that is being replaced now; `failure`: why the last restart was given up.
    - `operations_url`: the URL of /readyz and /metrics.
    """

    pid: int
    api_url: str
    sandbox_url: str | None
    dsn: str
    children: dict[str, int] = {}
    real: tuple[str, ...] = ()
    restarts: int | None = None
    restarting: str = ""
    failure: str = ""
    operations_url: str = ""


class DataFolder:
    """The data folder at `path`; `prepare` creates it."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.logs = self.path / "logs"
        self.metrics = self.path / "metrics"
        self._running = self.path / "running.json"
        self._lock = self.path / "up.lock"
        self._restart_request = self.path / "restart.json"
        self.demo_key_path = self.path / DEMO_KEY_FILE

    def prepare(self) -> None:
        """Create the folder, and check that it can be written and has free space.

        Raises:
            CannotGoOn: it cannot be written, or the disk is nearly full.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._close_to_others()
            self.logs.mkdir(exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            raise CannotGoOn(
                f"the data folder {self.path} cannot be written ({error.strerror}). Give this user access to it, or "
                "choose another with --data-dir."
            ) from error
        free = shutil.disk_usage(self.path).free
        if free < LEAST_FREE_BYTES:
            raise CannotGoOn(
                f"only {free // 2**20} MB are free on the disk of {self.path}, but at least "
                f"{LEAST_FREE_BYTES // 2**20} MB are needed. Free some, or choose a folder on another disk with "
                "--data-dir."
            )

    def _close_to_others(self) -> None:
        """Forbid other users to enter: the folder holds addresses and contents. PostgreSQL's own user may pass."""
        status = self.path.stat()
        if status.st_uid == os.geteuid():
            self.path.chmod(status.st_mode & 0o710)

    def fresh_metrics(self) -> None:
        """Create an empty folder for the processes' common counters, which start at zero with each start."""
        shutil.rmtree(self.metrics, ignore_errors=True)
        self.metrics.mkdir()

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Lock the folder for this process. The lock ends with the process, however it dies.

        Raises:
            CannotGoOn: another process has locked it.
        """
        with self._lock.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                running = self._read()
                who = f"process {running.pid}, {running.api_url}" if running else "it is starting or stopping"
                raise CannotGoOn(
                    f"Tidings already runs on the data folder {self.path} ({who}). Use that one, stop it, or choose "
                    "another folder with --data-dir (and --port 0)."
                ) from error
            self._running.unlink(missing_ok=True)
            try:
                yield
            finally:
                self._running.unlink(missing_ok=True)

    def announce(self, running: Running) -> None:
        """Write down what runs here. Only this user can read it: the DSN has a password."""
        write_private(self._running, msgspec.json.encode(running))

    def request_restart(self, roles: Sequence[str]) -> None:
        """Write down which roles are to be restarted; none means all."""
        write_private(self._restart_request, msgspec.json.encode(roles))

    def take_restart_request(self) -> list[str]:
        """The roles that are to be restarted (empty: all), and forget them."""
        try:
            roles = msgspec.json.decode(self._restart_request.read_bytes(), type=list[str])
        except (OSError, msgspec.MsgspecError):
            return []
        self._restart_request.unlink(missing_ok=True)
        return roles

    def running(self) -> Running | None:
        """The `tidings up` that runs here now; None if none does."""
        try:
            with self._lock.open("r") as lock:
                # If the lock can be taken, nothing runs, even if a killed process left its running.json.
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
        except BlockingIOError:
            return self._read()
        except OSError:
            return None

    @property
    def demo_key(self) -> str | None:
        """The secret of the demo tenant's key, which the first start wrote; None if it is not there any more."""
        try:
            return self.demo_key_path.read_text(encoding="ascii").strip() or None
        except OSError:
            return None

    def keep_demo_key(self, secret: str) -> None:
        """Write the secret for later starts and for client commands. Only this user can read it."""
        write_private(self.demo_key_path, secret.encode())

    def _read(self) -> Running | None:
        try:
            return msgspec.json.decode(self._running.read_bytes(), type=Running)
        except (OSError, msgspec.MsgspecError):
            return None


def write_private(path: Path, body: bytes) -> None:
    """Replace the file at `path` atomically. Its mode is 0600 from the beginning."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
    temporary.replace(path)
