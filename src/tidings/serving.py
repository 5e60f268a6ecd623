"""The API as a role of a process: its sockets, its servers, and the watchers that run beside them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from tidings.api.app import create_app, create_operations
from tidings.api.connections import Bounds, Server
from tidings.api.leaving import Shutdown
from tidings.api.server import serve
from tidings.api.services import Services
from tidings.config import Settings
from tidings.listening import listen
from tidings.pipeline.accept.stage import Accept
from tidings.sections import Http, url_of

Ready = Callable[[Mapping[str, str]], None]
"""Called with the address of each role that is ready: `{"api": "http://127.0.0.1:8400"}`."""


async def run_api(
    services: Services,
    accept: Accept,
    settings: Settings,
    stopping: asyncio.Event,
    ready: Ready,
    listening: socket.socket | None,
) -> None:
    """Serve until `stopping` is set.

    Listens on `listening`, a socket that outlives this process, or, if it is None, on a socket of its own.

    Raises:
        SettingsError: the port cannot be listened on.
    """
    http, stop = settings.http, settings.stop
    shutdown = Shutdown(drain_s=stop.drain, grace_s=stop.grace, shared_socket=listening is not None)
    listener = listening or listen(http.host, http.port)
    never_set = asyncio.Event()  # the watchers run until the last answer is out; then they are cancelled
    async with _operations(services, settings, ready), asyncio.TaskGroup() as group:
        watchers = [group.create_task(part.watch(never_set)) for part in (accept, services.vitals)]
        await serve(create_app(services), listener, _bounds(http), shutdown, stopping, lambda url: ready({"api": url}))
        for watcher in watchers:
            watcher.cancel()


@asynccontextmanager
async def _operations(services: Services, settings: Settings, ready: Ready) -> AsyncIterator[None]:
    """Serve /healthz, /readyz and /metrics on a port of their own, if `operations.port` is set.

    This listener ends last: its /readyz says that the API is stopping.
    """
    operations = settings.operations
    if operations.port is None:
        yield
        return
    # Shared: during a restart the old and the new process listen at the same time.
    listener = listen(operations.host, operations.port, "the operations", "operations.port", shared=True)
    server = Server(create_operations(services), _bounds(settings.http))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.listening.wait()
    ready({"operations": url_of(operations.host, listener.getsockname()[1])})
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _bounds(http: Http) -> Bounds:
    return Bounds(
        max_connections=http.max_connections,
        max_header_bytes=http.max_header_bytes,
        header_timeout_s=http.header_timeout,
        body_timeout_s=http.body_timeout,
    )
