"""uvicorn's server as the guest of a process that does more than serve HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

TICK_S = 1.0
"""Seconds between two ticks. The `Date` header is made once a tick; uvicorn itself would tick ten times a second."""


class GuestServer(uvicorn.Server):
    """Leaves signals to the process, sets `listening` once it accepts, and wakes rarely while nothing happens.

    Set `should_exit` to stop it.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        self._stop_asked = asyncio.Event()
        super().__init__(config)
        self.listening = asyncio.Event()

    @property
    def should_exit(self) -> bool:
        """Whether the server was asked to stop."""
        return self._stop_asked.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        if value:
            self._stop_asked.set()
        else:
            self._stop_asked.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, and set `listening`."""
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        """Tick until the server is asked to stop."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._stop_asked.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process."""
        yield
