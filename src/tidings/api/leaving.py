"""Closing connections without losing a request: the client is told before the server closes.

While the server leaves, every answer says `Connection: close` (RFC 9112, section 9.6). If more requests are pipelined
on the connection, only the answer to the last of them says so. An idle connection is closed only at the very end,
because a request may be on its way until then.
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

FRESH_S = 0.25
"""Seconds for which a new connection is expected to bring its first request, and is not idle."""
_INT = struct.Struct("i")


class Shutdown(Struct, frozen=True):
    """How a server stops.

    For `drain_s` seconds it tells clients to leave; requests under way may take until `grace_s` seconds have passed.
    With `shared_socket` it stops accepting at once: other processes accept on the same socket.
    """

    drain_s: float = 2.0
    grace_s: float = 20.0
    shared_socket: bool = False


class LeavingState(ServerState):
    """The state that all connections of a server share. `leaving`: answers tell clients to use another connection."""

    def __init__(self) -> None:
        super().__init__()
        self.leaving = False


class LeavingConnection(HttpToolsProtocol):
    """uvicorn's protocol of one connection, with `Connection: close` on the last answer before it is closed."""

    def __init__(self, config: Any, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._made_at_s = 0.0  # on the loop's clock
        self._request_arriving = False
        self._newest_cycle: RequestResponseCycle | None = None  # the latest request that was given to the app
        self._closing_cycle: RequestResponseCycle | None = None  # the one whose answer says `Connection: close`

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Remember when the connection began."""
        self._made_at_s = self.loop.time()
        super().connection_made(transport)

    def leave(self) -> None:
        """Say `Connection: close` in the answer under way, unless its head has been sent."""
        if self._newest_cycle is not None:
            self._say_close(self._newest_cycle)

    def is_idle(self) -> bool:
        """Whether every request is answered and none is arriving."""
        if self._request_arriving or self.pipeline:
            return False
        if self._newest_cycle is None:
            return self.loop.time() - self._made_at_s > FRESH_S and not self._unread_socket_bytes()
        return self._newest_cycle.response_complete and not self._unread_socket_bytes()

    def shutdown(self) -> None:
        """Close the connection: at once if it is idle, else after its last answer. uvicorn calls this at the end."""
        if self.is_idle():
            self.transport.close()
        else:
            self.leave()

    def on_message_begin(self) -> None:
        """Note that a request begins to arrive."""
        self._request_arriving = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """If this request is pipelined, move `Connection: close` to its answer."""
        super().on_headers_complete()
        if self.pipeline and self._closing_cycle is not None and not self._closing_cycle.response_started:
            self._closing_cycle.keep_alive = True
            self._closing_cycle = None

    def on_message_complete(self) -> None:
        """Note that the request has arrived."""
        self._request_arriving = False
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._newest_cycle = cycle
        if isinstance(self.server_state, LeavingState) and self.server_state.leaving:
            self._say_close(cycle)
        super()._start_asgi_task(cycle, app)

    def _say_close(self, cycle: RequestResponseCycle) -> None:
        if cycle.keep_alive and not cycle.response_started and not self.pipeline:
            cycle.keep_alive = False
            self._closing_cycle = cycle

    def _unread_socket_bytes(self) -> int:
        """How many bytes the kernel has received that this process has not read."""
        socket = self.transport.get_extra_info("socket")
        if socket is None or self.transport.is_closing():
            return 0
        count: int = _INT.unpack(fcntl.ioctl(socket.fileno(), termios.FIONREAD, bytes(_INT.size)))[0]
        return count
