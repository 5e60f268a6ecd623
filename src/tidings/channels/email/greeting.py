"""The name by which we greet a mail server: one that a strict server takes, whatever this machine is called.

Facts: RFC 5321 sections 4.1.1.1 (a full name, or an address literal where there is none), 4.1.2 (a domain's letters)
and 4.1.3 (literals); RFC 6761 and RFC 6762 (localhost, .local and their like name nobody outside).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from tidings.channels.email.mime import ascii_domain

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_LONGEST = 253
_NOBODYS = frozenset({"localhost", "localdomain", "local", "internal", "lan", "home", "arpa", "invalid", "test"})
"""Last labels that say nothing outside this network. `arpa` are addresses turned round, not names."""
_HERE = "[127.0.0.1]"


def full_name(name: str) -> str | None:
    """`name` if mail servers take it as the full name of a machine, in ASCII; None if it is none."""
    ascii_name = ascii_domain(name.rstrip("."))
    if ascii_name is None or len(ascii_name) > _LONGEST:
        return None
    labels = ascii_name.split(".")
    last = labels[-1].lower()
    if len(labels) < 2 or labels[0].lower() == "localhost" or last in _NOBODYS or last.isdigit():
        return None
    return ascii_name if all(_LABEL.fullmatch(label) for label in labels) else None


def literal(socket_name: Any) -> str:
    """The address literal of our end of a connection, as `getsockname` tells it: `[192.0.2.1]` or `[IPv6:2001:db8::1]`.

    Of a connection without an address (a Unix socket) it is the loopback's.
    """
    if not isinstance(socket_name, tuple) or not socket_name:
        return _HERE
    try:
        address = ipaddress.ip_address(str(socket_name[0]).partition("%")[0])
    except ValueError:
        return _HERE
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped
        return f"[IPv6:{address}]" if inside is None else f"[{inside}]"
    return f"[{address}]"
