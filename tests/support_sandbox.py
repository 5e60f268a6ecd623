"""A sandbox being served, and somebody who gets its receipts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from pyreqwest.client import Client, ClientBuilder

from tidings.sandbox.credentials import Credentials, load_or_create
from tidings.sandbox.server import Handle, serve
from tidings.sandbox.wire import Receive, Scope, Send


class Posted:
    """One POST that came."""

    def __init__(self, url: str, headers: dict[str, str], body: bytes) -> None:
        self.url = url
        self.headers = headers
        self.body = body


class Listener:
    """An HTTP server that keeps what is posted to it. `answers` are the statuses to give, then 204."""

    def __init__(self) -> None:
        self.posted: list[Posted] = []
        self.answers: list[int] = []
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.posted.append(Posted(f"{self.url}{scope['path']}{query}", headers, body))
        status = self.answers.pop(0) if self.answers else 204
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """A Listener, served."""
    listener = Listener()
    config = uvicorn.Config(listener, host="127.0.0.1", port=0, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    listener.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    serving = asyncio.create_task(server.main_loop())
    try:
        yield listener
    finally:
        server.should_exit = True
        await serving
        await server.shutdown()


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return load_or_create(tmp_path_factory.mktemp("credentials"))


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with listening() as one:
        yield one


@pytest.fixture
async def sandbox(credentials: Credentials, listener: Listener, tmp_path: Path) -> AsyncIterator[Handle]:
    handle = await serve("127.0.0.1", 0, 0, credentials, f"{listener.url}/v1/receipts", tmp_path / "arrivals.jsonl")
    try:
        yield handle
    finally:
        await handle.stop()


@pytest.fixture
async def http() -> AsyncIterator[Client]:
    client = ClientBuilder().no_proxy().build()
    try:
        yield client
    finally:
        await client.close()
