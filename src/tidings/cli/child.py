"""A child process that its parent keeps running, and the socket between the two.

The socket is the child's standard input. The parent writes the settings into it, as one line of JSON. The child answers
with a line `ready {json}` for each role that is ready, and ends when the socket closes. So no child outlives its
parent, however that dies (kill -9 included).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from tidings.cli.plain import CannotGoOn, say
from tidings.config import Settings, without_settings

READY = b"ready "
OPTIONS = {"api": "--fd", "sandbox": "--sandbox-fds"}
"""The option that passes a role the listening sockets that the parent holds for it."""
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 10.0
_STEADY_AFTER_S = 30.0
"""A process that ran for so long is restarted after the first wait again."""
_TRIES_TO_START = 3
READY_WITHIN_S = 180.0
"""A process starts in a few seconds. On a machine that is overloaded fifty times, it needs this long."""
_LARGEST_LOG_BYTES = 64 * 1024 * 1024
_LINES_SHOWN = 12


class Life:
    """One process of a child, from its start to its end. It is ready when its `role` is."""

    def __init__(
        self, role: str, process: Process, parent_end: socket.socket, settings: bytes, log: Path | None, log_from: int
    ) -> None:
        self._role = role
        self._process = process
        self._log = log
        self._log_from = log_from
        self.addresses: dict[str, str] = {}
        self.ready = asyncio.Event()
        self.ended = asyncio.create_task(self._live(parent_end, settings))

    @property
    def pid(self) -> int:
        """The process id; 0 if it has ended."""
        return self._process.pid if self._process.returncode is None else 0

    async def is_ready(self, within_s: float) -> bool:
        """Wait until it is ready; False if it ends before that, or takes longer than `within_s`."""
        ready = asyncio.create_task(self.ready.wait())
        try:
            await asyncio.wait({ready, self.ended}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        return self.ready.is_set() and not self.ended.done()

    async def end(self, grace_s: float) -> bool:
        """Terminate it, and kill it if it runs on for `grace_s`; whether it ended without being killed."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        _, late = await asyncio.wait({self.ended}, timeout=grace_s)
        if late:
            self.kill()
            await asyncio.wait({self.ended})
        return not late

    def kill(self) -> None:
        """Kill it and the processes that it started."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """The last lines that it wrote into the log, indented; a note if it has no log of its own."""
        if self._log is None:
            return "  (they are above)"
        with self._log.open("rb") as log:
            log.seek(self._log_from)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LINES_SHOWN:]) or f"  (nothing in {self._log})"

    async def _live(self, parent_end: socket.socket, settings: bytes) -> int:
        """Send the settings, listen for `ready`, and wait for the end; the exit code."""
        try:
            reader, writer = await asyncio.open_connection(sock=parent_end)
        except BaseException:
            parent_end.close()
            raise
        listening = asyncio.create_task(self._listen(reader))
        try:
            writer.write(settings)
            return await self._process.wait()
        finally:
            listening.cancel()
            writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                if line.startswith(READY):
                    self.addresses |= msgspec.json.decode(line.removeprefix(READY), type=dict[str, str])
                    if self._role in self.addresses:
                        self.ready.set()


def _ignore(pid: int) -> None:
    pass


class Child:
    """`tidings run --role <role>` (or `command`), started again whenever it ends.

    - `log`: the file for its output; None: it shares the output of this process.
    - `changed`: called when it has started, and when it is ready.
    - `ended`: called with the id of each process that has ended.
    - `name`: the name for people, if not the role.
    - `runs`: what it runs, if not the whole role.
    - `environment`: added to the environment that it inherits.
    - `listening`: sockets that this process holds for it; they outlive each of the child's processes.
    """

    def __init__(
        self,
        role: str,
        settings: Settings,
        log: Path | None,
        changed: Callable[[], None],
        command: Sequence[str] = (sys.executable, "-m", "tidings.cli", "run", "--supervised", "--role"),
        environment: Mapping[str, str] | None = None,
        listening: Sequence[socket.socket] = (),
        ended: Callable[[int], None] = _ignore,
        name: str = "",
        runs: str = "",
    ) -> None:
        self.role = role
        self.name = name or role
        self.log = log or Path("/dev/stdout")
        self._own_log = log
        self.ready = asyncio.Event()
        self._command = (*command, runs or role)
        self._passed_fds: tuple[int, ...] = ()
        if listening:
            self._passed_fds = tuple(one.fileno() for one in listening)
            self._command += (OPTIONS.get(role, "--fd"), *map(str, self._passed_fds))
        self._environment = environment or {}
        self._settings = settings.model_dump_json().encode() + b"\n"
        self._grace_s = settings.stop.kill_after
        self._changed = changed
        self._ended = ended
        self._life: Life | None = None
        self._lives: set[Life] = set()
        self._replacing = asyncio.Lock()
        self._stop = asyncio.Event()

    @property
    def pid(self) -> int:
        """The process id; 0 while there is none."""
        return self._life.pid if self._life else 0

    @property
    def addresses(self) -> Mapping[str, str]:
        """The addresses of its roles, as the process announced them."""
        return self._life.addresses if self._life else {}

    async def keep(self) -> None:
        """Keep it running until `stop`.

        Raises:
            CannotGoOn: it ended several times, or because of its settings, before it was ever ready.
        """
        wait_s, failures = _FIRST_WAIT_S, 0
        while not self._stop.is_set():
            began = time.monotonic()
            was_ready = self.ready.is_set()
            life = self._life = await self._start()
            announcing = asyncio.create_task(self._announce_ready(life))
            try:
                life, code = await self._last_end(life)
            finally:
                announcing.cancel()
            if self._stop.is_set():
                return
            if not self.ready.is_set():
                failures += 1
                if code == 2 or failures == _TRIES_TO_START:
                    words = life.last_words()
                    raise CannotGoOn(f"the {self.name} does not start ({_how(code)}). Its last words:\n{words}")
            steady = time.monotonic() - began > _STEADY_AFTER_S
            wait_s = _FIRST_WAIT_S if steady or not was_ready else min(wait_s * 2, _LONGEST_WAIT_S)
            where = "" if self._own_log is None else f" Its log: {self.log}"
            say(f"The {self.name} {_how(code)}; it is started again in {wait_s:g} s.{where}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stop.wait()

    async def replace(self, *, beside: bool) -> None:
        """Replace the running process by a new one.

        With `beside` the old process ends once the new one is ready, so that one is ready at any time. Without it, the
        old process ends first.

        Raises:
            CannotGoOn: the new process did not become ready. With `beside` the old one goes on.
        """
        async with self._replacing:
            old = self._life
            if old is not None and not beside:
                await self._end(old)
            try:
                fresh = await self._start()
            except OSError as error:
                raise CannotGoOn(f"no new process for the {self.name} can be started: {error}", 1) from error
            if not await fresh.is_ready(READY_WITHIN_S):
                why = (
                    "ended before it was ready" if fresh.ended.done() else f"was not ready after {READY_WITHIN_S:.0f} s"
                )
                await self._end(fresh)
                goes_on = " The old one goes on." if beside else ""
                words = fresh.last_words()
                raise CannotGoOn(f"the new {self.name} {why}.{goes_on} Its last words:\n{words}", 1)
            self._life = fresh
            self._changed()
            if old is not None and beside:
                await self._end(old)

    async def stop(self) -> None:
        """Terminate it for good; kill it if it does not end within the grace."""
        self._stop.set()
        await asyncio.gather(*(self._end(life) for life in list(self._lives)))

    def kill(self) -> None:
        """Kill it and the processes that it started, for good."""
        self._stop.set()
        for life in self._lives:
            life.kill()

    def trim_log(self) -> None:
        """Move the content of a log that grew too large into `<name>.log.1`."""
        if self._own_log is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _LARGEST_LOG_BYTES:
                # Emptied in place, because the child has the file open and appends to it.
                self.log.with_suffix(".log.1").write_bytes(self.log.read_bytes())
                os.truncate(self.log, 0)

    async def _start(self) -> Life:
        parent_end, child_end = socket.socketpair()
        try:
            with child_end, contextlib.ExitStack() as opened:
                log = None if self._own_log is None else opened.enter_context(self._own_log.open("ab"))
                log_from = 0 if log is None else log.tell()
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=child_end.fileno(),
                    stdout=log,
                    stderr=log,
                    env={**without_settings(), **self._environment},
                    pass_fds=self._passed_fds,
                    # A session of its own: Ctrl-C in the terminal reaches only the parent, which stops all in order.
                    start_new_session=True,
                )
        except BaseException:
            parent_end.close()
            raise
        life = Life(self.role, process, parent_end, self._settings, self._own_log, log_from)
        self._lives.add(life)
        life.ended.add_done_callback(lambda _: self._forget(life, process.pid))
        if self._stop.is_set():
            life.kill()  # `stop` was called while the process started, and did not know it yet
        self._changed()
        return life

    def _forget(self, life: Life, pid: int) -> None:
        self._lives.discard(life)
        self._ended(pid)

    async def _announce_ready(self, life: Life) -> None:
        await life.ready.wait()
        if self.ready.is_set():
            say(f"The {self.name} is ready again.")
        self.ready.set()
        self._changed()

    async def _last_end(self, life: Life) -> tuple[Life, int]:
        """Wait until the current process ends, not one that was replaced; that process and its exit code."""
        while True:
            code = await asyncio.shield(life.ended)
            async with self._replacing:
                if self._life is life or self._life is None:
                    return life, code
                life = self._life

    async def _end(self, life: Life) -> None:
        if not await life.end(self._grace_s):
            say(f"The {self.name} does not end; it is killed. Its unfinished work is repeated at the next start.")


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
