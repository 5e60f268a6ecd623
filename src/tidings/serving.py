"""The API as a role of a process: its socket, its server, and what watches beside it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from tidings.api.app import create_app, create_operations
from tidings.api.connections import Bounds, Server
from tidings.api.leaving import Farewell
from tidings.api.server import serve
from tidings.api.services import Services
from tidings.config import Settings
from tidings.listening import listen
from tidings.pipeline.accept.stage import Accept
from tidings.sections import Http, url_of

Ready = Callable[[Mapping[str, str]], None]
"""Told, for each role that listens, the address: `{"api": "http://127.0.0.1:8400"}`."""


async def run_api(
    services: Services,
    accept: Accept,
    settings: Settings,
    stopping: asyncio.Event,
    ready: Ready,
    listening: socket.socket | None,
) -> None:
    """Serve until `stopping` is set, on `listening`, which somebody else holds, or on a socket of its own.

    Raises:
        SettingsError: the port cannot be listened on.
    """
    http, stop = settings.http, settings.stop
    farewell = Farewell(drain=stop.drain, grace=stop.grace, held=listening is not None)
    plug = listening or listen(http.host, http.port)
    for_ever = asyncio.Event()  # they watch until the last answer is given, and then their sleep is not waited for
    async with _operations(services, settings, ready), asyncio.TaskGroup() as group:
        watching = [group.create_task(part.watch(for_ever)) for part in (accept, services.vitals)]
        await serve(create_app(services), plug, _bounds(http), farewell, stopping, lambda url: ready({"api": url}))
        for watch in watching:
            watch.cancel()


@asynccontextmanager
async def _operations(services: Services, settings: Settings, ready: Ready) -> AsyncIterator[None]:
    """The listener for those who run Tidings, where the settings name one. It ends last: it tells that the API ends."""
    place = settings.operations
    if place.port is None:
        yield
        return
    # Shared, so that a process and the one that takes its place can both be asked for a moment.
    plug = listen(place.host, place.port, "the operations", "operations.port", shared=True)
    server = Server(create_operations(services), _bounds(settings.http))
    serving = asyncio.create_task(server.serve(sockets=[plug]))
    await server.listening.wait()
    ready({"operations": url_of(place.host, plug.getsockname()[1])})
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _bounds(http: Http) -> Bounds:
    return Bounds(
        max_connections=http.max_connections,
        max_header_bytes=http.max_header_bytes,
        header_timeout=http.header_timeout,
        body_timeout=http.body_timeout,
    )
