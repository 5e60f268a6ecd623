"""The data folder: who uses it, and what `up` leaves in it for the commands that talk to it."""

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

LEAST_FREE = 200 * 1024 * 1024


class Running(Struct, frozen=True):
    """What runs on a data folder: the process of `up`, where its parts are found, and their processes by name.

    `real`: the channels whose deliveries leave for the outside world, such as `email by smtp`. `restarts` counts the
    restarts that have ended (None: a version that cannot restart), `restarting` is the role that is being replaced now,
    and `failure` says why the last restart was given up. `operations_url` is where /readyz and /metrics answer.
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
    """`path` is made when it does not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.logs = self.path / "logs"
        self.metrics = self.path / "metrics"
        self._running = self.path / "running.json"
        self._lock = self.path / "up.lock"
        self._wanted = self.path / "restart.json"
        self.demo_key_path = self.path / DEMO_KEY_FILE

    def prepare(self) -> None:
        """Make sure that it can be written and has room.

        Raises:
            CannotGoOn: it cannot, or has not.
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
        if free < LEAST_FREE:
            raise CannotGoOn(
                f"only {free // 2**20} MB are free on the disk of {self.path}, and at least {LEAST_FREE // 2**20} MB "
                "are needed. Free some, or choose a folder on another disk with --data-dir."
            )

    def _close_to_others(self) -> None:
        """Nobody else may enter: addresses and contents lie below. PostgreSQL's own user may pass."""
        status = self.path.stat()
        if status.st_uid == os.geteuid():
            self.path.chmod(status.st_mode & 0o710)

    def fresh_metrics(self) -> None:
        """Make the folder in which the processes count together, empty: counters begin anew with each start."""
        shutil.rmtree(self.metrics, ignore_errors=True)
        self.metrics.mkdir()

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Hold the folder for this process; the lock goes with the process, however it ends.

        Raises:
            CannotGoOn: another process holds it.
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
        """Say what runs here. Readable by this user alone: the DSN has a password."""
        write_private(self._running, msgspec.json.encode(running))

    def ask_for(self, roles: Sequence[str]) -> None:
        """Leave word of what is to be restarted."""
        write_private(self._wanted, msgspec.json.encode(roles))

    def asked_for(self) -> list[str]:
        """What is to be restarted, as somebody left word; all of it when nobody did. The word is used up."""
        try:
            wanted = msgspec.json.decode(self._wanted.read_bytes(), type=list[str])
        except (OSError, msgspec.MsgspecError):
            return []
        self._wanted.unlink(missing_ok=True)
        return wanted

    def running(self) -> Running | None:
        """What runs here now; None when nothing does."""
        try:
            with self._lock.open("r") as lock:
                # Whoever can lock it knows that nobody runs: what a killed process left is not believed.
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
        except BlockingIOError:
            return self._read()
        except OSError:
            return None

    @property
    def demo_key(self) -> str | None:
        """The secret of the key that the first start made, if it is still here."""
        try:
            return self.demo_key_path.read_text(encoding="ascii").strip() or None
        except OSError:
            return None

    def keep_demo_key(self, secret: str) -> None:
        """Keep it for later starts and for client commands, readable by this user alone."""
        write_private(self.demo_key_path, secret.encode())

    def _read(self) -> Running | None:
        try:
            return msgspec.json.decode(self._running.read_bytes(), type=Running)
        except (OSError, msgspec.MsgspecError):
            return None


def write_private(path: Path, body: bytes) -> None:
    """Replace the file at `path`, whole or not at all; mode 0600 from its first moment."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
    fresh.replace(path)
