"""What stand-ins for servers share: they count connections, end them with the test, and report their own faults."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class StandIn(ABC):
    """A server on a free port of this machine. A subclass says how it converses."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.faults: list[Exception] = []
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def listening_tls(self) -> ssl.SSLContext | None:
        """With what to encrypt connections from their first byte."""
        return None

    @abstractmethod
    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        """Serve the connection with this number, counted from 1, until it returns."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen. An error of `converse` fails the test at the end; a client that hangs up is none."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.listening_tls, limit=2**23)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for connection in self._open:
                connection.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
            await server.wait_closed()
        assert not self.faults, self.faults

    def hang_up(self) -> None:
        """Close every connection, as a server does with idle ones."""
        for writer in self._open.values():
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._open[connection] = writer
        self.connections += 1
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await self.converse(reader, writer, self.connections)
        except Exception as error:
            self.faults.append(error)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            del self._open[connection]
