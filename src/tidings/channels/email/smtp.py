"""Sends email over SMTP, through any server, on connections that are reused.

Facts: RFC 5321 (the commands, and section 4.2 for their replies), RFC 3207 (STARTTLS), RFC 8314 (TLS from the first
byte on port 465), RFC 4954 (AUTH), RFC 2034 and RFC 3463 (enhanced status codes; their registry is
https://www.iana.org/assignments/smtp-enhanced-status-codes), RFC 6531 (SMTPUTF8), RFC 7505 (a domain without mail).

If a connection breaks before the mail went out, the mail is tried again later. If it breaks afterwards, the server may
have taken the mail (RFC 5321 section 4.2.5), so the result is uncertain. `smtp_replies.py` says what replies mean. SMTP
has no receipts: bounces come back as mail to the sender's address.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Sequence
from email.headerregistry import Address
from typing import ClassVar

import msgspec
from aiosmtplib import SMTP, SMTPException, SMTPServerDisconnected
from aiosmtplib.errors import SMTPAuthenticationError, SMTPConnectError, SMTPHeloError, SMTPTimeoutError

from tidings.channels.email.headers import split_address
from tidings.channels.email.mime import ascii_domain, build, message_id
from tidings.channels.email.smtp_replies import ERRORS
from tidings.channels.email.smtp_session import SessionOpener
from tidings.channels.email.smtp_settings import SmtpConfig
from tidings.channels.errors import ACCOUNT_WAIT_S, follow
from tidings.channels.http import brief
from tidings.channels.parallel import NOT_BEGUN, in_parallel
from tidings.channels.tools import Tools
from tidings.model.errors import SettingsError
from tidings.model.sending import About, EmailDelivery, Rejected, Retry, SendResult, Sent, Uncertain
from tidings.policy.retry import about
from tidings.ports.provider import EmailProvider

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?!\S)")
_LINE_WITH_DOT = re.compile(rb"(?m)^\.")
_UTF8_OPTIONS = (b"SMTPUTF8", b"BODY=8BITMIME")
_GO_AHEAD, _TAKEN, _CLOSING = 354, 250, 421


class _Envelope:
    """The recipient as MAIL and RCPT name it, and the mail as DATA sends it."""

    __slots__ = ("domain", "local", "mail", "reference")

    def __init__(self, local: str, domain: str, mail: bytes, reference: str) -> None:
        self.local = local
        self.domain = domain
        self.mail = mail
        self.reference = reference


class Smtp(EmailProvider):
    """Sends over SMTP, one transaction for each delivery."""

    kind = "smtp"
    Config: ClassVar[type[SmtpConfig]] = SmtpConfig
    ERRORS_PAGE = (
        "RFC 5321 section 4.2, RFC 4954 section 6, RFC 7504, RFC 3463 and "
        "https://www.iana.org/assignments/smtp-enhanced-status-codes (RFC 5248)"
    )
    ERRORS: ClassVar = ERRORS

    def __init__(self, config: SmtpConfig, tools: Tools) -> None:
        """A provider that sends with `config`."""
        self.name, self.rate = tools.name, config.rate
        self.concurrency = config.connections
        # Five timeouts: a batch may begin its last mail shortly before its time is over, then wait for a connection,
        # then connect and get as far as RCPT, then wait for the replies to DATA and to the mail.
        self.timeout = 5 * config.timeout
        self._config = config
        self._clock = tools.clock
        local, _, domain = config.from_address.rpartition("@")
        self._sender = Address(display_name=config.from_name or "", username=local, domain=domain)
        self._port = config.to_port
        self._sessions = SessionOpener(config)
        self._slots = asyncio.Semaphore(config.connections)
        self._idle: list[SMTP] = []

    async def send(self, batch: Sequence[EmailDelivery]) -> Sequence[SendResult]:
        """Send each delivery in a transaction of its own, over up to `connections` connections."""
        return await in_parallel(
            batch, self._send, NOT_BEGUN, limit=self._config.connections, within_s=self._config.timeout
        )

    async def _send(self, delivery: EmailDelivery) -> SendResult:
        envelope = self._envelope(delivery)
        if isinstance(envelope, Rejected):
            return envelope
        # Without this bound the time of the whole send could end while waiting, and nothing would have been sent.
        try:
            async with asyncio.timeout(self._config.timeout):
                await self._slots.acquire()
        except TimeoutError:
            return NOT_BEGUN
        try:
            try:
                async with asyncio.timeout(self._config.timeout):
                    connection = await self._announce(envelope)
            except TimeoutError:
                why = "the server did not answer before the mail was sent"
                return Retry("no_answer", detail=why, about=About.UNOFFERED)
            if not isinstance(connection, SMTP):
                return connection
            return await self._hand_over(connection, envelope)
        finally:
            self._slots.release()

    def _envelope(self, delivery: EmailDelivery) -> _Envelope | Rejected:
        parts = split_address(delivery.to)
        domain = None if parts is None else ascii_domain(parts[1])
        if parts is None or domain is None:
            return Rejected("invalid_address", detail="this is not one plain email address")
        if delivery.content.text is None and delivery.content.html is None:
            return Rejected("no_content", detail="the email has neither text nor HTML")
        local = parts[0]
        try:
            mail = build(delivery, self._sender, (local, domain), self._clock.now())
        except ValueError as error:
            return Rejected("invalid_text", detail=brief(f"the content cannot be written as an email: {error}"))
        return _Envelope(local, domain, _stuffed(mail), message_id(delivery.idempotency_key, self._sender.domain))

    async def _announce(self, envelope: _Envelope) -> SMTP | SendResult:
        """A connection whose server has agreed to take a mail for the recipient, or a result that says why not."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_connected:
                agreed = await self._ask(connection, envelope)
                if agreed is not None:
                    return agreed
        try:
            connection = await self._sessions.open()
        except SMTPAuthenticationError as error:
            return Retry("unauthorized", detail=brief(f"{error.code} {error.message}"), about=About.UNOFFERED)
        except SMTPHeloError as error:
            return self._not_greeted(error)
        except (SMTPException, OSError) as error:
            why = brief(f"no session with {self._where}: {error}")
            return Retry("unreachable", detail=why, about=About.UNOFFERED)
        agreed = await self._ask(connection, envelope)
        if agreed is not None:
            return agreed
        why = f"{self._where} ended the session before the mail was sent"
        return Retry("service_unavailable", detail=why, about=About.UNOFFERED)

    async def _ask(self, connection: SMTP, envelope: _Envelope) -> SMTP | SendResult | None:
        """Send MAIL and RCPT; returns the connection if the server agrees, else the result.

        None: the connection turned out to be closed, and nothing was sent.
        """
        options: tuple[bytes, ...] = ()
        if not envelope.local.isascii():
            if not connection.supports_extension("smtputf8"):
                self._idle.append(connection)
                return Rejected(
                    "address_not_supported", fallback=True, detail=f"{self._where} takes only ASCII addresses"
                )
            options = _UTF8_OPTIONS
        recipient = f"TO:<{envelope.local}@{envelope.domain}>".encode()
        try:
            reply = await connection.execute_command(b"MAIL", f"FROM:<{self._config.from_address}>".encode(), *options)
            to_sender = reply.code != 250
            if not to_sender:
                reply = await connection.execute_command(b"RCPT", recipient)
                if reply.code in (250, 251):
                    return connection
            if reply.code == 421:
                connection.close()
                return None
            if connection.is_connected:
                await connection.rset()
                self._idle.append(connection)
        except SMTPServerDisconnected:
            connection.close()
            return None
        except (SMTPException, OSError) as error:
            connection.close()
            why = brief(f"{self._where} broke the protocol: {error}")
            return Retry("provider_error", detail=why, about=About.UNOFFERED)
        except BaseException:
            connection.close()
            raise
        return self._judge(reply.code, reply.message, to_sender=to_sender)

    async def _hand_over(self, connection: SMTP, envelope: _Envelope) -> SendResult:
        """Send DATA and, after the reply 354, the mail. The server cannot have taken the mail before."""
        begun = False
        try:
            reply = await connection.execute_command(b"DATA")
            if reply.code == _GO_AHEAD and connection.protocol is not None:
                begun = True
                connection.protocol.write(envelope.mail)
                reply = await connection.protocol.read_response(timeout=self._config.timeout)
        except (SMTPException, OSError) as error:
            connection.close()
            if begun:
                return Uncertain("no_answer", brief(f"the mail went out and {self._where} did not answer: {error}"))
            why = brief(f"{self._where} broke off before the mail went out: {error}")
            return Retry("connection_lost", detail=why, about=About.UNOFFERED)
        except BaseException:
            connection.close()
            raise
        if 400 <= reply.code < 600:
            self._keep(connection)
            return self._judge(reply.code, reply.message)
        if begun and reply.code == _TAKEN:
            self._keep(connection)
            return Sent(envelope.reference)
        connection.close()
        said = brief(f"{reply.code} {reply.message}")
        return Uncertain("unreadable_answer", said) if begun else Retry("provider_error", detail=said)

    def _keep(self, connection: SMTP) -> None:
        if connection.is_connected:
            self._idle.append(connection)

    def _judge(self, code: int, text: str, *, to_sender: bool = False) -> SendResult:
        """The result of a refusal. `to_sender`: MAIL was refused, which says nothing about the recipient."""
        detail = brief(f"{code} {text}")
        found = _ENHANCED.match(text)
        enhanced = found[0] if found is not None and found[1] == str(code)[:1] else ""
        known = self.ERRORS.get(enhanced) or self.ERRORS.get(code) or self.ERRORS[f"{str(code)[:1]}yz"]
        if code == _CLOSING and not (isinstance(known, Retry) and known.about is About.ACCOUNT):
            known = self.ERRORS[code]
        if to_sender and isinstance(known, Rejected):
            known = self.ERRORS["5.1.8"]
        elif to_sender and isinstance(known, Retry) and about(known) is About.DELIVERY:
            known = msgspec.structs.replace(known, about=About.UNOFFERED)
        return follow(known, detail)

    def _not_greeted(self, error: SMTPHeloError) -> Retry:
        """The result when the server refuses the greeting. If for good (5yz), a person must correct the setting."""
        if error.code < 500:
            said = brief(f"{self._where} takes no greeting now: {error.code} {error.message}")
            return Retry("service_unavailable", detail=said, about=About.UNOFFERED)
        return Retry("greeting_refused", ACCOUNT_WAIT_S, brief(self._greeting_refused(error)), About.UNOFFERED)

    def _greeting_refused(self, error: SMTPHeloError) -> str:
        return (
            f"{self._where} refuses the greeting EHLO {self._sessions.greeting}: {error.code} {error.message}. Set "
            f"{self.section}.helo_name to the full name of this machine"
        )

    @property
    def _where(self) -> str:
        return f"{self._config.host}:{self._port}"

    async def check(self) -> str:
        """Connect and log in. Raises SettingsError saying what is wrong with the settings."""
        config, where = self._config, self._where
        try:
            async with asyncio.timeout(2 * config.timeout):
                connection = await self._sessions.open()
                reply = await connection.noop()
                await connection.quit()
        except SMTPAuthenticationError as error:
            raise SettingsError(
                f"{where} refuses {self.section}.username and {self.section}.password: {error.code} {error.message}. "
                "Many services want a password made for apps instead of the one for their website."
            ) from error
        except SMTPHeloError as error:
            raise SettingsError(f"{self._greeting_refused(error)}.") from error
        except (SMTPTimeoutError, TimeoutError) as error:
            raise SettingsError(
                f"{where} does not answer. Look at {self.section}.host and port, and at {self.section}.security: a "
                "server that wants tls says nothing to who begins without."
            ) from error
        except (SMTPConnectError, OSError) as error:
            unproven = error if isinstance(error, ssl.SSLCertVerificationError) else error.__cause__
            if isinstance(unproven, ssl.SSLCertVerificationError):
                raise SettingsError(
                    f"there is no connection to {where}, because it does not prove that it is {config.host}: "
                    f"certificate verify failed: {unproven.verify_message}. If the authority of its certificate is "
                    f"your own, name that in {self.section}.ca_file."
                ) from error
            raise SettingsError(
                f"there is no connection to {where}: {brief(str(error))}. Look at {self.section}.host, port and "
                "security."
            ) from error
        except SMTPException as error:
            raise SettingsError(
                f"{where} does not speak as {self.section}.security = {config.transport} demands: "
                f"{brief(str(error)).rstrip('.')}."
            ) from error
        login = f"the login of {config.username}" if config.username is not None else "a session without login"
        way = "without encryption" if config.transport == "none" else f"over {config.transport}"
        return f"{where} accepted {login} {way} ({reply.code})."

    async def close(self) -> None:
        """Say goodbye on the idle connections and close them."""
        idle, self._idle = self._idle, []
        for connection in idle:
            try:
                async with asyncio.timeout(1.0):
                    await connection.quit()
            except (SMTPException, OSError):
                connection.close()
        # A transport frees its socket in the loop's next round.
        await asyncio.sleep(0)


def _stuffed(mail: bytes) -> bytes:
    """The mail as DATA sends it: with dots at the start of lines doubled, and the end mark (RFC 5321 section 4.5.2)."""
    return _LINE_WITH_DOT.sub(b"..", mail) + (b".\r\n" if mail.endswith(b"\r\n") else b"\r\n.\r\n")
