"""The sandbox's HTTP: bare ASGI, because under load the vendors' routes must be fast."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidings.sandbox.faults import Fault, Kind

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

RESET = "tidings.reset"
"""An ASGI extension: `scope["extensions"][RESET]()` resets the connection of the request."""

JSON: Headers = ((b"content-type", b"application/json"),)
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The errors that decoding JSON raises when it is malformed, not UTF-8, or nested too deeply."""

_GARBAGE = b'{"ok": tru\xff\x00<html>\r\n'
_DRIPS = 10


class Request(Struct, frozen=True):
    """An HTTP request with its whole body."""

    method: str
    path: str
    query: str
    headers: Iterable[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes:
        """The first header with this name (lower case); empty if there is none."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""


class Answer(Struct, frozen=True):
    """An HTTP answer."""

    status: int
    body: bytes = b""
    headers: Headers = JSON


class TooLarge(Exception):
    """The body is larger than the vendor takes."""


class ClosedEarly(Exception):
    """The client went away before its whole body arrived."""


class ResettableProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with an extension that resets the TCP connection of a request."""

    def on_headers_complete(self) -> None:
        """Add the extension to the scope before the app gets the request."""
        self.scope["extensions"] = {RESET: self._reset}  # type: ignore[dict-item]
        super().on_headers_complete()

    def _reset(self) -> None:
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:  # the client may have gone first
            # With a linger time of 0 closing sends RST instead of FIN.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def json_answer(status: int, value: object, headers: Headers = ()) -> Answer:
    """An answer with `value` as JSON."""
    return Answer(status, msgspec.json.encode(value), JSON + headers)


def retry_after(seconds: float | None) -> Headers:
    """The Retry-After header for `seconds`, rounded up to whole seconds (RFC 9110, section 10.2.3)."""
    return () if seconds is None else ((b"retry-after", str(-int(-seconds // 1)).encode()),)


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body of a request.

    Raises:
        TooLarge: the body has more than `limit` bytes.
        ClosedEarly: the client went away.
    """
    event = await receive()
    if event["type"] != "http.request":
        raise ClosedEarly
    body: bytes = event.get("body", b"")
    if not event.get("more_body", False):
        if len(body) > limit:
            raise TooLarge
        return body
    pieces = [body]
    size = len(body)
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise ClosedEarly
        pieces.append(event.get("body", b""))
        size += len(pieces[-1])
        if size > limit:
            raise TooLarge
        if not event.get("more_body", False):
            return b"".join(pieces)


async def send_answer(send: Send, answer: Answer) -> None:
    """Send an answer with its length."""
    headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def play(fault: Fault, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    """Send `answer`, spoilt as `fault` demands. A status fault is already in the answer."""
    match fault.kind:
        case Kind.HANG:
            await _wait(fault.duration_s, receive)
            scope["extensions"][RESET]()
        case Kind.RESET:
            scope["extensions"][RESET]()
        case Kind.LATENCY:
            await _wait(fault.duration_s, receive)
            await send_answer(send, answer)
        case Kind.SLOW_BODY:
            await _drip(answer, fault.duration_s, receive, send)
        case Kind.GARBAGE:
            headers = tuple(pair for pair in answer.headers if not pair[0].startswith(b"x-"))
            await send_answer(send, Answer(answer.status, _GARBAGE, headers))
        case _:
            await send_answer(send, answer)


async def _drip(answer: Answer, seconds: float, receive: Receive, send: Send) -> None:
    headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    size = max(1, -(-len(answer.body) // _DRIPS))
    for start in range(0, len(answer.body), size):
        if not await _wait(seconds / _DRIPS, receive):
            return
        piece = answer.body[start : start + size]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _wait(seconds: float, receive: Receive) -> bool:
    """Wait for `seconds`; returns False as soon as the client goes away."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                continue
    except TimeoutError:
        return True
    return False


def tags_of(values: Mapping[str, object] | None) -> dict[str, str]:
    """A sender's own fields, with their values as text."""
    return {key: value if isinstance(value, str) else str(value) for key, value in (values or {}).items()}
