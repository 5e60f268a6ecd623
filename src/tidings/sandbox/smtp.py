"""An SMTP server (RFC 5321) that takes mail for everybody; logging in with AUTH is optional."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tidings.sandbox.arrivals import REFUSED, Arrival, ArrivalLog, Mime
from tidings.sandbox.credentials import Credentials
from tidings.sandbox.faults import Fault, Faults, Kind, Vendor
from tidings.sandbox.magic import SMTP_ANSWERS, email_word

MAX_BODY = 30 * 1024 * 1024
_NOT_FOUND = "550 5.1.1 The email account that you tried to reach does not exist"
_REPLIES = {"4.2.2": "452", "5.2.2": "552", "5.2.3": "552", "5.3.4": "552", "5.7.8": "535", "5.1.10": "556"}
_GARBAGE = "2\x7f5 \x01 ok?"
_HEADER = re.compile(
    rb"^(message-id|idempotency-key|x-[a-z0-9-]*delivery[a-z0-9-]*|x-[a-z0-9-]*idempotency[a-z0-9-]*):[ \t]*(.*?)\r?$",
    re.IGNORECASE | re.MULTILINE,
)


class SmtpSink:
    """The hooks of the SMTP server: they answer, play faults and log arrivals."""

    def __init__(self, credentials: Credentials, log: ArrivalLog, faults: Faults) -> None:
        self._username = credentials.smtp_username.encode()
        self._password = credentials.smtp_password.encode()
        self._log = log
        self._faults = faults

    def protocol(self) -> SMTP:
        """The server side of one connection, in the running loop."""
        return SMTP(
            self,
            data_size_limit=MAX_BODY,
            enable_SMTPUTF8=True,
            hostname="sandbox.tidings.example",
            ident="Tidings sandbox",
            auth_require_tls=False,
            authenticator=self._authenticate,
            loop=asyncio.get_running_loop(),
        )

    async def handle_EHLO(  # noqa: N802 - the name of aiosmtpd's hook
        self, server: Any, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Announce PIPELINING too: commands are read one after the other, however many come at once."""
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]]

    async def handle_RCPT(  # noqa: N802 - the name of aiosmtpd's hook
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Accept the recipient, unless the address is magic or a bounce was asked for."""
        if not _is_text(address) or not _is_text(envelope.mail_from or ""):
            return "553 5.6.7 Addresses are UTF-8"
        fault = self._faults.later(Vendor.SMTP, address)
        word = email_word(address)
        answer = _refusal(fault.code) if fault is not None else SMTP_ANSWERS[word][1] if word in SMTP_ANSWERS else ""
        if answer:
            self._log.add((_refused(envelope, address, answer),))
            return answer
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802 - the name of aiosmtpd's hook
        self, server: Any, session: Session, envelope: Envelope
    ) -> str:
        """Accept the mail for all its recipients, unless a fault was asked for."""
        fault = self._faults.on_request(Vendor.SMTP, envelope.rcpt_tos)
        if fault is not None and fault.kind is Kind.STATUS:
            return _answer(fault)
        reference = secrets.token_hex(8)
        if fault is None or fault.takes:
            self._log.add(_arrivals(envelope, reference))
        match fault.kind if fault else None:
            case Kind.HANG:
                await asyncio.sleep(fault.duration_s if fault else 0)
                server.transport.abort()
            case Kind.LATENCY:
                await asyncio.sleep(fault.duration_s if fault else 0)
            case Kind.RESET:
                server.transport.abort()
            case Kind.GARBAGE:
                return _GARBAGE
        return f"250 2.0.0 OK: queued as {reference}"

    def _authenticate(
        self, server: Any, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        good = (
            isinstance(data, LoginPassword)
            and hmac.compare_digest(data.login, self._username)
            and hmac.compare_digest(data.password, self._password)
        )
        return AuthResult(success=good, handled=False)


def _is_text(address: str) -> bool:
    """Whether the address was valid UTF-8: aiosmtpd turns other bytes into lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in address)


def _answer(fault: Fault) -> str:
    if fault.code is not None:
        return _refusal(fault.code)
    status = fault.status or 451
    kind = "5" if status >= 500 else "4"
    return f"{status} {kind}.3.0 Asked to fail"


def _refusal(code: int | str | None) -> str:
    """The reply for a code: a reply code (550) or an enhanced one (5.2.1); None: no such mailbox."""
    if code is None:
        return _NOT_FOUND
    text = str(code)
    return (
        f"{text} Asked to refuse"
        if "." not in text
        else f"{_REPLIES.get(text, f'{text[:1]}50')} {text} Asked to refuse"
    )


def _refused(envelope: Envelope, address: str, answer: str) -> Arrival:
    return Arrival(
        seq=0,
        at=0,
        channel="email",
        vendor="smtp",
        to=address,
        sender=envelope.mail_from or "",
        body=Mime(b""),
        status=REFUSED,
        error=answer,
    )


def _arrivals(envelope: Envelope, reference: str) -> list[Arrival]:
    raw = envelope.original_content or b""
    tags = _tags(raw)
    key = next((value for name, value in tags.items() if "idempotency" in name), "")
    delivery = next((value for name, value in tags.items() if "delivery" in name), "")
    size_bytes = len(raw) // max(1, len(envelope.rcpt_tos))
    return [
        Arrival(
            seq=0,
            at=0,
            channel="email",
            vendor="smtp",
            to=to,
            sender=envelope.mail_from or "",
            body=Mime(raw),
            status="delivered",
            reference=reference,
            delivery=delivery,
            key=key or tags.get("message-id", ""),
            tags=tags,
            bytes=size_bytes,
        )
        for to in envelope.rcpt_tos
    ]


def _tags(raw: bytes) -> dict[str, str]:
    """The headers in which senders put their own ids, by lower-case name."""
    end = raw.find(b"\r\n\r\n")
    head = raw if end < 0 else raw[:end]
    return {name.decode().lower(): value.decode("latin-1").strip() for name, value in _HEADER.findall(head)}
