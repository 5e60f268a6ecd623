"""Connections that break off at any point, over real sockets: `Retry` only if the vendor cannot have taken it."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from support.fcm import FcmVendor
from support.smtp import SmtpVendor
from support.vendors import SendgridVendor, TwilioVendor, tools_for
from tidings.channels.registry import build, config_of, providers
from tidings.channels.settings import NetworkProviderConfig
from tidings.model.sending import Retry, SendResult, Uncertain

VENDORS: dict[str, Any] = {vendor.name: vendor for vendor in (FcmVendor, SendgridVendor, SmtpVendor, TwilioVendor)}
OVER_A_NETWORK = [name for name, kind in providers().items() if issubclass(config_of(kind), NetworkProviderConfig)]
LARGE = 8_000_000
_SMTP = {"EHLO": b"250 mail.example\r\n", "MAIL": b"250 ok\r\n", "RCPT": b"250 ok\r\n", "DATA": b"354 go ahead\r\n"}

WAYS = {
    "refused": Retry,
    "reset at once, over TLS": Retry,
    "closed at once, over TLS": Retry,
    "reset before the body": Uncertain,
    "reset after the body": Uncertain,
    "closed after the body": Uncertain,
    "hang after the body": Uncertain,
    "half an answer": Uncertain,
    "half an answer, reset": Uncertain,
}


class BreaksOff:
    """A server for one vendor's protocol that breaks off in one `way`. `taken` counts complete requests."""

    def __init__(self, name: str, way: str) -> None:
        self.name = name
        self.way = way
        self.taken = 0
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        open_: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            this = asyncio.current_task()
            assert this is not None
            open_.add(this)
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await (self._mail if self.name == "smtp" else self._http)(reader, writer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 16)
        self.port = server.sockets[0].getsockname()[1]
        if self.way == "refused":
            server.close()
            await server.wait_closed()
        try:
            yield
        finally:
            server.close()
            for connection in open_:
                connection.cancel()
            await asyncio.gather(*open_, return_exceptions=True)
            await server.wait_closed()

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.way.endswith("over TLS"):
            return self._break(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        if self.way == "reset before the body":
            return self._break(writer)
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", head)
        await reader.readexactly(int(length[1]) if length else 0)
        self.taken += 1
        if self.way.startswith("half an answer"):
            writer.write(b"HTTP/1.1 20")
            await writer.drain()
        return await self._end(writer)

    async def _mail(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.way.endswith("over TLS"):
            return self._break(writer)
        writer.write(b"220 mail.example\r\n")
        while True:
            verb = (await reader.readuntil(b"\r\n"))[:4].decode().upper()
            if verb == "DATA" and self.way == "reset before the body":
                return self._break(writer)
            writer.write(_SMTP.get(verb, b"250 ok\r\n"))
            if verb == "DATA":
                await reader.readuntil(b"\r\n.\r\n")
                self.taken += 1
                if self.way.startswith("half an answer"):
                    writer.write(b"250-2.0.0 queued as\r\n25")
                    await writer.drain()
                return await self._end(writer)

    async def _end(self, writer: asyncio.StreamWriter) -> None:
        if self.way.startswith("hang"):
            await asyncio.Event().wait()
        self._break(writer)

    def _break(self, writer: asyncio.StreamWriter) -> None:
        if "reset" in self.way:
            connected: socket.socket = writer.get_extra_info("socket")
            # With a linger time of 0, closing sends an RST instead of a FIN.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()


async def sent_to(server: BreaksOff, text: str = "Hello") -> SendResult:
    vendor = VENDORS[server.name]()
    scheme = "https" if server.way.endswith("over TLS") else "http"
    async with vendor.running(), server.running():
        if server.name == "smtp":
            place = {"port": server.port, "security": "tls" if scheme == "https" else "none", "timeout": 0.6}
        else:
            place = {"base_url": f"{scheme}://127.0.0.1:{server.port}", "timeout": 0.8, "connect_timeout": 0.7}
        provider = build(server.name, vendor.settings(**place), tools_for())
        try:
            [result] = await asyncio.wait_for(provider.send([vendor.delivery(1, text=text)]), provider.timeout_s)
        finally:
            await provider.close()
    assert isinstance(result, SendResult)
    return result


@pytest.mark.parametrize("name", OVER_A_NETWORK)
@pytest.mark.parametrize("way", WAYS)
async def test_the_point_of_the_break_decides_between_retry_and_uncertain(name: str, way: str) -> None:
    server = BreaksOff(name, way)
    result = await sent_to(server)
    # A mail goes out after the server's 354. A small HTTP request is sent as a whole before it can break off.
    expected: type = Retry if (name, way) == ("smtp", "reset before the body") else WAYS[way]
    assert isinstance(result, expected), result
    assert server.taken == (way not in {"refused", "reset before the body"} and not way.endswith("TLS"))


@pytest.mark.parametrize("name", [name for name in OVER_A_NETWORK if name != "smtp"])
async def test_a_request_that_could_not_be_written_whole_is_at_most_uncertain(name: str) -> None:
    server = BreaksOff(name, "reset before the body")
    result = await sent_to(server, "x" * LARGE)
    # The client notices the reset by a write or a read. Only a failed write proves that the request is incomplete.
    assert isinstance(result, Retry | Uncertain), result
    assert result.reason == ("connection_lost" if isinstance(result, Retry) else "no_answer")
    assert server.taken == 0


def test_every_provider_over_a_network_is_broken_off() -> None:
    assert set(OVER_A_NETWORK) == set(VENDORS)
