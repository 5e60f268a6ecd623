"""The bundled PostgreSQL: a supervisor that keeps one server running on a data folder for as long as we run.

In the folder that it is given it keeps `postgres/` (the server's own: `data/`, the socket, copied binaries), and beside
it the password, the log and the lock. As root, where the unprivileged user cannot reach the folder, `postgres` is
a link to a folder that can.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

import structlog

from tidings.backends.postgres import binaries, launch
from tidings.backends.postgres.binaries import Account, Binaries
from tidings.model.errors import SettingsError

NAME = "tidings"

_LEAST_FREE = 200 * 1024 * 1024
_LONGEST_SOCKET = 100
_LARGEST_LOG = 16 * 1024 * 1024
_RETRY_FOR = 10.0
_READY_WITHIN = 600.0
_FAST_WITHIN = 20.0
_TICK = 0.02

_SETTINGS = {
    # Durable: an acknowledged commit survives the machine's power cut.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # A laptop's share of memory; queue tables are small and hot, history is read near its end.
    "shared_buffers": "128MB",
    "max_connections": "100",
    "wal_compression": "on",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    # Queue tables die quickly: look often, and never pause while cleaning.
    "autovacuum_naptime": "15s",
    "autovacuum_vacuum_cost_delay": "0",
    # Every query is short: compiling and parallel workers cost more than they give.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
}

_log = structlog.get_logger(__name__)


class _Ended(Exception):
    """PostgreSQL ended before it was ready; the text is what it said last."""


class Server:
    """One PostgreSQL on `data_dir`, listening on 127.0.0.1 and, where its path is short enough, on a socket.

    `port` None takes a free one. `found` replaces the search for binaries,
    `settings` override PostgreSQL's (postgresql.conf). Leaving the context, `stop`, or the death of
    this process in any way ends the server; a server that dies by itself is started again.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        found: Sequence[Binaries] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = data_dir.resolve()
        self._found = found
        self._settings = _SETTINGS | dict(settings or {})
        self._wanted_port = port
        self.port = port or 0
        self.log_path = self._folder / "postgres.log"
        self._account = Account()
        self._binaries: Binaries | None = None
        self._password = ""
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def home(self) -> Path:
        """The folder that belongs to the server's own user."""
        return (self._folder / "postgres").resolve()

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.home / "data"

    @property
    def pid(self) -> int:
        """The process id of the running server; 0 when there is none."""
        return self._process.pid if self._process else 0

    @property
    def dsn(self) -> str:
        """How to connect: by the socket where there is one, else as `tcp_dsn`."""
        if not self._socket_fits:
            return self.tcp_dsn
        return f"postgresql://{NAME}:{self._password}@/{NAME}?host={quote(str(self.home), safe='/')}&port={self.port}"

    @property
    def tcp_dsn(self) -> str:
        """How to connect over TCP."""
        return f"postgresql://{NAME}:{self._password}@127.0.0.1:{self.port}/{NAME}"

    def start(self) -> str:
        """Start (making the data folder if there is none), wait until it takes connections, and return the DSN.

        Raises:
            SettingsError: it cannot run; the text says why and what to do.
        """
        try:
            self._prepare()
        except OSError as error:
            self._unlock()
            raise SettingsError(
                f"PostgreSQL's files in {self._folder} cannot be written ({error.strerror or error}). Give this user "
                "access to the folder, free space on its disk, or choose another with --data-dir."
            ) from error
        except BaseException:
            self._unlock()
            raise
        self._stopping.clear()
        started: Future[None] = Future()
        # Linux ties the parent-death signal to the thread that forked: this one lives as long as the process.
        self._thread = threading.Thread(target=self._supervise, args=(started,), name="postgres", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self.stop()
            raise
        return self.dsn

    def stop(self) -> None:
        """Shut down: fast, after 20 s immediately. Does nothing when it does not run."""
        self._stopping.set()
        process = self._process
        if process is not None:
            _end(process)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None
        self._unlock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def _socket_fits(self) -> bool:
        return len(str(self.home)) + len("/.s.PGSQL.65535") <= _LONGEST_SOCKET

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        free = shutil.disk_usage(self._folder).free
        if free < _LEAST_FREE:
            raise SettingsError(
                f"only {free // 2**20} MB are free on the disk of {self._folder}; PostgreSQL needs at least "
                f"{_LEAST_FREE // 2**20} MB. Free some, or choose another folder with --data-dir."
            )
        self._account = binaries.account(self.data)
        self._make_home()
        made_by = self.data / "PG_VERSION"
        major = int(made_by.read_text().split(".")[0]) if made_by.exists() else None
        found = binaries.choose(major, binaries.available() if self._found is None else self._found)
        self._binaries = binaries.within_reach(found, self._account, self.home)
        self._stop_leftover()
        self._make_data()
        if self.log_path.exists() and self.log_path.stat().st_size > _LARGEST_LOG:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))

    def _take_lock(self) -> None:
        self._lock = (self._folder / "postgres.lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            self._lock = None
            raise SettingsError(
                f"another Tidings (process {owner}) runs on the data folder {self._folder}. Stop it first, or choose "
                "another folder with --data-dir."
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _make_home(self) -> None:
        link = self._folder / "postgres"
        if link.exists():
            if not self._account.reaches(link.resolve()):
                raise SettingsError(
                    f"PostgreSQL cannot run as root, and its user cannot enter {link.resolve()}. Make the folders "
                    "above it passable (chmod o+x), or choose another folder with --data-dir."
                )
            return
        if self._account.reaches(self._folder):
            link.mkdir(mode=0o700)
            self._account.owns(link)
            return
        # Root's own folders are closed to others: the data goes where its user can reach it, and the link finds it.
        temporary = Path(tempfile.gettempdir()).resolve()
        parent = temporary if self._folder.is_relative_to(temporary) else Path("/var/lib/tidings")
        parent.mkdir(parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(prefix="tidings-postgres-", dir=parent))
        self._account.owns(home)
        link.unlink(missing_ok=True)
        link.symlink_to(home)
        _log.info("postgres_folder", folder=str(home), why=f"{self._folder} is closed to PostgreSQL's user")

    def _make_data(self) -> None:
        secret = self._folder / "postgres.password"
        known = secret.read_text().strip() if secret.exists() else ""
        self._password = known or secrets.token_urlsafe(24)
        if not self.data.exists():
            self._initialise()
        elif not known:
            self._single(self.data, f"ALTER ROLE {NAME} PASSWORD '{self._password}'")
        if not known:
            with open(os.open(secret, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123 - born private
                file.write(self._password)

    def _initialise(self) -> None:
        # Made beside its place and then renamed, so that a half-made folder is never taken for data.
        fresh = self.home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        password = self.home / "password"
        password.touch(0o600)
        password.write_text(self._password)
        self._account.owns(password)
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
        result = self._account.run([self._program(program), *arguments], self.home, text)
        said = result.stdout + result.stderr
        # In single-user mode a failed statement is printed, and the exit code is still 0.
        if result.returncode == 0 and "ERROR:" not in said:
            return
        raise _explain(said, self.log_path)

    def _program(self, name: str) -> Path:
        if self._binaries is None:
            raise SettingsError("PostgreSQL was not looked for yet")
        return self._binaries.folder / name

    def _stop_leftover(self) -> None:
        """End a server that an earlier supervisor left on this data folder. We hold the lock, so it is nobody's."""
        pid = _owner_of(self.data)
        for wait, how in ((_FAST_WITHIN, signal.SIGINT), (5.0, signal.SIGQUIT), (5.0, signal.SIGKILL)):
            if not pid or _owner_of(self.data) != pid:
                return
            os.kill(pid, how)
            deadline = time.monotonic() + wait
            while _owner_of(self.data) == pid and time.monotonic() < deadline:
                time.sleep(_TICK)

    def _supervise(self, started: Future[None]) -> None:
        try:
            self._launch_patiently()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        while not self._stopping.is_set():
            process = self._process
            code = process.wait() if process is not None else 0
            if self._stopping.is_set():
                return
            _log.error("postgres_ended", code=code, next="it is started again", log=str(self.log_path))
            try:
                self._launch_patiently()
            except SettingsError as error:
                _log.error("postgres_does_not_start", error=str(error))
                self._stopping.wait(1.0)

    def _launch_patiently(self) -> None:
        """Start until it is ready. After kill -9 old backends may hold shared memory for a while, so a few times."""
        deadline = time.monotonic() + _RETRY_FOR
        while True:
            try:
                self._launch()
                return
            except _Ended as error:
                said = str(error)
                busy_port = "could not bind" in said or "Address already in use" in said
                held = "shared memory" in said or "postmaster.pid" in said
                again = held or (busy_port and self._wanted_port is None)
                if busy_port and self._wanted_port is None:
                    self.port = 0
                if not again or time.monotonic() > deadline or self._stopping.is_set():
                    raise _explain(said, self.log_path, self.port) from None
            self._stopping.wait(0.2)

    def _launch(self) -> None:
        self.port = self.port or _free_port()
        settings = self._settings | {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.home) if self._socket_fits else "",
            "unix_socket_permissions": "0700",
        }
        who = self._account
        command = [
            sys.executable, "-I", "-S", launch.__file__, str(os.getpid()),
            str(-1 if who.uid is None else who.uid), str(-1 if who.gid is None else who.gid),
            str(self._program("postgres")), "-D", str(self.data),
        ]  # fmt: skip
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self.log_path.open("ab") as log:
            began = log.tell()
            # Its own session: Ctrl-C in the terminal must reach the stages first, and the server last.
            process = subprocess.Popen(  # noqa: S603 - our own launcher
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=binaries.environment(),
                start_new_session=True,
            )
        self._process = process
        deadline = time.monotonic() + _READY_WITHIN
        while process.poll() is None:
            if self._stopping.is_set() or time.monotonic() > deadline:
                _end(process)
                break
            if _is_ready(self.data, process.pid):
                return
            time.sleep(_TICK)
        with self.log_path.open("rb") as log:
            log.seek(began)
            raise _Ended(log.read().decode(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    for how, wait in ((signal.SIGINT, _FAST_WITHIN), (signal.SIGQUIT, 5.0), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            continue


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_ready(data: Path, pid: int) -> bool:
    lines = _pid_file(data)
    # The eighth line is the server's own word for its state.
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _owner_of(data: Path) -> int:
    """The process id of a server that is alive on this data folder; 0 when there is none.

    The number in `postmaster.pid` may long belong to another program, so its working folder (Linux) or name is asked.
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _explain(said: str, log: Path, port: int = 0) -> SettingsError:
    """What PostgreSQL said, as a sentence that tells what to do."""
    if "No space left on device" in said:
        return SettingsError(
            "PostgreSQL found no space left on the disk. Free some, or choose another folder with --data-dir."
        )
    if "could not bind" in said or "Address already in use" in said:
        return SettingsError(
            f"PostgreSQL could not listen on 127.0.0.1:{port}, something else does. Stop that, or use another port."
        )
    lines = [line for line in said.splitlines() if line.strip()]
    return SettingsError("PostgreSQL does not start. It said:\n" + "\n".join(lines[-8:]) + f"\nThe whole log: {log}")
