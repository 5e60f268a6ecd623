"""Serves the sandbox: HTTP by uvicorn and SMTP by aiosmtpd, in the running loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn

from tidings.model.errors import SettingsError
from tidings.sandbox.app import Options, Sandbox, create_app
from tidings.sandbox.credentials import Credentials
from tidings.sandbox.wire import ResettableProtocol

_BACKLOG = 2048
_FAREWELL = 2


class Handle:
    """A sandbox that is being served. Ports are the real ones."""

    def __init__(
        self, sandbox: Sandbox, http: _Server, serving: asyncio.Task[None], smtp: asyncio.Server, host: str
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
        """The base URL of the vendors and of the page, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def stop(self) -> None:
        """Stop serving and free the ports. Receipts that were not sent yet are dropped."""
        self.sandbox.close_streams()
        self._smtp.close()
        self._http.should_exit = True
        await self._serving
        await self.sandbox.stop()


class _Server(uvicorn.Server):
    """uvicorn's server as a part of a process that handles signals itself."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


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
    """Serve a sandbox on `host` until `stop` of the handle; a port of 0 takes any free one.

    `receipts_url` is the base URL of the receipts (`…/v1/receipts`), `log_path` an append-only file of what arrived,
    `hint` a command that the empty page shows, `timeline` one that shows the timeline of the
    notification `{id}`. `held` are listening sockets, for HTTP and SMTP, that outlive it.
    `allowed_hosts` are names by which the viewer is reached, besides those of this machine.

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
        timeout_graceful_shutdown=_FAREWELL,
        timeout_keep_alive=75,
        backlog=_BACKLOG,
    )
    sandbox.start()
    server = _Server(config)
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
    plug = socket.socket(family, socket.SOCK_STREAM)
    try:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What is accepted inherits it: asyncio's own loop sets it only on sockets made with the protocol's number.
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plug.bind((host, port))
        plug.listen(_BACKLOG)
        plug.setblocking(False)
    except OSError as error:
        plug.close()
        raise SettingsError(
            f"the sandbox cannot listen on {host}:{port} ({error.strerror}): set {setting} to another port, or to 0 "
            "for any free one"
        ) from error
    return plug
