"""The operations of a process (/healthz, /readyz, /metrics), beside any of its roles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidings.api.connections import Bounds, Server
from tidings.api.operations import create_operations
from tidings.api.services import Operating
from tidings.config import Settings
from tidings.listening import Ready, listen
from tidings.parts import Parts
from tidings.report.readiness import readiness
from tidings.sections import Http, url_of
from tidings.telemetry import metrics


def operating(parts: Parts, stopping: asyncio.Event) -> Operating:
    """What the operations of a process with these parts ask."""
    return Operating(
        readiness=lambda: readiness(parts.ping, parts.queue),
        metrics=lambda: (parts.metrics.exposition(), metrics.CONTENT_TYPE),
        stopping=stopping.is_set,
        roles=parts.roles,
    )


@asynccontextmanager
async def serving_operations(operating: Operating, settings: Settings, ready: Ready) -> AsyncIterator[None]:
    """Serve the operations on `operations.port`, if it is set.

    Around the process's other work: this listener ends last, and its /readyz says that the process is stopping.

    Raises:
        SettingsError: the port cannot be listened on.
    """
    host, port = settings.operations.host, settings.operations.port
    if port is None:
        yield
        return
    # Shared: during a restart the old and the new process listen at the same time.
    listener = listen(host, port, "the operations", "operations.port", shared=True)
    server = Server(create_operations(operating), bounds_of(settings.http))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.listening.wait()
    ready({"operations": url_of(host, listener.getsockname()[1])})
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def bounds_of(http: Http) -> Bounds:
    """The bounds of a listener's connections."""
    return Bounds(
        max_connections=http.max_connections,
        max_header_bytes=http.max_header_bytes,
        header_timeout_s=http.header_timeout,
        body_timeout_s=http.body_timeout,
    )
