"""Reads the servers that a DSN names, and finds the one that takes writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import asyncpg
from msgspec import Struct

from tidings.model.errors import SettingsError

WRITABLE = frozenset({"any", "read-write", "primary"})
"""The allowed values of `target_session_attrs`. All of them mean `read-write` here, because Tidings writes."""

_WRITES = "read-write"
_PORT = 5432
_SHORTEST_S = 1.0
"""The least seconds that each of several servers gets to answer."""
_NOT_NOW = (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Address(Struct, frozen=True):
    """A server's address: a host name, an IP address or the folder of a socket, and the port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def addresses(dsn: str) -> list[Address]:
    """The servers that `dsn` names, in order. Empty if it leaves the server to the environment or a service file.

    Raises:
        SettingsError: `dsn` asks for a server that does not take writes, or cannot be read.
    """
    try:
        parts = urlsplit(dsn)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        wanted = query.get("target_session_attrs", "any")
        if wanted not in WRITABLE:
            raise SettingsError(
                f"database.dsn asks for target_session_attrs={wanted}, but Tidings writes: leave it out, or ask for "
                "read-write"
            )
        hosts = [_host(one) for one in _hosts(parts) if one]
        ports = [int(port) for port in query.get("port", "").split(",") if port]
    except ValueError as error:
        raise SettingsError(f"database.dsn cannot be used: {error}") from error
    if len(ports) not in {0, 1, len(hosts)}:
        raise SettingsError(f"database.dsn names {len(hosts)} hosts and {len(ports)} ports")
    if len(ports) < len(hosts):
        ports = [ports[0] if ports else _PORT] * len(hosts)
    return [Address(host, own or port) for (host, own), port in zip(hosts, ports, strict=False)]


class Finder:
    """Connects to the server of a DSN that takes writes, trying the last one that did first.

    All servers together get about `within_s` seconds. Each has a share of it, so that a server that is switched off
    does not use up the time of the others. Raises SettingsError for a DSN that cannot be read.
    """

    def __init__(self, dsn: str, within_s: float) -> None:
        self._dsn = dsn
        self._known: list[Address | None] = [*addresses(dsn)] or [None]
        self._each_s = within_s if len(self._known) == 1 else max(_SHORTEST_S, 0.8 * within_s / len(self._known))

    async def connect(self, **options: Any) -> _Connection:
        """A connection to a server that takes writes; `options` are those of `asyncpg.connect`.

        Raises:
            ConnectionError: none of several servers takes writes. The text gives the reason for each.
            OSError, TimeoutError, asyncpg.PostgresError: the only server could not be reached, or refused.
        """
        refusals: list[str] = []
        last: Exception | None = None
        for address in list(self._known):
            try:
                connection = await self._one(address, options)
            except _NOT_NOW as error:
                last = error
                refusals.append(f"{address or 'the server'} {_why(error)}")
                self._known.remove(address)
                self._known.append(address)
                continue
            self._known.remove(address)
            self._known.insert(0, address)
            return connection
        if len(refusals) == 1 and not isinstance(last, asyncpg.TargetServerAttributeNotMatched):
            assert last is not None  # noqa: S101 - a refusal has its error
            raise last
        raise ConnectionError("no server of database.dsn takes writes: " + "; ".join(refusals)) from last

    async def _one(self, address: Address | None, options: dict[str, Any]) -> _Connection:
        where: dict[str, Any] = {} if address is None else {"host": [address.host], "port": [address.port]}
        where |= {"timeout": self._each_s, "target_session_attrs": _WRITES}
        connection: _Connection = await asyncpg.connect(self._dsn, **options | where)
        return connection


def _hosts(parts: SplitResult) -> Sequence[str]:
    """The hosts as written, each with its port and still percent-encoded."""
    authority = parts.netloc.rpartition("@")[2]
    if authority:
        return authority.split(",")
    # Split before decoding: a folder's name may hold an encoded comma.
    for pair in parts.query.split("&"):
        name, _, value = pair.partition("=")
        if unquote(name) == "host":
            return value.split(",")
    return ()


def _host(written: str) -> tuple[str, int | None]:
    text = unquote(written)
    if text.startswith("/"):
        return text, None
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    return host, int(port) if port else None


def _why(error: Exception) -> str:
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "only reads (a standby, or default_transaction_read_only)"
    if isinstance(error, TimeoutError):
        return "does not answer"
    return f"refuses: {error}"
