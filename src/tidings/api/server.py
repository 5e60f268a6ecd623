"""Serving the app: uvicorn, bounded, and ending that so that no request dies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from starlette.types import ASGIApp

from tidings.api.connections import Bounds, Server, allow_files
from tidings.api.leaving import Farewell

_LOOK_EVERY = 0.05


async def serve(
    app: ASGIApp,
    listening: socket.socket,
    bounds: Bounds,
    farewell: Farewell,
    stopping: asyncio.Event,
    ready: Callable[[str], None],
) -> None:
    """Serve `app` on `listening` until `stopping` is set, then leave in order. `ready` is told the URL.

    First clients are told to go: each answer ends its connection. That takes `drain` seconds. A socket of our own
    accepts connections meanwhile, because a load balancer learns from /readyz, and late, to send none; where it is
    held outside the drain ends when no connection is left. At its end idle connections are closed; what is under way
    may take until the grace is over.
    """
    allow_files(bounds.max_connections)
    server = Server(app, bounds)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    started, asked = asyncio.create_task(server.listening.wait()), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({started, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            host, port = listening.getsockname()[:2]
            ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
            await asyncio.wait({asked, serving}, return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        if not serving.done():
            await _leave(server, serving, farewell)
    finally:
        started.cancel()
        asked.cancel()
        server.should_exit = True
        await serving


async def _leave(server: Server, serving: asyncio.Task[None], farewell: Farewell) -> None:
    loop = asyncio.get_running_loop()
    told = loop.time()
    server.leave()
    if farewell.held:
        server.stop_accepting()
    drained = told + min(farewell.drain, farewell.grace)
    while (left := drained - loop.time()) > 0:
        # At least one look later: what was accepted a moment ago is no connection yet.
        await asyncio.wait({serving}, timeout=min(left, _LOOK_EVERY))
        if farewell.held and not server.server_state.connections:
            break
    server.stop_accepting()
    while server.server_state.connections and (left := told + farewell.grace - loop.time()) > 0:
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await asyncio.wait({serving}, timeout=min(left, _LOOK_EVERY))
