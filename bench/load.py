"""The load generator: a process of its own, whose CPU time is not counted.

`python -m bench.load` reads a `Load` as JSON from its standard input and writes a `Loaded` to its standard output.
Closed loop (`rate_per_s` 0): each connection sends its next request when the answer to the last one is complete.
Open loop: requests are due at fixed instants, and latencies count from those, whether or not a connection was free.
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
    """The requests to send.

    `item` is the JSON of one notification with the placeholders `@user@`, `@index@` and, if `lanes` is given, `@lane@`.
    A request holds `batch` items between `prefix` and `suffix`; 0: one item alone. Indices run from `first`. `lanes`
    gives the lane of each request, in turn. `rate_per_s` counts notifications. `instants_file` gets the instant at
    which each index was due (closed loop: sent), in nanoseconds of the wall clock; `statuses_file` the status of each
    answer; both as int64.
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
    rate_per_s: float = 0.0
    instants_file: str = ""
    lanes: list[str] = []
    statuses_file: str = ""


class Loaded(Struct, frozen=True, kw_only=True):
    """The answers in numbers: how many were refused, and the latencies of whole requests."""

    requests: int
    refused: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    first_refusal: str = ""


def percentile(ordered: list[float] | array[float], share: float) -> float:
    """Return the value at `share` (0 to 1) of an ascending sequence; 0.0 for an empty one."""
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))]) if ordered else 0.0


def user_of(index: int, users: int) -> str:
    """Return the user id for notification `index`: every user in turn, in a scattered order."""
    return f"user-{index * 7919 % users}"


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None
        self._number = 0
        self._started_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses
        self._run.free(self)

    def send(self, number: int, request: bytes, started_ns: int) -> None:
        assert self._transport is not None
        self._number = number
        self._started_ns = started_ns
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            answer = self._reader.feed(data)
        except (BadAnswer, ValueError) as error:
            self._run.fail(error)
            return
        if answer is not None:
            self._run.answered(self._number, time.time_ns() - self._started_ns, *answer)
            self._run.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.fail(BadAnswer(f"the server closed a connection: {exc}"))


class _Run:
    def __init__(self, load: Load) -> None:
        self.load = load
        self._per_request = load.batch or 1
        if load.count % self._per_request:
            raise ValueError(f"count ({load.count}) must be a multiple of batch ({load.batch})")
        self.total = load.count // self._per_request
        self.sent = 0
        self.refused = 0
        self.first_refusal = ""
        self.latencies_ms = array("d")
        self.due_ns = array("q")
        self.statuses = array("q", bytes(8 * self.total))
        self._idle: deque[_Connection] = deque()
        self._backlog: deque[tuple[int, bytes, int]] = deque()
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        fields = "".join(f"{name}: {value}\r\n" for name, value in load.headers.items())
        self._head = f"POST {load.path} HTTP/1.1\r\nhost: {load.host}\r\ncontent-type: application/json\r\n{fields}"

    def request(self, number: int) -> bytes:
        load = self.load
        first = load.first + number * self._per_request
        item = load.item.replace("@lane@", load.lanes[number % len(load.lanes)]) if load.lanes else load.item
        items = ",".join(
            item.replace("@user@", user_of(index, load.users)).replace("@index@", str(index))
            for index in range(first, first + self._per_request)
        )
        body = f"{load.prefix}{items}{load.suffix}".encode()
        return f"{self._head}content-length: {len(body)}\r\n\r\n".encode() + body

    def free(self, connection: _Connection) -> None:
        if self._backlog:
            connection.send(*self._backlog.popleft())
        elif self.load.rate_per_s or self.sent == self.total:
            self._idle.append(connection)
        else:
            self.sent += 1
            now = time.time_ns()
            self.due_ns.extend([now] * self._per_request)
            connection.send(self.sent - 1, self.request(self.sent - 1), now)

    def offer(self, number: int, due_ns: int) -> None:
        request = self.request(number)
        if self._idle:
            self._idle.popleft().send(number, request, due_ns)
        else:
            self._backlog.append((number, request, due_ns))

    def answered(self, number: int, latency_ns: int, status: int, body: bytes) -> None:
        self.latencies_ms.append(latency_ns / 1e6)
        self.statuses[number] = status
        if not 200 <= status < 300:
            self.refused += 1
            self.first_refusal = self.first_refusal or f"{status} {body[:500].decode(errors='replace')}"
        if len(self.latencies_ms) == self.total and not self.finished.done():
            self.finished.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)


async def _pace(run: _Run) -> None:
    """Send requests at their due instants. If a wake-up is late, send all requests that are due by then."""
    start_ns = time.time_ns() + 50_000_000
    gap_ns = 1e9 * (run.load.batch or 1) / run.load.rate_per_s
    while run.sent < run.total:
        due_ns = start_ns + int(run.sent * gap_ns)
        wait_ns = due_ns - time.time_ns()
        if wait_ns > 0:
            await asyncio.sleep(wait_ns / 1e9)
            continue
        run.due_ns.extend([due_ns] * (run.load.batch or 1))
        run.offer(run.sent, due_ns)
        run.sent += 1


async def drive(load: Load) -> tuple[Loaded, dict[str, array[int]]]:
    """Send all requests and wait for the last answer; return the numbers, and the values for each file.

    Raises:
        BadAnswer: the server closed a connection, or its answer is not HTTP/1.1.
    """
    loop = asyncio.get_running_loop()
    run = _Run(load)
    started = time.perf_counter()
    transports = [
        (await loop.create_connection(lambda: _Connection(run), load.host, load.port))[0]
        for _ in range(min(load.connections, run.total))
    ]
    if load.rate_per_s:
        await _pace(run)
    await run.finished
    duration_s = time.perf_counter() - started
    for transport in transports:
        transport.abort()
    ordered = sorted(run.latencies_ms)
    loaded = Loaded(
        requests=run.total,
        refused=run.refused,
        duration_s=duration_s,
        p50_ms=percentile(ordered, 0.5),
        p99_ms=percentile(ordered, 0.99),
        p999_ms=percentile(ordered, 0.999),
        first_refusal=run.first_refusal,
    )
    return loaded, {load.instants_file: run.due_ns, load.statuses_file: run.statuses}


if __name__ == "__main__":
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    outcome, files = uvloop.run(drive(load))
    for file, values in files.items():
        if file:
            Path(file).write_bytes(values.tobytes())
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
