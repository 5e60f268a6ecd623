"""The name with which Tidings greets a mail server: one that strict servers accept, whatever this machine is called.

Facts: RFC 5321 sections 4.1.1.1 (a full name, or an address literal where there is none), 4.1.2 (a domain's letters)
and 4.1.3 (literals); RFC 6761 and RFC 6762 (localhost, .local and the like mean nothing outside this network).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from tidings.channels.email.mime import ascii_domain

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_LONGEST = 253
_LOCAL_LABELS = frozenset({"localhost", "localdomain", "local", "internal", "lan", "home", "arpa", "invalid", "test"})
"""Last labels that mean nothing outside this network. Names below `arpa` are reversed addresses."""
_LOOPBACK = "[127.0.0.1]"


def full_name(name: str) -> str | None:
    """`name` in ASCII if mail servers accept it as the full name of a machine, else None."""
    ascii_name = ascii_domain(name.rstrip("."))
    if ascii_name is None or len(ascii_name) > _LONGEST:
        return None
    labels = ascii_name.split(".")
    last = labels[-1].lower()
    if len(labels) < 2 or labels[0].lower() == "localhost" or last in _LOCAL_LABELS or last.isdigit():
        return None
    return ascii_name if all(_LABEL.fullmatch(label) for label in labels) else None


def literal(socket_name: Any) -> str:
    """The address literal of a connection's own end, from `getsockname`: `[192.0.2.1]` or `[IPv6:2001:db8::1]`.

    A connection without an address (a Unix socket) gets the loopback's literal.
    """
    if not isinstance(socket_name, tuple) or not socket_name:
        return _LOOPBACK
    try:
        address = ipaddress.ip_address(str(socket_name[0]).partition("%")[0])
    except ValueError:
        return _LOOPBACK
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return f"[IPv6:{address}]" if mapped is None else f"[{mapped}]"
    return f"[{address}]"
