"""Serves the sandbox: HTTP by uvicorn and SMTP by aiosmtpd, in the running loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from tidings.http_server import GuestServer
from tidings.model.errors import SettingsError
from tidings.sandbox.app import Options, Sandbox, create_app
from tidings.sandbox.credentials import Credentials
from tidings.sandbox.wire import ResettableProtocol

_BACKLOG = 2048
_SHUTDOWN_S = 2


class Handle:
    """A sandbox that is being served. `port` and `smtp_port` are the real ports, also if port 0 was asked for."""

    def __init__(
        self, sandbox: Sandbox, http: GuestServer, serving: asyncio.Task[None], smtp: asyncio.Server, host: str
    ) -> None:
        self.sandbox = sandbox
        self.host = host
        self.port: int = http.servers[0].sockets[0].getsockname()[1]
        self.smtp_port: int = smtp.sockets[0].getsockname()[1]
        self._http = http
        self._serving = serving
        self._smtp = smtp

    @property
    def url(self) -> str:
        """The base URL of the vendors' routes and of the page, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def stop(self) -> None:
        """Stop serving and free the ports. Receipts that were not sent are dropped."""
        self.sandbox.close_streams()
        self._smtp.close()
        self._http.should_exit = True
        await self._serving
        await self.sandbox.stop()


async def serve(
    host: str,
    port: int,
    smtp_port: int,
    credentials: Credentials,
    receipts_url: str | None = None,
    log_path: Path | None = None,
    hint: str = "",
    timeline: str = "",
    held: tuple[socket.socket, socket.socket] | None = None,
    allowed_hosts: Sequence[str] = (),
) -> Handle:
    """Serve a sandbox on `host` until the handle's `stop`; port 0 means any free port.

    `held` are listening sockets for HTTP and SMTP, which stay open afterwards. For the other arguments see `Options`.

    Raises:
        SettingsError: a port is taken or not allowed, or the file cannot be written.
    """
    options = Options(
        receipts_url=receipts_url,
        log_path=log_path,
        hint=hint,
        timeline=timeline,
        host=host,
        allowed_hosts=tuple(allowed_hosts),
    )
    sandbox = create_app(credentials, options)
    http, mail = held or _listen_twice(host, port, smtp_port)
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    smtp = await asyncio.get_running_loop().create_server(sandbox.smtp.protocol, sock=mail)
    config = uvicorn.Config(
        sandbox,
        http=ResettableProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        timeout_keep_alive=75,
        backlog=_BACKLOG,
    )
    sandbox.start()
    server = GuestServer(config)
    serving = asyncio.create_task(server.serve(sockets=[http]))
    await server.listening.wait()
    return Handle(sandbox, server, serving, smtp, host)


def _listen_twice(host: str, port: int, smtp_port: int) -> tuple[socket.socket, socket.socket]:
    http = _listen(host, port, "sandbox.port")
    try:
        return http, _listen(host, smtp_port, "sandbox.smtp_port")
    except SettingsError:
        http.close()
        raise


def _listen(host: str, port: int, setting: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit this; asyncio's own loop sets it only on sockets made with the protocol's number.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"the sandbox cannot listen on {host}:{port} ({error.strerror}): set {setting} to another port, or to 0 "
            "for any free one"
        ) from error
    return listener
