"""The load generator: a process of its own, whose CPU time is not counted.

`python -m bench.load` reads a `Load` as JSON from its standard input and writes a `Loaded` to its standard output.
Closed loop (`rate` 0): each connection sends its next request when the answer to the last one is complete. Open loop:
requests are due at fixed instants and a latency is measured from that instant, whether or not a connection was free.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections import deque
from pathlib import Path
from typing import cast

import msgspec
import uvloop
from msgspec import Struct

from bench.http import AnswerReader, BadAnswer


class Load(Struct, frozen=True, kw_only=True):
    """What to send.

    `item` is the JSON of one notification with `@user@` and `@index@` in it; `batch` of them (0: one, unwrapped) go
    between `prefix` and `suffix`. Indices run from `first`. `turns` are words for `@turn@` in `item`, one request after
    the other. `rate` is notifications a second. The file `instants` gets when each index was due (closed: sent), in
    nanoseconds of the wall clock; the file `statuses` each answer's status; both as int64.
    """

    port: int
    path: str
    item: str
    count: int
    headers: dict[str, str] = {}
    host: str = "127.0.0.1"
    first: int = 0
    batch: int = 0
    prefix: str = ""
    suffix: str = ""
    users: int = 10_000
    connections: int = 32
    rate: float = 0.0
    instants: str = ""
    turns: list[str] = []
    statuses: str = ""


class Loaded(Struct, frozen=True, kw_only=True):
    """What came of it. Latencies are in milliseconds, of whole requests."""

    requests: int
    refused: int
    seconds: float
    p50: float
    p99: float
    p999: float
    first_refusal: str = ""


def percentile(ordered: list[float] | array[float], share: float) -> float:
    """The value at `share` (0 to 1) of an ascending sequence; 0.0 of an empty one."""
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))]) if ordered else 0.0


def user_of(index: int, users: int) -> str:
    """The user that the notification `index` is for: every user in turn, in a scattered order."""
    return f"user-{index * 7919 % users}"


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None
        self._number = 0
        self._started = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses
        self._run.free(self)

    def send(self, number: int, request: bytes, started: int) -> None:
        assert self._transport is not None
        self._number = number
        self._started = started
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            answer = self._reader.feed(data)
        except (BadAnswer, ValueError) as error:
            self._run.fail(error)
            return
        if answer is not None:
            self._run.answered(self._number, time.time_ns() - self._started, *answer)
            self._run.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.fail(BadAnswer(f"the server closed a connection: {exc}"))


class _Run:
    def __init__(self, load: Load) -> None:
        self.load = load
        self._per_request = load.batch or 1
        if load.count % self._per_request:
            raise ValueError("count must be a multiple of batch")
        self.total = load.count // self._per_request
        self.sent = 0
        self.refused = 0
        self.first_refusal = ""
        self.latencies = array("d")
        self.due = array("q")
        self.statuses = array("q", bytes(8 * self.total))
        self._idle: deque[_Connection] = deque()
        self._backlog: deque[tuple[int, bytes, int]] = deque()
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        fields = "".join(f"{name}: {value}\r\n" for name, value in load.headers.items())
        self._head = f"POST {load.path} HTTP/1.1\r\nhost: {load.host}\r\ncontent-type: application/json\r\n{fields}"

    def request(self, number: int) -> bytes:
        load = self.load
        first = load.first + number * self._per_request
        item = load.item.replace("@turn@", load.turns[number % len(load.turns)]) if load.turns else load.item
        items = ",".join(
            item.replace("@user@", user_of(index, load.users)).replace("@index@", str(index))
            for index in range(first, first + self._per_request)
        )
        body = f"{load.prefix}{items}{load.suffix}".encode()
        return f"{self._head}content-length: {len(body)}\r\n\r\n".encode() + body

    def free(self, connection: _Connection) -> None:
        if self._backlog:
            connection.send(*self._backlog.popleft())
        elif self.load.rate or self.sent == self.total:
            self._idle.append(connection)
        else:
            self.sent += 1
            now = time.time_ns()
            self.due.extend([now] * self._per_request)
            connection.send(self.sent - 1, self.request(self.sent - 1), now)

    def offer(self, number: int, due: int) -> None:
        request = self.request(number)
        if self._idle:
            self._idle.popleft().send(number, request, due)
        else:
            self._backlog.append((number, request, due))

    def answered(self, number: int, nanoseconds: int, status: int, body: bytes) -> None:
        self.latencies.append(nanoseconds / 1e6)
        self.statuses[number] = status
        if not 200 <= status < 300:
            self.refused += 1
            self.first_refusal = self.first_refusal or f"{status} {body[:500].decode(errors='replace')}"
        if len(self.latencies) == self.total and not self.finished.done():
            self.finished.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)


async def _pace(run: _Run) -> None:
    """Offer requests at their instants. Ticks of about a millisecond: a late tick offers all that is due."""
    start = time.time_ns() + 50_000_000
    gap = 1e9 * (run.load.batch or 1) / run.load.rate
    while run.sent < run.total:
        due = start + int(run.sent * gap)
        wait = due - time.time_ns()
        if wait > 0:
            await asyncio.sleep(wait / 1e9)
            continue
        run.due.extend([due] * (run.load.batch or 1))
        run.offer(run.sent, due)
        run.sent += 1


async def drive(load: Load) -> tuple[Loaded, dict[str, array[int]]]:
    """Send it all and return when the last answer came; what came of it, and what belongs into the files.

    Raises:
        BadAnswer: the server closed a connection or answered something that is not HTTP/1.1.
    """
    loop = asyncio.get_running_loop()
    run = _Run(load)
    started = time.perf_counter()
    transports = [
        (await loop.create_connection(lambda: _Connection(run), load.host, load.port))[0]
        for _ in range(min(load.connections, run.total))
    ]
    if load.rate:
        await _pace(run)
    await run.finished
    seconds = time.perf_counter() - started
    for transport in transports:
        transport.abort()
    ordered = sorted(run.latencies)
    loaded = Loaded(
        requests=run.total,
        refused=run.refused,
        seconds=seconds,
        p50=percentile(ordered, 0.5),
        p99=percentile(ordered, 0.99),
        p999=percentile(ordered, 0.999),
        first_refusal=run.first_refusal,
    )
    return loaded, {load.instants: run.due, load.statuses: run.statuses}


if __name__ == "__main__":
    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    outcome, files = uvloop.run(drive(wanted))
    for file, values in files.items():
        if file:
            Path(file).write_bytes(values.tobytes())
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
