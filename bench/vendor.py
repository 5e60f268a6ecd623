"""The stand-in for the vendors: a separate process whose CPU time does not count.

It answers like SendGrid (`POST /v3/mail/send`) and Twilio (`POST …/Messages.json`) to a request that they accept, and
counts. It is far cheaper than the sandbox, does not check requests and sends no receipts.

`python -m bench.vendor PORT [DELAY_MS]`; each answer is delayed by DELAY_MS. Its own pages: `GET /count`,
`GET /arrivals/FIRST/COUNT` (when `ref-<index>` first arrived, wall clock in nanoseconds as int64; 0: never), and
`POST /reset`.
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
    """The HTTP requests since the start or the last reset, the notifications in them, and how many came twice."""

    requests: int
    arrivals: int
    repeated: int


class _Ledger:
    """Records when each index first arrived, and counts requests and arrivals."""

    def __init__(self) -> None:
        self.requests = 0
        self.arrivals = 0
        self.repeated = 0
        self._first_ns: dict[int, int] = {}
        self._mails = msgspec.json.Decoder(_Mail)

    def mail(self, body: bytes) -> None:
        self._note(body, len(self._mails.decode(body).personalizations))

    def text(self, body: bytes) -> None:
        self._note(body, 1)

    def _note(self, body: bytes, arrivals: int) -> None:
        self.requests += 1
        self.arrivals += arrivals
        now_ns = time.time_ns()
        for index in {int(digits) for digits in _REFERENCE.findall(body)}:
            if self._first_ns.setdefault(index, now_ns) != now_ns:
                self.repeated += 1

    def between(self, first: int, count: int) -> bytes:
        return array("q", [self._first_ns.get(index, 0) for index in range(first, first + count)]).tobytes()


class _Vendor(asyncio.Protocol):
    def __init__(self, ledger: list[_Ledger], delay_s: float) -> None:
        self._ledger = ledger
        self._delay_s = delay_s
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
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, answer)
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


async def serve(port: int, delay_s: float) -> None:
    """Answer until the process ends, each time after `delay_s`."""
    ledger = [_Ledger()]
    server = await asyncio.get_running_loop().create_server(lambda: _Vendor(ledger, delay_s), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.0))
