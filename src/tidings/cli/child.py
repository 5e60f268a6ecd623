"""A process of ours that another one keeps running, and the line between the two.

The child's standard input is a socket. The parent writes the settings into it, one line of JSON; the child answers
with a line `ready {json}` for each role that is ready, and ends when the socket does: however the parent dies, kill -9
included, no child outlives it.
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
GRACE = 25.0
"""Seconds that a child has to finish what is under way."""
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 10.0
_STEADY_AFTER = 30.0
_TRIES_TO_START = 3
_LARGEST_LOG = 64 * 1024 * 1024
_LINES_SHOWN = 12


class Child:
    """`tidings run --role <role>` (or `command`), started again whenever it ends.

    `changed` is called when it starts and when it is ready; `environment` is added to the one that it inherits.
    """

    def __init__(
        self,
        role: str,
        settings: Settings,
        log: Path,
        changed: Callable[[], None],
        command: Sequence[str] = (sys.executable, "-m", "tidings.cli", "run", "--supervised", "--role"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.role = role
        self._command = (*command, role)
        self._environment = environment or {}
        self._log_from = 0
        self.log = log
        self.addresses: dict[str, str] = {}
        self.ready = asyncio.Event()
        self._settings = settings.model_dump_json().encode() + b"\n"
        self._changed = changed
        self._process: Process | None = None
        self._stop = asyncio.Event()

    @property
    def pid(self) -> int:
        """The process id; 0 while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def keep(self) -> None:
        """Run it until `stop`.

        Raises:
            CannotGoOn: it ended several times, or for its settings, before it was ever ready.
        """
        wait, failures = _FIRST_WAIT, 0
        while not self._stop.is_set():
            began = time.monotonic()
            was_ready = self.ready.is_set()
            code = await self._run()
            if self._stop.is_set():
                return
            if not self.ready.is_set():
                failures += 1
                if code == 2 or failures == _TRIES_TO_START:
                    raise CannotGoOn(f"the {self.role} does not start ({_how(code)}). Its last words:\n{self._tail()}")
            steady = time.monotonic() - began > _STEADY_AFTER
            wait = _FIRST_WAIT if steady or not was_ready else min(wait * 2, _LONGEST_WAIT)
            say(f"The {self.role} {_how(code)}; it is started again in {wait:g} s. Its log: {self.log}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stop.wait()

    async def stop(self) -> None:
        """Ask it to end, and kill it when it does not within the grace."""
        self._stop.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(GRACE):
                await process.wait()
        except TimeoutError:
            say(f"The {self.role} does not end; it is killed. What it had begun is repeated at the next start.")
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """End it and what it started, now."""
        self._stop.set()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def trim_log(self) -> None:
        """Set a log that grew too large aside."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _LARGEST_LOG:
                # The child appends to the open file, so it is emptied in place.
                self.log.with_suffix(".log.1").write_bytes(self.log.read_bytes())
                os.truncate(self.log, 0)

    async def _run(self) -> int:
        ours, theirs = socket.socketpair()
        try:
            with theirs, self.log.open("ab") as log:
                self._log_from = log.tell()
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=theirs.fileno(),
                    stdout=log,
                    stderr=log,
                    env={**without_settings(), **self._environment},
                    # A session of its own: Ctrl-C in the terminal reaches the parent alone, which ends things in order.
                    start_new_session=True,
                )
            self._changed()
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        listening = asyncio.create_task(self._listen(reader))
        try:
            writer.write(self._settings)
            return await self._process.wait()
        finally:
            listening.cancel()
            writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                if line.startswith(READY):
                    self.addresses |= msgspec.json.decode(line.removeprefix(READY), type=dict[str, str])
                    if self.role in self.addresses:
                        if self.ready.is_set():
                            say(f"The {self.role} is ready again.")
                        self.ready.set()
                        self._changed()

    def _tail(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_from)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LINES_SHOWN:]) or f"  (nothing in {self.log})"


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
