"""Listening sockets: opened by this process, or inherited from the process that started it.

An inherited socket outlives this process. New connections wait in its backlog until another process accepts them, so
neither a restart nor a crash refuses a connection.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from msgspec import Struct

from tidings.model.errors import SettingsError

Ready = Callable[[Mapping[str, str]], None]
"""Called with the address of each role that is ready: `{"api": "http://127.0.0.1:8400"}`."""
BACKLOG = 2048
_FIRST_PASSED = 3
"""The first descriptor that systemd passes (SD_LISTEN_FDS_START)."""


class Held(Struct, frozen=True):
    """Listening sockets that this process inherited. It stops accepting on them but never takes them from others."""

    api: socket.socket | None = None
    sandbox: tuple[socket.socket, socket.socket] | None = None
    """The sandbox's HTTP and SMTP sockets."""


NONE_HELD = Held()


def listen(
    host: str, port: int, listener: str = "the API", option: str = "--port", *, shared: bool = False
) -> socket.socket:
    """A listening socket; connections wait in its backlog until a server accepts them.

    `shared`: other processes may open the same port with `shared`; each connection goes to one of them. `listener` and
    `option` name, in the error message, the part that wants to listen and the option or setting for its port.

    Raises:
        SettingsError: the port cannot be listened on.
    """
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG, reuse_port=shared
        )
    except OSError as error:
        raise SettingsError(
            f"{listener} cannot listen on {host}:{port} ({error.strerror}); choose another port with {option} (0: any)"
        ) from error
    _send_at_once(listening)
    return listening


def inherited(descriptor: int) -> socket.socket:
    """The listening TCP socket that this process inherited as file `descriptor`.

    Raises:
        SettingsError: the descriptor is not an open, listening TCP socket.
    """
    try:
        inherited_socket = socket.socket(fileno=descriptor)
    except OSError as error:
        raise SettingsError(f"the descriptor {descriptor} is not an open socket ({error.strerror})") from error
    fault = ""
    if inherited_socket.type != socket.SOCK_STREAM or inherited_socket.family not in {socket.AF_INET, socket.AF_INET6}:
        fault = "is not a TCP socket"
    elif not inherited_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        fault = "does not listen"
    if fault:
        inherited_socket.close()
        raise SettingsError(f"the socket with the descriptor {descriptor} {fault}")
    os.set_inheritable(descriptor, False)
    _send_at_once(inherited_socket)
    return inherited_socket


def passed_socket(environment: Mapping[str, str] | None = None) -> int | None:
    """The descriptor of the socket that a supervisor passed by systemd's protocol, sd_listen_fds(3); None without one.

    Raises:
        SettingsError: the supervisor passed several sockets.
    """
    variables = os.environ if environment is None else environment
    count = variables.get("LISTEN_FDS", "0")
    if variables.get("LISTEN_PID") != str(os.getpid()) or count == "0":
        return None
    if count != "1":
        raise SettingsError(f"LISTEN_FDS is {count}, but Tidings takes one socket, for the API; pass one")
    return _FIRST_PASSED


def _send_at_once(listening: socket.socket) -> None:
    # Accepted connections inherit TCP_NODELAY. asyncio's own loop sets it only on sockets created with an explicit
    # protocol number. Without it, the body of an answer waits up to 40 ms for the acknowledgement of the head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
