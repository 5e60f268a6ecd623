"""A stand-in for a mail server, with scripted replies, TLS, logins, and every way of breaking off."""

from __future__ import annotations

import asyncio
import datetime as dt
import email
import email.policy
import ipaddress
import re
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.stand_in import StandIn
from support.vendors import Vendor, email_delivery, tools_for
from tidings.channels.email.smtp import Smtp
from tidings.channels.registry import build
from tidings.model.sending import EmailDelivery


@dataclass
class Mail:
    """A mail that was taken: envelope and bytes."""

    sender: str
    recipients: list[str]
    data: bytes
    connection: int
    options: str = ""

    @property
    def parsed(self) -> EmailMessage:
        parsed = email.message_from_bytes(self.data, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed


@dataclass
class SmtpStandIn(StandIn):
    """`replies` maps a command (`GREETING`, `MAIL`, `RCPT`, `DATA`, `.` …) to what is said instead of yes; `hang`,
    `cut` and `garbage` instead of a reply are what they say. `refused` maps a recipient to the reply to its RCPT.
    """

    replies: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
    login: tuple[str, str] | None = None
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    mails: list[Mail] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    once: dict[str, str] = field(default_factory=dict)
    """As `replies`, said the first time."""
    mails_per_connection: int = 1_000_000
    trickles: bool = False
    """Sends its replies byte by byte."""
    hasty: bool = False
    """Says 354 to DATA even when there is no recipient (RFC 2920 section 3.1)."""
    empty_mails: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def listening_tls(self) -> ssl.SSLContext | None:
        """See StandIn."""
        return self.tls if self.implicit_tls else None

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        """See StandIn."""
        with suppress(ssl.SSLError):
            await _Session(self, reader, writer, number).run()


class _Session:
    def __init__(
        self, server: SmtpStandIn, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.number = number
        self.secure = server.implicit_tls
        self.mail: Mail | None = None
        self.mails_taken = 0

    def planned(self, command: str, usual: str = "2") -> str:
        return self.server.once.get(command) or self.server.replies.get(command, usual)

    async def say(self, command: str, usual: str) -> bool:
        """Send a reply. False if the script breaks off here. True also for a refusal, which is in `replies`."""
        reply = self.planned(command, usual)
        self.server.once.pop(command, None)
        if reply == "hang":
            await asyncio.Event().wait()
        if reply == "cut":
            return False
        await self.write(b"\x00\xff nonsense\r\n" if reply == "garbage" else f"{reply}\r\n".encode())
        return not reply.startswith("421")

    async def write(self, reply: bytes) -> None:
        for piece in [reply[place : place + 1] for place in range(len(reply))] if self.server.trickles else [reply]:
            self.writer.write(piece)
            await self.writer.drain()
            if self.server.trickles:
                await asyncio.sleep(0)

    async def run(self) -> None:
        if not await self.say("GREETING", "220 mail.example ESMTP"):
            return
        while True:
            line = (await self.reader.readuntil(b"\r\n"))[:-2].decode()
            self.server.commands.append(line)
            verb = line.split(" ")[0].upper()
            if not await self.obey(verb, line):
                return

    async def obey(self, verb: str, line: str) -> bool:
        server = self.server
        if verb == "EHLO":
            lines = [*server.extensions]
            if server.login is not None:
                lines.append("AUTH PLAIN")
            if server.tls is not None and not self.secure:
                lines.append("STARTTLS")
            said = "\r\n".join([f"250-{text}" for text in ["mail.example", *lines]] + ["250 HELP"])
            return await self.say("EHLO", said)
        if verb == "STARTTLS":
            assert server.tls is not None
            await self.say("STARTTLS", "220 2.0.0 go ahead")
            await self.writer.start_tls(server.tls)
            self.secure = True
            return True
        if verb == "AUTH":
            return await self.log_in(line)
        if verb == "MAIL":
            if self.mails_taken == server.mails_per_connection:
                return await self.say("TOO MANY", "421 4.7.0 too many messages in this session")
            if self.planned("MAIL")[0] in "45":
                return await self.say("MAIL", "")
            command = re.fullmatch(r"MAIL FROM:<([^<>\s]*)>(.*)", line)
            assert command is not None, line
            self.mail = Mail(command[1], [], b"", self.number, command[2].strip())
            return await self.say("MAIL", "250 2.1.0 ok")
        if verb == "RCPT":
            command = re.fullmatch(r"RCPT TO:<([^<>\s]*)>", line)
            assert command is not None, line
            if self.mail is None:
                return await self.say("OUT OF ORDER", "503 5.5.1 MAIL first")
            if command[1] in server.refused:
                await self.write(f"{server.refused[command[1]]}\r\n".encode())
                return True
            if self.planned("RCPT")[0] not in "45":
                self.mail.recipients.append(command[1])
            return await self.say("RCPT", "250 2.1.5 ok")
        if verb == "RSET":
            self.mail = None
            return await self.say("RSET", "250 2.0.0 ok")
        if verb == "DATA":
            return await self.take()
        if verb == "QUIT":
            await self.say("QUIT", "221 2.0.0 bye")
            return False
        return await self.say(verb, "250 2.0.0 ok")

    async def log_in(self, line: str) -> bool:
        _, method, text = line.split(" ")
        assert method == "PLAIN"
        _, username, password = b64decode(text).decode().split("\0")
        assert self.secure or self.server.tls is None, "the password came before TLS"
        is_right = (username, password) == self.server.login
        return await self.say("AUTH", "235 2.7.0 welcome" if is_right else "535 5.7.8 wrong password")

    async def take(self) -> bool:
        if (self.mail is None or not self.mail.recipients) and not self.server.hasty:
            return await self.say("OUT OF ORDER", "554 5.5.1 no valid recipients")
        is_asked = self.planned("DATA", "354").startswith("354")
        if not await self.say("DATA", "354 go ahead"):
            return False
        if not is_asked:
            return True
        if self.mail is None or not self.mail.recipients:
            assert await self.reader.readuntil(b"\r\n") == b".\r\n", "nothing may be sent to nobody"
            self.server.empty_mails += 1
            return await self.say("OUT OF ORDER", "554 5.5.1 no valid recipients")
        data = await self.reader.readuntil(b"\r\n.\r\n")
        assert b"\n" not in data.replace(b"\r\n", b"")
        assert b"\r" not in data.replace(b"\r\n", b"")
        self.mail.data = re.sub(rb"(?m)^\.", b"", data[:-3])
        self.mails_taken += 1
        if not self.planned(".").startswith(("4", "5")):
            self.server.mails.append(self.mail)
        self.mail = None
        return await self.say(".", "250 2.0.0 queued as 4F9D195432C")


class SmtpVendor(Vendor):
    name = "smtp"
    ways = frozenset({"hang", "cut", "garbage"})

    def __init__(self) -> None:
        super().__init__()
        self.server = SmtpStandIn()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.server.running():
            yield

    def settings(self, **more: Any) -> dict[str, Any]:
        more.pop("connect_timeout", None)
        return {
            "host": "127.0.0.1",
            "port": self.server.port,
            "from_address": "hello@shop.example",
            "from_name": "The Shop",
            "helo_name": "tidings.example",
            **more,
        }

    def delivery(self, number: int, to: str | None = None, text: str = "Hello", **more: Any) -> EmailDelivery:
        return email_delivery(number, to, text, more)

    def arrived(self) -> list[tuple[str, str]]:
        mails = []
        for mail in self.server.mails:
            assert len(mail.recipients) == 1
            part = mail.parsed.get_body(("plain",))
            assert isinstance(part, EmailMessage)
            mails.append((mail.recipients[0], part.get_content().replace("\r\n", "\n").removesuffix("\n")))
        return mails

    def refuse_everything_with(self, code: int | str) -> None:
        code = {"4yz": 459, "5yz": 559}.get(str(code), code)
        reply = f"{code} no" if isinstance(code, int) else f"{ {'4': 450, '5': 550}[code[0]] } {code} no"
        self.server.replies["RCPT"] = reply

    def misbehave(self, way: str) -> None:
        self.server.replies["."] = way

    def take_no_credentials(self) -> None:
        self.server.login = ("somebody", "else")


@asynccontextmanager
async def sending(server: SmtpStandIn | None = None, **more: Any) -> AsyncIterator[tuple[Smtp, SmtpVendor]]:
    """The provider with these settings, and its vendor's stand-in."""
    vendor = SmtpVendor()
    if server is not None:
        vendor.server = server
    async with vendor.running():
        provider = build("smtp", vendor.settings(**more), tools_for())
        assert isinstance(provider, Smtp)
        try:
            yield provider, vendor
        finally:
            await provider.close()


def certify(file: Path) -> Path:
    """Write a key and the certificate that goes with it, good for 127.0.0.1, into `file`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file


def server_context(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
