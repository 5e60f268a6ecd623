"""The servers that a DSN names, and finding the one of them that takes writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import asyncpg
from msgspec import Struct

from tidings.model.errors import SettingsError

WRITABLE = frozenset({"any", "read-write", "primary"})
"""The values of `target_session_attrs` that a writer can be content with; all of them mean `read-write` here."""

_WRITES = "read-write"
_PORT = 5432
_SHORTEST = 1.0
"""Seconds that one server of several has at least to answer."""
_NOT_NOW = (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Address(Struct, frozen=True):
    """A host name, IP address or folder of a socket, and the port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def addresses(dsn: str) -> list[Address]:
    """Every server that `dsn` names, in its order; none where it leaves the server to the environment or a service.

    Raises:
        SettingsError: it names no server that takes writes, or cannot be read.
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
    """Connects to whichever server of a DSN takes writes; the one that did last is asked first.

    All servers together have about `within` seconds: one that is switched off answers nothing at all, and must not use
    up the time of the others. Raises SettingsError for a DSN that cannot be read.
    """

    def __init__(self, dsn: str, within: float) -> None:
        self._dsn = dsn
        self._known: list[Address | None] = [*addresses(dsn)] or [None]
        self._each = within if len(self._known) == 1 else max(_SHORTEST, 0.8 * within / len(self._known))

    async def connect(self, **options: Any) -> _Connection:
        """A connection to a server that takes writes; `options` are those of `asyncpg.connect`.

        Raises:
            ConnectionError: no server of several takes writes; the text says why for each.
            OSError, TimeoutError, asyncpg.PostgresError: what became of the attempt.
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
        where |= {"timeout": self._each, "target_session_attrs": _WRITES}
        connection: _Connection = await asyncpg.connect(self._dsn, **options | where)
        return connection


def _hosts(parts: SplitResult) -> Sequence[str]:
    """The hosts as they are written, each still with its port and its escapes."""
    authority = parts.netloc.rpartition("@")[2]
    if authority:
        return authority.split(",")
    # Split before it is decoded: a folder may have a comma in its name.
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
