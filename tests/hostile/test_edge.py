"""The edge: how many connections, how large a head, how slow a request; over plain sockets, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from support import eventually
from support.api import Api, World, running
from tidings.api.connections import MOST_HEADERS, MOST_REFUSED, MOST_WAITING, SPARE_FILES, Bounds, allow_files

SMS: dict[str, Any] = {"to": {"user_id": "demo"}, "content": {"sms": {"text": "hello"}}}
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
LAST = b"Connection: close\r\n\r\n"
BOUNDS = Bounds(max_connections=20, max_header_bytes=4_096, header_timeout_s=0.2, body_timeout_s=0.4)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running(World(bounds=BOUNDS)) as api:
        yield api


class Line:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def say(self, *chunks: bytes) -> None:
        """Send the chunks; stops quietly when the server closes the connection."""
        with contextlib.suppress(ConnectionError):
            for chunk in chunks:
                self._writer.write(chunk)
                await self._writer.drain()

    async def hear(self) -> bytes:
        """Everything that arrives until the server closes the connection."""
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while part := await self.reader.read(65536):
                heard += part
        return heard

    def hang_up(self) -> None:
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def line(api: Api) -> AsyncIterator[Line]:
    host, port = api.url.removeprefix("http://").split(":")
    opened = Line(*await asyncio.open_connection(host, int(port)))
    try:
        yield opened
    finally:
        opened.hang_up()


async def speak(api: Api, *chunks: bytes) -> bytes:
    async with line(api) as opened:
        await opened.say(*chunks)
        return await opened.hear()


def expect_problem_in(answer: bytes, status: int, code: str) -> dict[str, Any]:
    """The problem of the answer, checked to have this status and code and to close the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem: dict[str, Any] = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["detail"]
    return problem


async def post(api: Api, *lines: str, path: str = "/v1/notifications") -> bytes:
    first = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {await api.key()}"]
    return "\r\n".join([*first, "Content-Type: application/json", *lines, "", ""]).encode()


async def expect_service(api: Api) -> None:
    assert (await api.post("/v1/notifications", SMS)).status == 202


async def drip(opened: Line, pieces: Iterable[bytes]) -> bytes:
    """Send the pieces one by one, slowly, until the server closes the connection; everything that it answered."""
    hearing = asyncio.ensure_future(opened.hear())
    for piece in pieces:
        await opened.say(piece)
        await asyncio.wait({hearing}, timeout=0.02)
        if hearing.done():
            break
    return await hearing


# Slow


async def test_a_head_that_arrives_in_drips_is_refused(api: Api) -> None:
    async with line(api) as opened:
        answer = await drip(opened, [GET] + [b"X-%d: y\r\n" % number for number in range(500)])
    assert "headers" in expect_problem_in(answer, 408, "request_timeout")["detail"]


async def test_a_connection_without_a_request_is_closed_without_an_answer(api: Api) -> None:
    """The client could take an answer as the one to a request that it is just sending."""
    assert await speak(api) == b""


async def test_empty_lines_are_no_request(api: Api) -> None:
    async with line(api) as opened:
        answer = await drip(opened, [b"\r\n"] * 500)
    expect_problem_in(answer, 408, "request_timeout")


async def test_a_body_that_arrives_in_drips_is_refused(api: Api) -> None:
    for path in ("/v1/notifications", "/v1/users/batch", "/v1/receipts/signer"):
        async with line(api) as opened:
            head = await post(api, "Content-Length: 10000", path=path)
            answer = await drip(opened, [head] + [b" "] * 500)
        assert "body" in expect_problem_in(answer, 408, "request_timeout")["detail"]
    assert await api.waiting() == 0
    await expect_service(api)


async def test_endless_chunks_are_refused(api: Api) -> None:
    async with line(api) as opened:
        head = await post(api, "Transfer-Encoding: chunked")
        answer = await drip(opened, [head] + [b"1\r\n \r\n"] * 500)
    expect_problem_in(answer, 408, "request_timeout")


async def test_a_refused_request_whose_body_goes_on_gets_no_second_answer(api: Api) -> None:
    async with line(api) as opened:
        head = b"POST /v1/notifications HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n"
        answer = await drip(opened, [head] + [b" "] * 500)
    assert answer.startswith(b"HTTP/1.1 401")
    assert answer.count(b"HTTP/1.1") == 1


async def test_the_second_request_of_a_connection_has_its_own_time(api: Api) -> None:
    async with line(api) as opened:
        answer = await drip(opened, [GET + b"\r\n", GET] + [b"X: y\r\n"] * 500)
    first, second = answer.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200")
    assert second.startswith(b"408")


async def test_a_client_that_does_not_read_its_answer_is_dropped(api: Api) -> None:
    server_side = api.server.server_state.connections
    async with line(api) as opened:
        opened.reader._transport.pause_reading()  # type: ignore[attr-defined]
        asks = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
        await opened.say(asks * 20)
        await eventually(lambda: any(connection.transport.get_write_buffer_size() for connection in server_side))
        await eventually(lambda: not any(connection.transport.get_write_buffer_size() for connection in server_side))
    await expect_service(api)


# Large


async def test_a_head_that_is_too_large(api: Api) -> None:
    large = {
        "a value": GET + b"X: " + b"y" * 5_000 + b"\r\n" + LAST,
        "a name": GET + b"x" * 5_000 + b": y\r\n" + LAST,
        "the path": b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: x\r\n" + LAST,
        "the query": b"GET /v1/users/x?" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: x\r\n" + LAST,
        "many": GET + b"X: y\r\n" * (MOST_HEADERS + 1) + LAST,
        "all together": GET + b"".join(b"X-%d: %b\r\n" % (n, b"y" * 80) for n in range(60)) + LAST,
        "the key": GET + b"Authorization: Bearer " + b"y" * 5_000 + b"\r\n" + LAST,
    }
    for name, request in large.items():
        answer = await speak(api, request)
        assert "4096 bytes and 100 headers" in expect_problem_in(answer, 431, "headers_too_large")["detail"], name


async def test_a_head_of_the_largest_size_is_accepted(api: Api) -> None:
    room = BOUNDS.max_header_bytes - len(GET) - len(LAST) - 100
    assert (await speak(api, GET + b"X: " + b"y" * room + b"\r\n" + LAST)).startswith(b"HTTP/1.1 200")
    assert (await speak(api, GET + b"X: y\r\n" * (MOST_HEADERS - 2) + LAST)).startswith(b"HTTP/1.1 200")


async def test_an_endless_head_is_refused(api: Api) -> None:
    for start in (b"GET /", GET + b"X", GET + b"X: ", b"G" * 10):
        answer = await speak(api, start, *[b"y" * 10_000] * 100)
        assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")), (start, answer[:100])


async def test_trailers_and_extensions_of_chunks_are_bounded(api: Api) -> None:
    head = await post(api, "Transfer-Encoding: chunked")
    endless = {
        "trailers": [b"0\r\n"] + [b"X: y\r\n" * 100] * 200,
        "a trailer": [b"0\r\nX: "] + [b"y" * 1000] * 200,
        "an extension": [b"1;a="] + [b"y" * 1000] * 200,
    }
    for name, chunks in endless.items():
        answer = await speak(api, head, *chunks)
        assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")), (name, answer[:100])
    await expect_service(api)


# Many


async def test_connections_beyond_the_bound_are_refused_and_the_others_go_on(api: Api) -> None:
    async with contextlib.AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(line(api)) for _ in range(BOUNDS.max_connections)]
        await eventually(lambda: len(api.server.server_state.connections) == BOUNDS.max_connections)
        answer = await speak(api, GET + LAST)
        expect_problem_in(answer, 503, "unavailable")
        assert b"retry-after: 1" in answer
        await lines[0].say(GET + LAST)
        assert (await lines[0].hear()).startswith(b"HTTP/1.1 200")
    await eventually(lambda: not api.server.server_state.connections)
    await expect_service(api)


async def test_a_flood_of_connections_is_dropped(api: Api) -> None:
    most = BOUNDS.max_connections + MOST_REFUSED
    async with contextlib.AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(line(api)) for _ in range(most + 30)]
        assert await lines[-1].hear() == b""
        assert len(api.server.server_state.connections) <= most
    await eventually(lambda: not api.server.server_state.connections)
    await expect_service(api)


async def test_requests_that_wait_on_one_connection_are_bounded(api: Api) -> None:
    answer = await speak(api, (GET + b"\r\n") * (MOST_WAITING + 2))
    expect_problem_in(answer[answer.rindex(b"HTTP/1.1 ") :], 503, "unavailable")
    answer = await speak(api, (GET + b"\r\n") * (MOST_WAITING - 1) + GET + LAST)
    assert answer.count(b"HTTP/1.1 200") == MOST_WAITING


async def test_the_bodies_in_memory_are_bounded_together() -> None:
    batch = "/v1/notifications/batch"
    body = json.dumps({"notifications": [SMS] * 5_000}).encode()
    async with running() as api, line(api) as first:
        limits = api.world.limits
        assert limits.max_bodies_bytes / 2 < len(body) < limits.max_batch_bytes
        request = await post(api, f"Content-Length: {len(body)}", "Connection: close", path=batch) + body
        await first.say(request[:-1])
        front: Any = api.server.config.app
        await eventually(lambda: front._body_memory._free_bytes == limits.max_bodies_bytes - len(body) + 1)
        answer = await speak(api, request)
        expect_problem_in(answer, 503, "unavailable")
        assert b"retry-after: 1" in answer
        await first.say(request[-1:])
        assert b'"code":"batch_size"' in await first.hear()
        assert b'"code":"batch_size"' in await speak(api, request)
        assert front._body_memory._free_bytes == limits.max_bodies_bytes


# Ambiguous, malformed

SMUGGLED = {
    "two lengths": ["Content-Length: 2", "Content-Length: 3"],
    "length and chunks": ["Content-Length: 2", "Transfer-Encoding: chunked"],
    "chunks and length": ["Transfer-Encoding: chunked", "Content-Length: 2"],
    "negative length": ["Content-Length: -1"],
    "signed length": ["Content-Length: +2"],
    "length in hexadecimal": ["Content-Length: 0x2"],
    "length list": ["Content-Length: 2, 2"],
    "length that overflows": ["Content-Length: 18446744073709551618"],
    "two encodings": ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
    "encoding with a tab": ["Transfer-Encoding:\tchunked, x"],
    "space before the colon": ["Content-Length : 2"],
    "folded line": ["X: a", " b", "Content-Length: 2"],
    "bare line feed": ["X: a\nContent-Length: 2"],
    "bare carriage return": ["X: a\rContent-Length: 2"],
    "NUL": ["X: a\0b", "Content-Length: 2"],
}


@pytest.mark.parametrize("name", SMUGGLED)
async def test_requests_with_an_ambiguous_end_are_refused(api: Api, name: str) -> None:
    """A proxy in front might see the end elsewhere: bytes after it must never run as a request of their own."""
    head = await post(api, *SMUGGLED[name], path="/v1/notifications")
    smuggled = await post(api, "Content-Length: 2", "Connection: close", path="/v1/users/batch")
    answer = await speak(api, head + b"{}" + smuggled + b"{}")
    expect_problem_in(answer, 400, "malformed_request")
    assert await api.waiting() == 0


MALFORMED = {
    "binary": bytes(range(256)),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "SMTP": b"EHLO example.com\r\nMAIL FROM:<a@example.com>\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw UTF-8 in the path": "GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "a line break in a header's name": b"GET / HTTP/1.1\r\nHo\nst: x\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "proxy": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
    "absolute URL": b"GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "bad chunk size": b"POST /v1/notifications HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "endless chunk size": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_bytes_that_are_no_request_get_a_plain_4xx(api: Api, name: str, caplog: pytest.LogCaptureFixture) -> None:
    answer = await speak(api, MALFORMED[name])
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 401", b"HTTP/1.1 408")), answer
    assert b"application/problem+json" in answer
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    await expect_service(api)


async def test_an_upgrade_is_ignored(api: Api) -> None:
    answer = await speak(api, GET + b"Upgrade: websocket\r\nConnection: upgrade, close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_method_override_header_has_no_effect(api: Api) -> None:
    answer = await api.get("/v1/users/demo", headers={"X-HTTP-Method-Override": "DELETE"})
    assert answer.status == 200
    assert (await api.get("/v1/users/demo")).status == 200


def test_a_process_may_open_a_file_for_each_of_its_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        allow_files(500)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500 + SPARE_FILES
        allow_files(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500 + SPARE_FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
