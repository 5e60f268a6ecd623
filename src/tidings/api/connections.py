"""Connections: how many there may be, and how large and how slow what comes in on each.

uvicorn bounds the idle time between requests and what it buffers of a body; the rest is bounded here. Who goes beyond a
bound is told so in a problem, and the connection ends: nobody can tell where its next request would begin.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, NoReturn

import uvicorn
from msgspec import Struct
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from tidings.api import problems
from tidings.api.leaving import LeavingConnection, LeavingState
from tidings.api.problems import Refused

LAST_WORDS = 1
"""Seconds that uvicorn gives to what has not ended within the grace."""
LINGER = 2.0
"""Seconds in which what a refused client goes on sending is thrown away, so that it gets to see the answer."""
SWEEP = 1.0
"""Seconds between two looks at what takes too long."""
MOST_HEADERS = 100
MOST_WAITING = 100
"""How many requests may wait on one connection while the one before them is answered (HTTP pipelining)."""
MOST_REFUSED = 100
"""How many connections beyond the bound get an answer; further ones are dropped."""
SPARE_FILES = 256
"""Files that a process may have open beside its connections."""

_NO_HTTP = "this is not a valid HTTP/1.1 request (this port speaks plain HTTP; TLS ends at a proxy before it)"


class Bounds(Struct, frozen=True):
    """What one process takes.

    At most `max_connections` at once, `max_header_bytes` for a request line with its headers, `header_timeout` seconds
    until they are complete, `body_timeout` seconds until the body is, and as long without progress for an answer to be
    taken.
    """

    max_connections: int = 2_000
    max_header_bytes: int = 16_384
    header_timeout: float = 10.0
    body_timeout: float = 60.0


class Connection(LeavingConnection):
    """uvicorn's side of one connection, within the bounds that its config has."""

    def __init__(
        self, config: _Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = config.bounds
        self._deadline: float | None = self.loop.time() + self._bounds.header_timeout
        self._unread = 0  # bytes that came since something was complete
        self._arriving = False
        self._reason: Refused | None = None
        self._refused = False
        self._unsent = 0
        self._unsent_since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection too many."""
        super().connection_made(transport)
        beyond = len(self.connections) - self._bounds.max_connections
        if beyond > MOST_REFUSED:
            transport.abort()
        elif beyond > 0:
            self._refuse(_busy("there are too many connections; try again, or use fewer"))

    def data_received(self, data: bytes) -> None:
        """Parse, unless too much has come without anything of it being complete."""
        if self._refused:
            return
        self._unread += len(data)
        if self._deadline is None:
            self._deadline = self.loop.time() + self._bounds.header_timeout
        super().data_received(data)
        # That is a head without end, or the trailers of a chunked body, or the extensions of its chunks.
        if self._unread > self._bounds.max_header_bytes and not self._refused:
            self._refuse(self._too_long())

    def on_headers_complete(self) -> None:
        """Check the request's head before it is handed on."""
        if self._unread > self._bounds.max_header_bytes or len(self.headers) > MOST_HEADERS:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._bounds.max_header_bytes or len(self.headers) > MOST_HEADERS:
                self._stop(self._too_long())
        if b"#" in self.url:  # the parser would leave out what comes after it, and another resource would be meant
            self._stop(Refused(400, "malformed_path", "the request's target holds a # as it is; write it as %23"))
        if len(self.pipeline) >= MOST_WAITING:
            self._stop(_busy(f"more than {MOST_WAITING} requests wait on this connection; use another one"))
        self._unread = 0
        self._arriving = True
        self._deadline = self.loop.time() + self._bounds.body_timeout
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body is progress."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here: no time runs until the next one begins."""
        self._unread = 0
        self._arriving = False
        self._deadline = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Say why the parser stopped: at a bound of ours, or at what is no HTTP."""
        self._refuse(self._reason or Refused(400, "malformed_request", _NO_HTTP))

    def sweep(self, now: float) -> None:
        """End what takes too long. `now` is the loop's time."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent < self._unsent:
            self._unsent_since = now
        self._unsent = unsent
        late = self._deadline is not None and now >= self._deadline
        if (unsent and now - self._unsent_since > self._bounds.body_timeout) or (late and self._refused):
            self.transport.abort()
        elif late and self.flow.read_paused:
            self._deadline = now + SWEEP  # it is we who do not read
        elif late:
            self._refuse(self._too_slow())

    def _too_long(self) -> Refused:
        most = f"{self._bounds.max_header_bytes} bytes and {MOST_HEADERS} headers"
        return Refused(431, "headers_too_large", f"the request line and the headers may have at most {most}")

    def _too_slow(self) -> Refused:
        what, seconds = (
            ("the body", self._bounds.body_timeout)
            if self._arriving
            else (
                "the request line and the headers",
                self._bounds.header_timeout,
            )
        )
        return Refused(408, "request_timeout", f"{what} did not arrive within {seconds:g} s; send them again, faster")

    def _stop(self, reason: Refused) -> NoReturn:
        """Make the parser stop; uvicorn will then ask for the 400."""
        self._reason = reason
        raise reason

    def _refuse(self, refused: Refused) -> None:
        """Answer with the problem, read on for a moment without looking, and end the connection."""
        self._refused = True
        self._deadline = self.loop.time() + LINGER
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        if self._may_answer(refused):
            self._write(refused)
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()

    def _may_answer(self, refused: Refused) -> bool:
        """Whether the client would take what is written now for the answer to the request that is refused."""
        answering = self._answering
        if answering is not None and answering.response_started:
            # Its own answer is on the way; or it is complete, and what is refused may be the rest of its body.
            return answering.response_complete and not self._arriving and not self._is_idle(refused)
        return not self._is_idle(refused)

    def _is_idle(self, refused: Refused) -> bool:
        """Whether nothing was asked: then an answer could be taken for that to a request that is just being sent."""
        return refused.status == HTTPStatus.REQUEST_TIMEOUT and not self._arriving and self._unread == 0

    def _write(self, refused: Refused) -> None:
        body = problems.encode(refused, None)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *refused.headers,
        ]
        lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        self.transport.write(STATUS_LINE[refused.status] + lines + b"\r\n" + body)


class _Config(uvicorn.Config):
    bounds: Bounds


class Server(uvicorn.Server):
    """uvicorn's server within bounds, as a part of a process that handles signals itself. It logs no requests."""

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        config = _Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # nothing here asks for the client's address
            timeout_graceful_shutdown=LAST_WORDS,
        )
        config.bounds = bounds
        super().__init__(config)
        self.server_state: LeavingState = LeavingState()
        self.listening = asyncio.Event()
        self._swept_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, and leave no socket behind: uvicorn gives up on what is still open after its last words."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # a transport that was closed frees its socket in the loop's next round

    def leave(self) -> None:
        """Tell the clients of all connections, with their next answers, to use others."""
        self.server_state.leaving = True
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.leave()

    def stop_accepting(self) -> None:
        """Take no further connections; those that are open go on."""
        for server in self.servers:
            server.close()

    async def on_tick(self, counter: int) -> bool:
        """Look at the connections, besides what uvicorn does several times a second."""
        now = asyncio.get_running_loop().time()
        if now - self._swept_at >= SWEEP:
            self._swept_at = now
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.sweep(now)
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process."""
        yield


def allow_files(connections: int) -> None:
    """Raise this process's own limit of open files, as far as it may be, to hold so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _busy(detail: str) -> Refused:
    return Refused(503, "unavailable", detail, headers=[(b"retry-after", b"1")])
