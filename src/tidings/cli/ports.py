"""Chooses ports before anything starts, so that a port in use is reported in a sentence."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from msgspec import Struct

from tidings.cli.plain import CannotGoOn


class Wish(Struct, frozen=True):
    """The port on which `listener` wants to listen; 0 is any free one. `option` sets the port."""

    host: str
    port: int
    listener: str
    option: str


def choose(wishes: Sequence[Wish]) -> list[int]:
    """A port for each wish, all different.

    Raises:
        CannotGoOn: a port is in use, or cannot be listened on.
    """
    with ExitStack() as probes:
        # Fixed ports first, so that none of them is picked as a free one.
        order = sorted(range(len(wishes)), key=lambda index: wishes[index].port == 0)
        ports = dict.fromkeys(order, 0)
        for index in order:
            ports[index] = _bind(wishes[index], probes)
    return [ports[index] for index in range(len(wishes))]


def _bind(wish: Wish, probes: ExitStack) -> int:
    """Listen on the port until `probes` ends, to see that it is free; its number."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(wish.host, wish.port, type=socket.SOCK_STREAM)[0]
        probe = probes.enter_context(socket.socket(family, kind, protocol))
        # The servers set this too: with it, a port whose last connections are still closing counts as free.
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
            f"{place}, where {wish.listener} would listen, is in use by another program. Stop that program, or choose "
            f"another port with {wish.option} (0 takes any free one)."
        )
    if error.errno == errno.EACCES:
        return f"{wish.listener} may not listen on {place}: choose a port above 1023 with {wish.option}."
    return f"{wish.listener} cannot listen on {place}: {error.strerror or error}. Choose another with {wish.option}."
