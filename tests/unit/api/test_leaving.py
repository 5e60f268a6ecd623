"""How the API stops: requests under way are answered, clients are told to leave, no request is lost. Raw sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from support import eventually
from tidings.api.connections import Bounds
from tidings.api.leaving import Shutdown
from tidings.api.server import serve
from tidings.listening import listen

GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD, BODY = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n", b"body"


@dataclass
class App:
    """Answers with the path; `/held` once `let_go` is set; `/echo` with the body."""

    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.append(scope["path"])
        text: bytes = scope["path"].encode()
        if text == b"/held":
            await self.let_go.wait()
        if text == b"/echo":
            text = b""
            while True:
                message = await receive()
                text += message["body"]
                if not message["more_body"]:
                    break
        head: list[tuple[bytes, bytes]] = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": text})


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[str, bool]:
        """The body of the next answer, and whether it ends the connection."""
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).lower()
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        return (await self.reader.readexactly(length)).decode(), b"connection: close" in head

    async def is_closed(self, seconds: float = 10) -> bool:
        """Whether the server closes the connection within so many seconds, without sending anything."""
        try:
            return await asyncio.wait_for(self.reader.read(), seconds) == b""
        except TimeoutError:
            return False


class Served:
    """The app, being served. With `shared_socket` the test keeps a copy of the listening socket, as a parent would."""

    def __init__(self, *, shared_socket: bool = False, **durations_s: float) -> None:
        self.app = App()
        self.stopping = asyncio.Event()
        self.socket = listen("127.0.0.1", 0)
        self.address = self.socket.getsockname()
        self.kept = self.socket.dup() if shared_socket else None
        self.lines: list[Line] = []
        shutdown = Shutdown(shared_socket=shared_socket, **durations_s)
        ready = asyncio.Event()
        self.ready = ready.wait
        self.serving = asyncio.create_task(
            serve(self.app, self.socket, Bounds(), shutdown, self.stopping, lambda _: ready.set())
        )

    async def connect(self) -> Line:
        line = Line(*await asyncio.open_connection(*self.address))
        self.lines.append(line)
        return line

    async def used(self) -> Line:
        """A connection that has had one request and is kept alive."""
        line = await self.connect()
        line.send(GET % b"first")
        assert await line.answer() == ("/first", False)
        return line

    async def close(self) -> None:
        self.app.let_go.set()
        self.stopping.set()
        for line in self.lines:
            line.writer.close()
        await asyncio.wait_for(self.serving, 20)
        if self.kept is not None:
            self.kept.close()


Start = Callable[..., Awaitable[Served]]


async def expect_stopped(served: Served) -> None:
    """Fail unless the server stops within 5 seconds, and without an error."""
    await asyncio.wait([served.serving], timeout=5)
    assert served.serving.done()
    await served.serving


@pytest.fixture
async def serving() -> AsyncIterator[Start]:
    opened: list[Served] = []

    async def start(**options: Any) -> Served:
        opened.append(Served(**options))
        await opened[-1].ready()
        return opened[-1]

    yield start
    for served in opened:
        await served.close()


async def test_the_next_answer_tells_a_client_to_leave(serving: Start) -> None:
    served = await serving(drain_s=10)
    active, silent = await served.used(), await served.used()
    served.stopping.set()
    await asyncio.sleep(0)
    active.send(GET % b"second")
    assert await active.answer() == ("/second", True)
    assert await active.is_closed()
    assert not await silent.is_closed(0.2)


async def test_silent_connections_are_closed_at_the_end_of_the_drain(serving: Start) -> None:
    served = await serving(drain_s=0.3)
    silent, fresh = await served.used(), await served.connect()
    served.stopping.set()
    assert await silent.is_closed()
    assert await fresh.is_closed()
    await expect_stopped(served)


async def test_a_request_under_way_is_answered_and_closes_its_connection(serving: Start) -> None:
    served = await serving(drain_s=0)
    line = await served.connect()
    line.send(GET % b"held")
    await eventually(lambda: served.app.begun)
    served.stopping.set()
    assert not await line.is_closed(0.3)
    served.app.let_go.set()
    assert await line.answer() == ("/held", True)
    await expect_stopped(served)


@pytest.mark.parametrize("sent", [b"POST /ec", HEAD, HEAD + BODY[:2]])
async def test_a_slow_request_may_arrive_to_its_end(serving: Start, sent: bytes) -> None:
    served = await serving(drain_s=0)
    line = await served.used()
    line.send(sent)
    if sent.startswith(HEAD):
        await eventually(lambda: "/echo" in served.app.begun)
    served.stopping.set()
    assert not await line.is_closed(0.3)
    line.send((HEAD + BODY)[len(sent) :])
    assert await line.answer() == ("body", True)
    assert await line.is_closed()


async def test_the_answer_to_the_last_pipelined_request_closes_the_connection(serving: Start) -> None:
    served = await serving(drain_s=0)
    line = await served.connect()
    line.send(GET % b"held")
    await eventually(lambda: served.app.begun)
    served.stopping.set()
    assert not await line.is_closed(0.2)
    line.send(GET % b"b" + GET % b"c" + HEAD + BODY)
    assert not await line.is_closed(0.1)
    served.app.let_go.set()
    assert [await line.answer() for _ in range(4)] == [("/held", False), ("/b", False), ("/c", False), ("body", True)]
    assert await line.is_closed()


async def test_the_server_stops_when_the_grace_is_over(serving: Start) -> None:
    served = await serving(drain_s=0, grace_s=0.3)
    line = await served.connect()
    line.send(GET % b"held")
    await eventually(lambda: served.app.begun)
    served.stopping.set()
    await expect_stopped(served)


async def test_no_connection_outlives_the_server(serving: Start) -> None:
    served = await serving(drain_s=0.1, grace_s=0.1)
    line = await served.connect()  # so new that a request on it may be on its way
    served.stopping.set()
    await expect_stopped(served)
    assert await line.is_closed(1)


async def test_an_own_socket_accepts_connections_until_the_drain_ends(serving: Start) -> None:
    served = await serving(drain_s=1)
    served.stopping.set()
    await asyncio.sleep(0)
    line = await served.connect()
    line.send(GET % b"late")
    assert await line.answer() == ("/late", True)
    await expect_stopped(served)
    with pytest.raises(ConnectionRefusedError):
        await served.connect()


async def test_a_shared_socket_is_left_to_other_processes_at_once(serving: Start) -> None:
    served = await serving(shared_socket=True, drain_s=10)
    old = await served.used()
    served.stopping.set()
    await eventually(lambda: served.socket.fileno() == -1)
    # Nobody accepts this connection yet, and nobody refuses it.
    waiting = await served.connect()
    waiting.send(GET % b"waiting")
    old.send(GET % b"second")
    assert await old.answer() == ("/second", True)
    await expect_stopped(served)
    assert not await waiting.is_closed(0.1)
    successor = App()
    stopping, ready = asyncio.Event(), asyncio.Event()
    assert served.kept is not None
    shutdown = Shutdown(drain_s=0, shared_socket=True)
    second = asyncio.create_task(
        serve(successor, served.kept.dup(), Bounds(), shutdown, stopping, lambda _: ready.set())
    )
    assert await waiting.answer() == ("/waiting", False)
    stopping.set()
    await asyncio.wait_for(second, 5)


async def test_an_idle_server_on_a_shared_socket_stops_at_once(serving: Start) -> None:
    served = await serving(shared_socket=True, drain_s=60, grace_s=60)
    served.stopping.set()
    await expect_stopped(served)
