"""Bounds on connections: how many there may be, and how large and how slow a request may be.

uvicorn bounds the idle time between requests and how much of a body it buffers; this module bounds the rest. A client
that exceeds a bound gets a problem, and its connection is closed: nobody can tell where its next request would begin.
"""

from __future__ import annotations

import asyncio
import resource
import socket
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
from tidings.http_server import TICK_S, GuestServer

UVICORN_GRACE_S = 1
"""Seconds that uvicorn, after our own grace, waits for requests that have not ended."""
LINGER_S = 2.0
"""Seconds for which a refused client's bytes are read and thrown away, so that the client gets to see the answer."""
MOST_HEADERS = 100
MOST_WAITING = 100
"""How many pipelined requests may wait on one connection."""
MOST_REFUSED = 100
"""How many connections beyond the bound get an answer; further ones are dropped."""
SPARE_FILES = 256
"""Files that a process may have open besides its connections."""

_NOT_HTTP = "this is not a valid HTTP/1.1 request (this port speaks plain HTTP; TLS ends at a proxy before it)"


class Bounds(Struct, frozen=True):
    """What the server of one process accepts.

    At most `max_connections` at once, and `max_header_bytes` for the request line and the headers. These must be
    complete after `header_timeout_s` seconds, the body after `body_timeout_s` more. A client that takes nothing of its
    answer for `body_timeout_s` is dropped.
    """

    max_connections: int = 2_000
    max_header_bytes: int = 16_384
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0


class Connection(LeavingConnection):
    """uvicorn's protocol of one connection, within the bounds that its config has."""

    def __init__(
        self, config: _Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = config.bounds
        self._deadline_s: float | None = self.loop.time() + self._bounds.header_timeout_s  # None: nothing is awaited
        self._incomplete_bytes = 0  # received since the parser last completed a head, a chunk or a message
        self._body_arriving = False
        self._parser_refusal: Refused | None = None
        self._refused = False
        self._unsent_bytes = 0
        self._unsent_since_s = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection if there are too many."""
        super().connection_made(transport)
        beyond = len(self.connections) - self._bounds.max_connections
        if beyond > MOST_REFUSED:
            transport.abort()
        elif beyond > 0:
            self._refuse(_busy("there are too many connections; try again, or use fewer"))

    def data_received(self, data: bytes) -> None:
        """Feed the parser. Refuse the request once `max_header_bytes` arrive without completing a head or a chunk."""
        if self._refused:
            return
        self._incomplete_bytes += len(data)
        if self._deadline_s is None:
            self._deadline_s = self.loop.time() + self._bounds.header_timeout_s
        super().data_received(data)
        # An endless head, endless trailers of a chunked body, or endless extensions of its chunks.
        if self._incomplete_bytes > self._bounds.max_header_bytes and not self._refused:
            self._refuse(self._too_long())

    def on_headers_complete(self) -> None:
        """Check the request's head before the app gets it."""
        if self._incomplete_bytes > self._bounds.max_header_bytes or len(self.headers) > MOST_HEADERS:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._bounds.max_header_bytes or len(self.headers) > MOST_HEADERS:
                self._stop(self._too_long())
        if b"#" in self.url:  # the parser drops what follows a #, so the request would reach another resource
            self._stop(Refused(400, "malformed_path", "the request's target holds a literal #; write it as %23"))
        if len(self.pipeline) >= MOST_WAITING:
            self._stop(_busy(f"more than {MOST_WAITING} requests wait on this connection; use another one"))
        self._incomplete_bytes = 0
        self._body_arriving = True
        self._deadline_s = self.loop.time() + self._bounds.body_timeout_s
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count a part of a body as progress."""
        self._incomplete_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock until the next request begins."""
        self._incomplete_bytes = 0
        self._body_arriving = False
        self._deadline_s = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer with the bound at which we stopped the parser, or say that this is not HTTP."""
        self._refuse(self._parser_refusal or Refused(400, "malformed_request", _NOT_HTTP))

    def end_if_late(self, now_s: float) -> None:
        """Refuse or drop the connection if the client is too slow. `now_s` is the loop's time."""
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes == 0 or unsent_bytes < self._unsent_bytes:
            self._unsent_since_s = now_s
        self._unsent_bytes = unsent_bytes
        answer_is_late = unsent_bytes and now_s - self._unsent_since_s > self._bounds.body_timeout_s
        request_is_late = self._deadline_s is not None and now_s >= self._deadline_s
        if answer_is_late or (request_is_late and self._refused):
            self.transport.abort()
        elif request_is_late and self.flow.read_paused:
            self._deadline_s = now_s + TICK_S  # this server has stopped reading; the client is not to blame
        elif request_is_late:
            self._refuse(self._too_slow())

    def _too_long(self) -> Refused:
        most = f"{self._bounds.max_header_bytes} bytes and {MOST_HEADERS} headers"
        return Refused(431, "headers_too_large", f"the request line and the headers may have at most {most}")

    def _too_slow(self) -> Refused:
        part, timeout_s = "the request line and the headers", self._bounds.header_timeout_s
        if self._body_arriving:
            part, timeout_s = "the body", self._bounds.body_timeout_s
        return Refused(408, "request_timeout", f"{part} did not arrive within {timeout_s:g} s; send the request faster")

    def _stop(self, refusal: Refused) -> NoReturn:
        """Make the parser stop; uvicorn then calls `send_400_response`."""
        self._parser_refusal = refusal
        raise refusal

    def _refuse(self, refused: Refused) -> None:
        """Answer with the problem, throw away further bytes for `LINGER_S`, and close the connection."""
        self._refused = True
        self._deadline_s = self.loop.time() + LINGER_S
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        if self._may_answer(refused):
            self._write(refused)
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()
        cycle = self._newest_cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _may_answer(self, refused: Refused) -> bool:
        """Whether the client would take an answer that is written now as the answer to the refused request."""
        cycle = self._newest_cycle
        if cycle is not None and cycle.response_started:
            # An incomplete response must not be cut into. After a complete one the refused bytes may be the rest of
            # the same request's body.
            return cycle.response_complete and not self._body_arriving and not self._timed_out_idle(refused)
        return not self._timed_out_idle(refused)

    def _timed_out_idle(self, refused: Refused) -> bool:
        """True if this timeout hit an idle connection; an answer now could be taken for that to a request in flight."""
        timed_out = refused.status == HTTPStatus.REQUEST_TIMEOUT
        return timed_out and not self._body_arriving and self._incomplete_bytes == 0

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


class Server(GuestServer):
    """uvicorn's server within bounds. It logs no requests."""

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        config = _Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # nothing here uses the client's address
            timeout_graceful_shutdown=UVICORN_GRACE_S,
        )
        config.bounds = bounds
        super().__init__(config)
        self.server_state: LeavingState = LeavingState()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and abort the connections that uvicorn leaves open after its grace."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # an aborted transport frees its socket in the loop's next round

    def leave(self) -> None:
        """Let the next answer on each connection tell the client to use another connection."""
        self.server_state.leaving = True
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.leave()

    def stop_accepting(self) -> None:
        """Accept no further connections; open ones go on."""
        for server in self.servers:
            server.close()

    async def on_tick(self, counter: int) -> bool:
        """End slow connections, then do what uvicorn does on a tick."""
        now_s = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.end_if_late(now_s)
        return await super().on_tick(counter)


def allow_files(connections: int) -> None:
    """Raise this process's soft limit of open files for so many connections, up to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _busy(detail: str) -> Refused:
    return Refused(503, "unavailable", detail, headers=[(b"retry-after", b"1")])
