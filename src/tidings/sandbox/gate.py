"""Decides who may use the sandbox's own routes. The vendors' routes ask for the vendors' credentials instead.

Another website must not read arrivals through a person's browser, not even by a name that it points at this machine
(DNS rebinding). So a request's `Host` must be a name of this machine. If other machines can reach the sandbox, it also
asks for a token.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

import msgspec

from tidings.policy.hosts import is_loopback
from tidings.sandbox.credentials import Credentials, is_guarded, token_of
from tidings.sandbox.wire import Answer, Request

COOKIE = "tidings_viewer"
_PROBLEM = (b"content-type", b"application/problem+json")


class Gate:
    """Checks requests to the sandbox's own routes. `allowed_hosts` are its names besides `host` and loopback."""

    def __init__(self, host: str, allowed_hosts: Collection[str], credentials: Credentials) -> None:
        self._names = {name.lower().rstrip(".") for name in (host, *allowed_hosts)}
        self._token = token_of(credentials) if is_guarded(host, allowed_hosts) else ""

    def refusal(self, request: Request) -> Answer | None:
        """The answer that refuses the request, or sets the cookie after a log-in; None lets the request in."""
        name = _host_name(request.header(b"host").decode("latin-1"))
        if not (name in self._names or is_loopback(name) or _is_address(name)):
            return _problem(
                421, f"the sandbox is not called {name[:100]!r}; if it is, add that name to sandbox.allowed_hosts"
            )
        if not self._token or request.path == "/healthz":
            return None
        given = parse_qs(request.query).get("token", [""])[-1]
        if request.method == "GET" and request.path == "/" and self._is_token(given):
            cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            return Answer(303, b"", ((b"location", b"/"), (b"set-cookie", cookie.encode())))
        if self._is_token(_bearer(request)) or self._is_token(_cookie(request)):
            return None
        return _problem(401, "open the address with the token that `tidings up` printed: …/?token=…")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _host_name(header: str) -> str:
    """The name or address in a Host header, without its port."""
    try:
        return (urlsplit(f"//{header.strip()}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    """Whether the host is an IP address. DNS rebinding needs a name, so a person has typed the address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _bearer(request: Request) -> str:
    scheme, _, token = request.header(b"authorization").decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _cookie(request: Request) -> str:
    try:
        cookie = SimpleCookie(request.header(b"cookie").decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie is not None else ""


def _problem(status: int, detail: str) -> Answer:
    return Answer(status, msgspec.json.encode({"status": status, "detail": detail}), (_PROBLEM,))
