"""The data folder of the bundled PostgreSQL. One supervisor locks it and creates what is missing."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import structlog

from tidings.backends.postgres import binaries
from tidings.backends.postgres.binaries import Account, Binaries, Source
from tidings.model.errors import SettingsError

NAME = "tidings"
"""The name of the role and of the database that Tidings uses."""

FAST_WITHIN_S = 20.0
"""Seconds that a fast shutdown may take."""

_HOME = "tidings-postgres-"
_BELONGS_TO = "belongs-to"
_LEAST_FREE_BYTES = 200 * 1024 * 1024
_LARGEST_LOG_BYTES = 16 * 1024 * 1024
_TICK_S = 0.02

_log = structlog.get_logger(__name__)


class Folder:
    """The files of one server.

    `path` holds the folder `postgres` (the server's own: `data/`, the socket, copied binaries), the password, the log
    and the lock. If this process is root and the server's unprivileged user cannot reach `path`, `postgres` is a link
    to a folder that this user can reach. `found` replaces the search for binaries, and `source` limits it. `account`
    and `password` are known after `open`.
    """

    def __init__(self, path: Path, found: Sequence[Binaries] | None = None, source: Source | None = None) -> None:
        self.path = path.resolve()
        self._source = source
        self.log_path = self.path / "postgres.log"
        self.account = Account()
        self.password = ""
        self._found = found
        self._binaries: Binaries | None = None
        self._lock: IO[str] | None = None

    @property
    def home(self) -> Path:
        """The folder that belongs to the server's own user."""
        return (self.path / "postgres").resolve()

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.home / "data"

    def open(self) -> None:
        """Lock the folder, end a server that an earlier supervisor left running on it, and create what is missing.

        Raises:
            SettingsError: the folder cannot be used. The text says why and what to do.
        """
        try:
            self._prepare()
        except OSError as error:
            self._give_up_empty_home()
            self.close()
            raise SettingsError(
                f"PostgreSQL's files in {self.path} cannot be written ({error.strerror or error}). Give this user "
                "access to the folder, free space on its disk, or choose another with --data-dir."
            ) from error
        except BaseException:
            if self._lock is not None:
                self._give_up_empty_home()
            self.close()
            raise

    def close(self) -> None:
        """Unlock the folder for another supervisor."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def choice(self) -> Binaries:
        """The PostgreSQL for this folder: of the version that created it, else the best. Raises SettingsError."""
        made_by = self.data / "PG_VERSION"
        major = int(made_by.read_text().split(".")[0]) if made_by.exists() else None
        found = binaries.available(self._source) if self._found is None else self._found
        return binaries.choose(major, found, self._source)

    def program(self, name: str) -> Path:
        """The path of one of PostgreSQL's programs, of the version that created the data folder."""
        if self._binaries is None:
            raise SettingsError("PostgreSQL was not looked for yet")
        return self._binaries.folder / name

    def _prepare(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        free = shutil.disk_usage(self.path).free
        if free < _LEAST_FREE_BYTES:
            raise SettingsError(
                f"only {free // 2**20} MB are free on the disk of {self.path}; PostgreSQL needs at least "
                f"{_LEAST_FREE_BYTES // 2**20} MB. Free some, or choose another folder with --data-dir."
            )
        self.account = binaries.account(self.data)
        self._make_home()
        self._binaries = binaries.within_reach(self.choice(), self.account, self.home)
        self._stop_leftover()
        self._make_data()
        if self.log_path.exists() and self.log_path.stat().st_size > _LARGEST_LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))

    def _take_lock(self) -> None:
        self._lock = (self.path / "postgres.lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            self._lock = None
            raise SettingsError(
                f"another Tidings (process {owner}) runs on the data folder {self.path}. Stop it first, or choose "
                "another folder with --data-dir."
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _make_home(self) -> None:
        link = self.path / "postgres"
        if link.exists():
            self._let_through()
            if not self.account.reaches(link.resolve()):
                raise SettingsError(
                    f"PostgreSQL cannot run as root, and its user cannot enter {link.resolve()}. Make the folders "
                    "above it passable (chmod o+x), or choose another folder with --data-dir."
                )
            return
        self._let_through()
        if self.account.reaches(self.path):
            link.mkdir(mode=0o700)
            self.account.owns(link)
            return
        # Root's folders are closed to others: put the data where the server's user can reach it, and link there.
        temporary = Path(tempfile.gettempdir()).resolve()
        parent = temporary if self.path.is_relative_to(temporary) else Path("/var/lib/tidings")
        if not parent.exists():
            parent.mkdir(parents=True)
            parent.chmod(0o711)
        for left in self._left_behind(parent):
            _log.warning("postgres_folder_left_behind", folder=str(left), todo="delete it, if nothing in it is missed")
        home = Path(tempfile.mkdtemp(prefix=_HOME, dir=parent))
        (home / _BELONGS_TO).write_text(str(link))
        self.account.owns(home)
        link.unlink(missing_ok=True)
        link.symlink_to(home)
        _log.info("postgres_folder", folder=str(home), why=f"{self.path} is closed to PostgreSQL's user")

    def _let_through(self) -> None:
        """Let the server's own user, and nobody else, pass through this folder, without listing its contents."""
        if self.account.gid is not None and not self.account.may_enter(self.path):
            os.chown(self.path, -1, self.account.gid)
            self.path.chmod(0o710)

    def _left_behind(self, parent: Path) -> Iterator[Path]:
        """Folders that belonged to a data folder of this path that has since been deleted."""
        for note in parent.glob(f"{_HOME}*/{_BELONGS_TO}"):
            if note.read_text() == str(self.path / "postgres"):
                yield note.parent

    def _give_up_empty_home(self) -> None:
        """Remove the linked folder if no data was ever created in it, so that a failed start leaves nothing behind."""
        link = self.path / "postgres"
        if not link.is_symlink() or self.data.exists():
            return
        home = link.resolve()
        link.unlink()
        if home.name.startswith(_HOME):
            shutil.rmtree(home)

    def _make_data(self) -> None:
        secret = self.path / "postgres.password"
        known = secret.read_text().strip() if secret.exists() else ""
        self.password = known or secrets.token_urlsafe(24)
        if not self.data.exists():
            self._initialise()
        elif not known:
            self._single(self.data, f"ALTER ROLE {NAME} PASSWORD '{self.password}'")
        if not known:
            with open(os.open(secret, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123 - born private
                file.write(self.password)

    def _initialise(self) -> None:
        # Created under another name and then renamed, so that an unfinished folder is never taken for data.
        fresh = self.home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        password = self.home / "password"
        password.touch(0o600)
        password.write_text(self.password)
        self.account.owns(password)
        try:
            self._run(
                "initdb", "-D", fresh, "--username", NAME, "--pwfile", password, "--auth=scram-sha-256",
                "--encoding=UTF8", "--locale=C", "--data-checksums",
            )  # fmt: skip
        finally:
            password.unlink()
        self._single(fresh, f"CREATE DATABASE {NAME}")
        fresh.rename(self.data)

    def _single(self, data: Path, statement: str) -> None:
        self._run("postgres", "--single", "-j", "-D", data, "postgres", text=statement + ";\n\n")

    def _run(self, program: str, *arguments: str | Path, text: str = "") -> None:
        result = self.account.run([self.program(program), *arguments], self.home, text)
        output = result.stdout + result.stderr
        # In single-user mode a failed statement prints an error, but the exit code is still 0.
        if result.returncode == 0 and "ERROR:" not in output:
            return
        raise explain(output, self.log_path)

    def _stop_leftover(self) -> None:
        """End a server that an earlier supervisor left on this data folder. We hold the lock, so nobody uses it."""
        pid = owner_of(self.data)
        for wait, how in ((FAST_WITHIN_S, signal.SIGINT), (5.0, signal.SIGQUIT), (5.0, signal.SIGKILL)):
            if not pid or owner_of(self.data) != pid:
                return
            os.kill(pid, how)
            deadline = time.monotonic() + wait
            while owner_of(self.data) == pid and time.monotonic() < deadline:
                time.sleep(_TICK_S)


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_ready(data: Path, pid: int) -> bool:
    """True if the server `pid` on this data folder takes connections."""
    lines = _pid_file(data)
    # The eighth line is the server's state.
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def owner_of(data: Path) -> int:
    """The process id of a server that is alive on this data folder; 0 if there is none.

    The id in `postmaster.pid` may belong to another program by now, so check its working folder (Linux) or name.
    """
    lines = _pid_file(data)
    if not lines or not lines[0].isdecimal():
        return 0
    pid = int(lines[0])
    proc = Path("/proc") / str(pid)
    if Path("/proc/self").exists():
        try:
            return pid if (proc / "cwd").resolve(strict=True) == data.resolve() else 0
        except OSError:
            return 0
    answer = subprocess.run(["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603
    return pid if "postgres" in answer.stdout else 0


def port_is_taken(output: str) -> bool:
    """True if PostgreSQL's output says that its port is in use."""
    return "could not bind" in output or "Address already in use" in output


def explain(output: str, log: Path, port: int = 0) -> SettingsError:
    """An error that says why PostgreSQL failed, by its output, and what to do."""
    if "No space left on device" in output:
        return SettingsError(
            "PostgreSQL found no space left on the disk. Free some, or choose another folder with --data-dir."
        )
    if port_is_taken(output):
        return SettingsError(
            f"PostgreSQL could not listen on 127.0.0.1:{port}: another program does. Stop it, or use another port."
        )
    lines = [line for line in output.splitlines() if line.strip()]
    return SettingsError("PostgreSQL does not start. It said:\n" + "\n".join(lines[-8:]) + f"\nThe whole log: {log}")
