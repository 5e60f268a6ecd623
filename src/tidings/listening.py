"""Listening sockets: opened here, or by whoever started this process.

A socket that is held outside outlives the process: connections wait in its backlog until another one takes them, so
neither a restart nor a crash refuses any.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from msgspec import Struct

from tidings.model.errors import SettingsError

BACKLOG = 2048
_FIRST_PASSED = 3


class Held(Struct, frozen=True):
    """Listening sockets that somebody else holds: this process leaves them to those who share them, or come after."""

    api: socket.socket | None = None
    sandbox: tuple[socket.socket, socket.socket] | None = None
    """Its HTTP and its SMTP."""


def listen(
    host: str, port: int, what: str = "the API", option: str = "--port", *, shared: bool = False
) -> socket.socket:
    """A listening socket: requests wait in its backlog until a server takes them.

    `shared`: another process that asks for the same may listen there too, and each connection goes to one of them.

    Raises:
        SettingsError: there can be none; `what` would listen there, and `option` sets the port.
    """
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG, reuse_port=shared
        )
    except OSError as error:
        raise SettingsError(
            f"{what} cannot listen on {host}:{port} ({error.strerror}); choose another port with {option} (0: any)"
        ) from error
    _send_at_once(listening)
    return listening


def inherited(descriptor: int) -> socket.socket:
    """The listening TCP socket that this process was started with as `descriptor`. Raises SettingsError."""
    try:
        found = socket.socket(fileno=descriptor)
    except OSError as error:
        raise SettingsError(f"the descriptor {descriptor} is no open socket ({error.strerror})") from error
    why = ""
    if found.type != socket.SOCK_STREAM or found.family not in {socket.AF_INET, socket.AF_INET6}:
        why = "is no TCP socket"
    elif not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        why = "does not listen"
    if why:
        found.close()
        raise SettingsError(f"the socket with the descriptor {descriptor} {why}")
    os.set_inheritable(descriptor, False)
    _send_at_once(found)
    return found


def passed_socket(environment: Mapping[str, str] | None = None) -> int | None:
    """The descriptor of the socket that systemd, or who does as it does, passed to this process (sd_listen_fds(3)).

    None: it passed none. Raises SettingsError when it passed several.
    """
    variables = os.environ if environment is None else environment
    count = variables.get("LISTEN_FDS", "0")
    if variables.get("LISTEN_PID") != str(os.getpid()) or count == "0":
        return None
    if count != "1":
        raise SettingsError(f"LISTEN_FDS is {count}: one socket is taken, for the API")
    return _FIRST_PASSED


def _send_at_once(listening: socket.socket) -> None:
    # What is accepted inherits it: asyncio's own loop sets it only on sockets made with the protocol's number. Without
    # it an answer's body waits up to 40 ms for the acknowledgement of its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
