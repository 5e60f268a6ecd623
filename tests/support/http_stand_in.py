"""A stand-in for a vendor's HTTP API: keeps the requests, and answers as the test says or misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from support.stand_in import StandIn


@dataclass
class Reply:
    """An answer to a request."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Misbehave:
    """How a connection fails after the request was received."""

    how: str  # hang, cut, not_http, cut_body, slow_body, endless_body
    status: int = 200


@dataclass
class Request:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


class HttpStandIn(StandIn):
    """An HTTP/1.1 server that answers with the next entry of `script`, else with `usual(request)`."""

    def __init__(self, usual: Callable[[Request], Reply]) -> None:
        super().__init__()
        self.usual = usual
        self.script: list[Reply | Misbehave] = []
        self.always: Reply | Misbehave | None = None
        self.requests: list[Request] = []

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        """See StandIn."""
        while await self._reply_to_next(reader, writer, number):
            pass

    async def _reply_to_next(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(method, path, headers, body, number)
        self.requests.append(request)
        reply = self.script.pop(0) if self.script else self.always or self.usual(request)
        if isinstance(reply, Reply):
            lines = [f"HTTP/1.1 {reply.status} Scripted", f"content-length: {len(reply.body)}"]
            lines += [f"{name}: {value}" for name, value in reply.headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode() + reply.body)
            await writer.drain()
            return True
        await self._misbehave(reply, writer)
        return False

    async def _misbehave(self, reply: Misbehave, writer: asyncio.StreamWriter) -> None:
        start = f"HTTP/1.1 {reply.status} Scripted\r\n".encode()
        if reply.how == "hang":
            await asyncio.Event().wait()
        elif reply.how == "not_http":
            writer.write(b"\x00\xfe\x00nonsense\r\n\r\n" * 3)
        elif reply.how == "cut_body":
            writer.write(start + b'content-length: 500\r\n\r\n{"sid": "SM')
        elif reply.how == "slow_body":
            writer.write(start + b"content-length: 500\r\n\r\n{")
            await writer.drain()
            await asyncio.Event().wait()
        elif reply.how == "endless_body":
            writer.write(start + b"transfer-encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                await writer.drain()
        else:
            assert reply.how == "cut"
        await writer.drain()
