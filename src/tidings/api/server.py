"""Serving the app with uvicorn, and stopping so that no request is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from starlette.types import ASGIApp

from tidings.api.connections import Bounds, Server, allow_files
from tidings.api.leaving import Shutdown

_LOOK_EVERY_S = 0.05


async def serve(
    app: ASGIApp,
    listening: socket.socket,
    bounds: Bounds,
    shutdown: Shutdown,
    stopping: asyncio.Event,
    ready: Callable[[str], None],
) -> None:
    """Serve `app` on `listening` until `stopping` is set, then stop. `ready` is called with the URL.

    Stopping has two phases. For `drain_s` seconds every answer closes its connection. The server accepts new
    connections meanwhile, because a load balancer learns from /readyz, and late, to send none. A shared socket is
    different: others accept on it, so this server stops accepting at once and the phase ends with the last connection.
    Then idle connections are closed, and requests under way may take until `grace_s` seconds have passed.
    """
    allow_files(bounds.max_connections)
    server = Server(app, bounds)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    started, stop_asked = asyncio.create_task(server.listening.wait()), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({started, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            host, port = listening.getsockname()[:2]
            ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
            await asyncio.wait({stop_asked, serving}, return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        if not serving.done():
            await _leave(server, serving, shutdown)
    finally:
        started.cancel()
        stop_asked.cancel()
        server.should_exit = True
        await serving


async def _leave(server: Server, serving: asyncio.Task[None], shutdown: Shutdown) -> None:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    server.leave()
    if shutdown.shared_socket:
        server.stop_accepting()
    drain_ends_s = began_s + min(shutdown.drain_s, shutdown.grace_s)
    while (left_s := drain_ends_s - loop.time()) > 0:
        # Wait at least once before looking: a socket that was accepted a moment ago is not in `connections` yet.
        await asyncio.wait({serving}, timeout=min(left_s, _LOOK_EVERY_S))
        if shutdown.shared_socket and not server.server_state.connections:
            break
    server.stop_accepting()
    while server.server_state.connections and (left_s := began_s + shutdown.grace_s - loop.time()) > 0:
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await asyncio.wait({serving}, timeout=min(left_s, _LOOK_EVERY_S))
