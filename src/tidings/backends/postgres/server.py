"""The bundled PostgreSQL: a supervisor that keeps one server running on a data folder while this process lives."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Self
from urllib.parse import quote

import structlog

from tidings.backends.postgres import binaries, launch
from tidings.backends.postgres.binaries import Binaries, Source
from tidings.backends.postgres.folder import FAST_WITHIN_S, NAME, Folder, explain, is_ready, port_is_taken
from tidings.model.errors import SettingsError

_MOST_SOCKET_BYTES = 100
_RETRY_FOR_S = 10.0
_READY_WITHIN_S = 600.0
_TICK_S = 0.02

_SETTINGS = {
    # Durable: an acknowledged commit survives the machine's power cut.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # A laptop's share of memory; queue tables are small and hot, history is read near its end.
    "shared_buffers": "128MB",
    "max_connections": "200",
    "wal_compression": "on",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    # Rows of queue tables die quickly: run vacuum often and without pauses.
    "autovacuum_naptime": "15s",
    "autovacuum_vacuum_cost_delay": "0",
    # Every query is short: compiling and parallel workers cost more than they give.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    # Keep rows and statements, which may hold a person's address, out of the log.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "logging_collector": "off",
    "log_destination": "stderr",
}

_log = structlog.get_logger(__name__)


class _Ended(Exception):
    """PostgreSQL ended before it was ready. The text is its output."""


class Server:
    """One PostgreSQL on `data_dir`. It listens on 127.0.0.1 and, if the path is short enough, on a socket.

    `port` None takes a free port. `found` replaces the search for binaries, and `source` limits it. `settings` override
    PostgreSQL's settings (postgresql.conf). Leaving the context, `stop`, and any death of this process end the server.
    A server that dies by itself is started again.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        found: Sequence[Binaries] | None = None,
        settings: Mapping[str, str] | None = None,
        source: Source | None = None,
    ) -> None:
        self._place = Folder(data_dir, found, source)
        self._settings = _SETTINGS | dict(settings or {})
        self._wanted_port = port
        self.port = port or 0
        self.log_path = self._place.log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def origin(self) -> str:
        """The PostgreSQL's version and origin, for people. Raises SettingsError if there is none for the folder."""
        return self._place.choice().origin

    @property
    def home(self) -> Path:
        """The folder that belongs to the server's own user."""
        return self._place.home

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self._place.data

    @property
    def pid(self) -> int:
        """The process id of the running server; 0 if none runs."""
        return self._process.pid if self._process else 0

    @property
    def dsn(self) -> str:
        """The DSN of the socket if there is one, else `tcp_dsn`."""
        if not self._socket_fits:
            return self.tcp_dsn
        where = f"host={quote(str(self.home), safe='/')}&port={self.port}"
        return f"postgresql://{NAME}:{self._place.password}@/{NAME}?{where}"

    @property
    def tcp_dsn(self) -> str:
        """The DSN of the TCP port."""
        return f"postgresql://{NAME}:{self._place.password}@127.0.0.1:{self.port}/{NAME}"

    def start(self) -> str:
        """Start the server, wait until it takes connections, and return the DSN. Creates a missing data folder.

        Raises:
            SettingsError: the server cannot run. The text says why and what to do.
        """
        self._place.open()
        self._stopping.clear()
        started: Future[None] = Future()
        # Linux ties the parent-death signal to the thread that forked, so fork in a thread that lives with the process.
        self._thread = threading.Thread(target=self._supervise, args=(started,), name="postgres", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self.stop()
            raise
        return self.dsn

    def stop(self) -> None:
        """Shut the server down: fast, after 20 s immediately. Does nothing if it does not run."""
        self._stopping.set()
        process = self._process
        if process is not None:
            _end(process)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None
        self._place.close()

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
        # A comma separates folders in PostgreSQL's setting and hosts in a DSN, so a path with one cannot be used.
        return "," not in str(self.home) and len(str(self.home)) + len("/.s.PGSQL.65535") <= _MOST_SOCKET_BYTES

    def _supervise(self, started: Future[None]) -> None:
        try:
            self._launch_patiently()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        while not self._stopping.is_set():
            process, since = self._process, time.monotonic()
            code = process.wait() if process is not None else 0
            if self._stopping.is_set():
                return
            _log.error("postgres_ended", code=code, next="it is started again", log=str(self.log_path))
            if time.monotonic() - since < 1.0:
                self._stopping.wait(1.0)
            try:
                self._launch_patiently(again=True)
            except SettingsError as error:
                _log.error("postgres_does_not_start", error=str(error))
                self._stopping.wait(1.0)

    def _launch_patiently(self, *, again: bool = False) -> None:
        """Start the server, with retries: after a kill -9, old backends may hold the shared memory for a while.

        `again`: the server ran before and its clients know its port, so do not try another port.
        """
        deadline = time.monotonic() + _RETRY_FOR_S
        while True:
            try:
                self._launch()
                return
            except _Ended as error:
                output = str(error)
                held = "shared memory" in output or "postmaster.pid" in output
                other_port = port_is_taken(output) and self._wanted_port is None and not again
                if other_port:
                    self.port = 0
                if not (held or other_port) or time.monotonic() > deadline or self._stopping.is_set():
                    raise explain(output, self.log_path, self.port) from None
            self._stopping.wait(0.2)

    def _compression(self) -> dict[str, str]:
        """LZ4 compression of full pages in the WAL, if this build has it: half the CPU of the default method."""
        account = self._place.account
        lz4 = ["-C", "wal_compression", "-c", "wal_compression=lz4"]
        probe = account.run([self._place.program("postgres"), "-D", self.data, *lz4], self.home)
        return {"wal_compression": "lz4"} if probe.returncode == 0 else {}

    def _launch(self) -> None:
        self.port = self.port or _free_port()
        settings = (
            self._settings
            | self._compression()
            | {
                "port": str(self.port),
                "listen_addresses": "127.0.0.1",
                "unix_socket_directories": str(self.home) if self._socket_fits else "",
                "unix_socket_permissions": "0700",
            }
        )
        account = self._place.account
        command = [
            sys.executable, "-I", "-S", launch.__file__, str(os.getpid()),
            str(-1 if account.uid is None else account.uid), str(-1 if account.gid is None else account.gid),
            str(self._place.program("postgres")), "-D", str(self.data),
        ]  # fmt: skip
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self.log_path.open("ab") as log:
            began = log.tell()
            # A session of its own: Ctrl-C in the terminal must end the stages first and the server last.
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
        deadline = time.monotonic() + _READY_WITHIN_S
        while process.poll() is None:
            if self._stopping.is_set() or time.monotonic() > deadline:
                _end(process)
                break
            if is_ready(self.data, process.pid):
                return
            time.sleep(_TICK_S)
        with self.log_path.open("rb") as log:
            log.seek(began)
            raise _Ended(log.read().decode(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    for how, wait in ((signal.SIGINT, FAST_WITHIN_S), (signal.SIGQUIT, 5.0), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            continue


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
