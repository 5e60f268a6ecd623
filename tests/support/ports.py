"""Ports for servers that tests start."""

from __future__ import annotations

import secrets
import socket

_LOW, _HIGH = 15_000, 32_000
_given: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, another one at each call.

    It lies below the ports that the kernel gives to outgoing connections and to servers that ask for any port (Linux:
    from 32768 on). One of those could take it before the test's server listens.
    """
    while True:
        port = _LOW + secrets.randbelow(_HIGH - _LOW)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
