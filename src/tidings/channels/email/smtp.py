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
import ssl
from collections.abc import Sequence
from email.headerregistry import Address
from typing import ClassVar

from aiosmtplib import SMTPException
from aiosmtplib.errors import SMTPAuthenticationError, SMTPConnectError, SMTPHeloError, SMTPTimeoutError

from tidings.channels.email.headers import split_address
from tidings.channels.email.mime import ascii_domain, build, message_id
from tidings.channels.email.smtp_replies import ERRORS
from tidings.channels.email.smtp_session import SessionOpener
from tidings.channels.email.smtp_settings import SmtpConfig
from tidings.channels.email.smtp_transactions import Mail, Session
from tidings.channels.errors import ACCOUNT_WAIT_S
from tidings.channels.http import brief
from tidings.channels.parallel import NOT_BEGUN
from tidings.channels.tools import Tools
from tidings.model.errors import SettingsError
from tidings.model.sending import About, EmailDelivery, Rejected, Retry, SendResult
from tidings.ports.provider import EmailProvider

_MOST_AT_ONCE = 10
"""Mails of one `send`, at most. They are begun together: as many for each connection are in doubt after a crash."""
_SEND_S = 0.5
"""Seconds that one `send` is to take. A slow server gets fewer mails at once, so that each has its turn in time."""
_AVERAGED = 8
"""Sends over which the time of a mail is averaged."""


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
        self.concurrency, self.batch_size, self.one_by_one = config.connections, 1, True
        # Each bounded by one timeout: waiting for a connection, the others of the batch, the connection with the offer
        # of the last mail, and the reply to that; and one to spare.
        self.timeout_s = 5 * config.timeout
        self._config = config
        self._clock = tools.clock
        local, _, domain = config.from_address.rpartition("@")
        self._sender = Address(display_name=config.from_name or "", username=local, domain=domain)
        self._port = config.to_port
        self._sessions = SessionOpener(config)
        self._slots = asyncio.Semaphore(config.connections)
        self._idle: list[Session] = []
        self._takes_eight_bit = False
        self._mail_s: float | None = None

    async def send(self, batch: Sequence[EmailDelivery]) -> Sequence[SendResult]:
        """One transaction for each, one after the other over one connection."""
        prepared = [self._prepared(delivery) for delivery in batch]
        await self._carry([mail for mail in prepared if isinstance(mail, Mail)])
        return [mail.result or NOT_BEGUN if isinstance(mail, Mail) else mail for mail in prepared]

    async def _carry(self, mails: Sequence[Mail]) -> None:
        """Give each mail its result. Where a session ends early the next one goes on."""
        if not mails:
            return
        config, loop = self._config, asyncio.get_running_loop()
        # Waiting for a connection is bounded, too: else the time of the whole send would end while nothing was sent.
        try:
            async with asyncio.timeout(config.timeout):
                await self._slots.acquire()
        except TimeoutError:
            return
        try:
            began = loop.time()
            while mails and loop.time() < began + config.timeout:
                first_until = loop.time() + config.timeout
                session = await self._session()
                if not isinstance(session, Session):
                    for mail in mails:
                        mail.result = session
                    return
                opened = loop.time()
                await session.carry(mails, began + config.timeout, first_until)
                if session.is_open:
                    self._idle.append(session)
                    self._note_pace((loop.time() - opened) / len(mails))
                mails = [mail for mail in mails if mail.result is None]
        finally:
            self._slots.release()

    def _note_pace(self, mail_s: float) -> None:
        self._mail_s = mail_s if self._mail_s is None else self._mail_s + (mail_s - self._mail_s) / _AVERAGED
        self.batch_size = max(1, min(_MOST_AT_ONCE, int(_SEND_S / max(self._mail_s, 0.001))))

    def _prepared(self, delivery: EmailDelivery) -> Mail | Rejected:
        parts = split_address(delivery.to)
        domain = None if parts is None else ascii_domain(parts[1])
        if parts is None or domain is None:
            return Rejected("invalid_address", detail="this is not one plain email address")
        if delivery.content.text is None and delivery.content.html is None:
            return Rejected("no_content", detail="the email has neither text nor HTML")
        recipient, now = (parts[0], domain), self._clock.now()

        def write(eight_bit: bool) -> bytes:
            return build(delivery, self._sender, recipient, now, eight_bit=eight_bit)

        mail = Mail(
            f"{parts[0]}@{domain}".encode(),
            message_id(delivery.idempotency_key, self._sender.domain),
            write,
            needs_utf8=not parts[0].isascii(),
        )
        try:
            mail.prepare(eight_bit=self._takes_eight_bit)
        except ValueError as error:
            return Rejected("invalid_text", detail=brief(f"the content cannot be written as an email: {error}"))
        return mail

    async def _session(self) -> Session | Retry:
        """A session that nobody uses, an open one or a new one; or why there is none."""
        while self._idle:
            session = self._idle.pop()
            if session.is_open:
                return session
        try:
            async with asyncio.timeout(self._config.timeout):
                session = await self._sessions.session()
        except SMTPAuthenticationError as error:
            return Retry("unauthorized", detail=brief(f"{error.code} {error.message}"), about=About.UNOFFERED)
        except SMTPHeloError as error:
            return self._not_greeted(error)
        except TimeoutError:
            why = "the server did not answer before the mail was sent"
            return Retry("no_answer", detail=why, about=About.UNOFFERED)
        except (SMTPException, OSError) as error:
            why = brief(f"no session with {self._where}: {error}")
            return Retry("unreachable", detail=why, about=About.UNOFFERED)
        self._takes_eight_bit = session.extensions.eight_bit
        return session

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
        for session in idle:
            try:
                async with asyncio.timeout(1.0):
                    await session.quit()
            except TimeoutError:
                session.abort()
        # A transport frees its socket in the loop's next round.
        await asyncio.sleep(0)
