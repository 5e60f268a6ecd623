"""Serving the app: uvicorn, bounded, on a socket of our own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from starlette.types import ASGIApp

from tidings.api.connections import Bounds, Server, allow_files
from tidings.model.errors import SettingsError


async def serve(
    app: ASGIApp, host: str, port: int, bounds: Bounds, stopping: asyncio.Event, ready: Callable[[str], None]
) -> None:
    """Serve until `stopping` is set; requests under way are answered first. `ready` is told the URL; port 0: any.

    Raises:
        SettingsError: the port cannot be listened on.
    """
    allow_files(bounds.max_connections)
    server = Server(app, bounds)
    listening = _listen(host, port)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    ready(f"http://{host}:{listening.getsockname()[1]}")
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({stop, serving}, return_when=asyncio.FIRST_COMPLETED)
    stopping.set()
    stop.cancel()
    server.should_exit = True
    await serving


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket: requests wait in its backlog until the server takes them."""
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048, reuse_port=False
        )
    except OSError as error:
        raise SettingsError(
            f"the API cannot listen on {host}:{port} ({error.strerror}); choose another port with --port (0: any)"
        ) from error
    # What is accepted inherits it: asyncio's own loop sets it only on sockets made with the protocol's number. Without
    # it an answer's body waits up to 40 ms for the acknowledgement of its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
