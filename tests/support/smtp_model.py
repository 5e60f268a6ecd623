"""A model of a mail server in memory, for the property tests of SMTP transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tidings.channels.email.smtp_transactions import Extensions, Mail, Session
from tidings.model.sending import SendResult


class FakeTransport:
    """The server's end, in memory: what is written goes to the model, whose replies come back in pieces."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.protocol: asyncio.Protocol | None = None
        self.closed = False

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.model.heard(data)
            asyncio.get_running_loop().call_soon(self.deliver)

    def deliver(self) -> None:
        assert self.protocol is not None
        while self.model.out and not self.closed:
            size = next(self.model.sizes)
            data, self.model.out = self.model.out[:size], self.model.out[size:]
            self.protocol.data_received(bytes(data))
        if self.model.hung_up and not self.closed:
            self.closed = True
            self.protocol.connection_lost(None)

    def abort(self) -> None:
        self.closed = True


class Model:
    """A server that follows a script of what it says to each command, and notes the mails for which it said 250."""

    def __init__(self, script: list[str], extensions: dict[str, str], sizes: list[int] | None = None) -> None:
        self.extensions = extensions
        self.script = iter(script)
        self.sizes = iter((sizes or []) * 1000 + [1 << 20] * 100_000)
        self.buffer = b""
        self.out = b""
        self.hung_up = False
        self.received: list[int] = []
        self.accepted: list[int] = []
        self._in_data = False
        self._recipients: list[int] | None = None

    async def carry(self, count: int, transport: type[FakeTransport] = FakeTransport) -> list[SendResult | None]:
        def written(number: int) -> Callable[[bool], bytes]:
            return lambda _: b"To: %d\r\n\r\n.%d\r\n" % (number, number)

        self.mails = [Mail(b"%d@x" % n, f"<{n}@x>", written(n), needs_utf8=False) for n in range(count)]
        for mail in self.mails:
            mail.prepare(eight_bit=False)
        end: Any = transport(self)
        session = Session(end, Extensions(self.extensions), "s@x", "x:25", 5.0)
        loop = asyncio.get_running_loop()
        await session.carry(self.mails, loop.time() + 5, loop.time() + 5)
        return [mail.result for mail in self.mails]

    def heard(self, data: bytes) -> None:
        self.buffer += data
        while not self.hung_up:
            end = b"\r\n.\r\n" if self._in_data and not self.buffer.startswith(b".\r\n") else b"\r\n"
            line, is_complete, rest = self.buffer.partition(end)
            if not is_complete:
                return
            self.buffer = rest
            self.obey(line)

    def obey(self, line: bytes) -> None:
        said = next(self.script, "")
        if self._in_data:
            self._in_data = False
            recipients, self._recipients = self._recipients or [], None
            if not recipients:
                assert line == b".", "nothing may be sent to nobody"
                self.say("", "554 5.5.1 no valid recipients")
                return
            [number] = recipients
            assert line == b"To: %d\r\n\r\n..%d" % (number, number)
            self.received.append(number)
            if self.say(said, "250 2.0.0 queued") == 250:
                self.accepted.append(number)
        elif line.startswith(b"MAIL"):
            if self._recipients is not None:
                self.say("", "503 5.5.1 nested MAIL command")
            elif self.say(said, "250 ok") == 250:
                self._recipients = []
        elif line.startswith(b"RCPT"):
            if self._recipients is None:
                self.say("", "503 5.5.1 MAIL first")
            elif self.say(said, "250 ok") == 250:
                self._recipients.append(int(line[9:-3]))
        elif line == b"DATA":
            if not self._recipients and said != "354 go":
                self.say("", "554 5.5.1 no valid recipients")
            else:
                self._in_data = self.say(said, "354 go") == 354
        else:
            assert line == b"RSET", line
            self._recipients = None
            self.say("", "250 ok")

    def say(self, said: str, usual: str) -> int:
        """The code that was said; 0 when it hangs up instead."""
        reply = said or usual
        if reply == "cut":
            self.hung_up = True
            return 0
        self.out += reply.encode() + b"\r\n"
        self.hung_up = reply.startswith("421")
        return int(reply[:3]) if reply[:3].isdigit() else 0
