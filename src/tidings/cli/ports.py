"""Ports: checked before anything starts, so that a taken one is said in a sentence."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from msgspec import Struct

from tidings.cli.plain import CannotGoOn


class Wish(Struct, frozen=True):
    """A port that something wants: 0 is any free one. `what` listens there; `option` sets it."""

    host: str
    port: int
    what: str
    option: str


def choose(wishes: Sequence[Wish]) -> list[int]:
    """A port for each wish, all different.

    Raises:
        CannotGoOn: one is taken, or cannot be listened on.
    """
    with ExitStack() as held:
        # Those that are wished for by number go first, so that no free one is picked in their place.
        order = sorted(range(len(wishes)), key=lambda index: wishes[index].port == 0)
        ports = dict.fromkeys(order, 0)
        for index in order:
            ports[index] = _bind(wishes[index], held)
    return [ports[index] for index in range(len(wishes))]


def _bind(wish: Wish, held: ExitStack) -> int:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(wish.host, wish.port, type=socket.SOCK_STREAM)[0]
        probe = held.enter_context(socket.socket(family, kind, protocol))
        # As the servers do, so that a port whose last connections are still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen()
    except OSError as error:
        raise CannotGoOn(_why(wish, error)) from error
    port: int = probe.getsockname()[1]
    return port


def _why(wish: Wish, error: OSError) -> str:
    place = f"port {wish.port} on {wish.host}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{place}, where {wish.what} would listen, is in use by another program. Stop that program, or choose "
            f"another port with {wish.option} (0 takes any free one)."
        )
    if error.errno == errno.EACCES:
        return f"{wish.what} may not listen on {place}: choose a port above 1023 with {wish.option}."
    return f"{wish.what} cannot listen on {place}: {error.strerror or error}. Choose another with {wish.option}."
