"""Leaving a connection so that no request on it is lost: the other side is told before it is closed.

While the server leaves, every answer says `Connection: close` (RFC 9112, section 9.6), unless more requests have come
on the connection already (HTTP pipelining): then the answer to the last of them says it. A connection without a request
is closed at the end alone, since a request may be on its way at any time before.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from typing import Any

from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

FRESH = 0.25
"""Seconds for which a new connection counts as one that is about to bring a request."""
_INT = struct.Struct("i")


class Farewell(Struct, frozen=True):
    """How a server ends. Seconds.

    For `drain` clients are told to go; what is under way may take until `grace` is over. A socket that is `held` by
    whoever started this process is left at once to those who share it.
    """

    drain: float = 2.0
    grace: float = 20.0
    held: bool = False


class LeavingState(ServerState):
    """What the connections of a server share. `leaving`: clients are told to go elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.leaving = False


class LeavingConnection(HttpToolsProtocol):
    """uvicorn's side of one connection."""

    def __init__(self, config: Any, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._made_at = 0.0
        self._incoming = False
        self._answering: RequestResponseCycle | None = None
        self._last: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has come."""
        self._made_at = self.loop.time()
        super().connection_made(transport)

    def leave(self) -> None:
        """Say `Connection: close` with the answer that is under way, if that can still be said."""
        if self._answering is not None:
            self._say_close(self._answering)

    def is_quiet(self) -> bool:
        """Whether nothing was asked that is not answered."""
        if self._incoming or self.pipeline:
            return False
        if self._answering is None:
            return self.loop.time() - self._made_at > FRESH and not self._waiting_bytes()
        return self._answering.response_complete and not self._waiting_bytes()

    def shutdown(self) -> None:
        """End it: at once when it is idle, else with the last answer. uvicorn calls this at the end."""
        if self.is_quiet():
            self.transport.close()
        else:
            self.leave()

    def on_message_begin(self) -> None:
        """A request begins to arrive."""
        self._incoming = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """One more request: when it has to wait, the answer before it is not the last."""
        super().on_headers_complete()
        if self.pipeline and self._last is not None and not self._last.response_started:
            self._last.keep_alive = True
            self._last = None

    def on_message_complete(self) -> None:
        """A request has arrived."""
        self._incoming = False
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        if isinstance(self.server_state, LeavingState) and self.server_state.leaving:
            self._say_close(cycle)
        super()._start_asgi_task(cycle, app)

    def _say_close(self, cycle: RequestResponseCycle) -> None:
        if cycle.keep_alive and not cycle.response_started and not self.pipeline:
            cycle.keep_alive = False
            self._last = cycle

    def _waiting_bytes(self) -> int:
        """Bytes that have come and that nobody has read."""
        socket = self.transport.get_extra_info("socket")
        if socket is None or self.transport.is_closing():
            return 0
        count: int = _INT.unpack(fcntl.ioctl(socket.fileno(), termios.FIONREAD, bytes(_INT.size)))[0]
        return count
