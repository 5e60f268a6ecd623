"""The API as a role of a process: its socket, its server, and what watches beside it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping

from tidings.api.app import create_app
from tidings.api.connections import Bounds
from tidings.api.leaving import Farewell
from tidings.api.server import serve
from tidings.api.services import Services
from tidings.config import Settings
from tidings.listening import listen
from tidings.pipeline.accept import Accept
from tidings.sections import Http

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
    async with asyncio.TaskGroup() as group:
        watching = [group.create_task(part.watch(for_ever)) for part in (accept, services.vitals)]
        await serve(create_app(services), plug, _bounds(http), farewell, stopping, lambda url: ready({"api": url}))
        for watch in watching:
            watch.cancel()


def _bounds(http: Http) -> Bounds:
    return Bounds(
        max_connections=http.max_connections,
        max_header_bytes=http.max_header_bytes,
        header_timeout=http.header_timeout,
        body_timeout=http.body_timeout,
    )
