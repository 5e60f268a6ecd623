"""The vendors' stand-in: a process of its own, whose CPU time is not counted.

It answers what SendGrid (`POST /v3/mail/send`) and Twilio (`POST …/Messages.json`) answer to a request that they take,
and counts. It is far cheaper than the product's sandbox, does not check what it gets and sends no receipts.

`python -m bench.vendor PORT [DELAY_MS]`; each answer is held back for DELAY_MS. Its own pages: `GET /count`,
`GET /arrivals/FIRST/COUNT` (wall clock in ns at which `ref-<index>` was first seen, as int64, 0: never), `POST /reset`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from array import array
from typing import cast

import httptools
import msgspec
import uvloop
from msgspec import Struct

_REFERENCE = re.compile(rb"ref-(\d+)")


class _Mail(Struct):
    personalizations: list[msgspec.Raw]


class Count(Struct, frozen=True):
    """What arrived since the start or the last reset: HTTP requests, and notifications in them."""

    requests: int
    arrivals: int
    repeated: int


class _Ledger:
    """When each index was first seen, and how many arrived in all."""

    def __init__(self) -> None:
        self.requests = 0
        self.arrivals = 0
        self.repeated = 0
        self._seen: dict[int, int] = {}
        self._mails = msgspec.json.Decoder(_Mail)

    def mail(self, body: bytes) -> None:
        self._note(body, len(self._mails.decode(body).personalizations))

    def text(self, body: bytes) -> None:
        self._note(body, 1)

    def _note(self, body: bytes, arrivals: int) -> None:
        self.requests += 1
        self.arrivals += arrivals
        now = time.time_ns()
        for index in {int(found) for found in _REFERENCE.findall(body)}:
            if self._seen.setdefault(index, now) != now:
                self.repeated += 1

    def between(self, first: int, count: int) -> bytes:
        return array("q", [self._seen.get(index, 0) for index in range(first, first + count)]).tobytes()


class _Vendor(asyncio.Protocol):
    def __init__(self, ledger: list[_Ledger], delay: float) -> None:
        self._ledger = ledger
        self._delay = delay
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = b""
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._transport is not None
        answer = self._answer(self._url.partition(b"?")[0], b"".join(self._body))
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._transport.write, answer)
        else:
            self._transport.write(answer)

    def _answer(self, path: bytes, body: bytes) -> bytes:
        ledger = self._ledger[0]
        if path.endswith(b"/mail/send"):
            ledger.mail(body)
            return b"HTTP/1.1 202 Accepted\r\nx-message-id: m%x\r\ncontent-length: 0\r\n\r\n" % ledger.requests
        if path.endswith(b"/Messages.json"):
            ledger.text(body)
            return _http(b"201 Created", b'{"sid":"SM%032x","status":"queued","error_code":null}' % ledger.requests)
        if path == b"/count":
            return _http(b"200 OK", msgspec.json.encode(Count(ledger.requests, ledger.arrivals, ledger.repeated)))
        if path.startswith(b"/arrivals/"):
            first, count = path.split(b"/")[2:4]
            return _http(b"200 OK", ledger.between(int(first), int(count)))
        if path == b"/reset":
            self._ledger[0] = _Ledger()
            return _http(b"200 OK", b"{}")
        return _http(b"404 Not Found", b"{}")


def _http(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


async def serve(port: int, delay: float) -> None:
    """Answer until the process is ended; `delay` in seconds."""
    ledger = [_Ledger()]
    server = await asyncio.get_running_loop().create_server(lambda: _Vendor(ledger, delay), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.0))
