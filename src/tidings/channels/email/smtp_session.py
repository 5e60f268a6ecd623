"""Opens SMTP sessions: connection, greeting, encryption and login.

Facts: RFC 5321 sections 3.2 and 4.1.1.1 (EHLO, and HELO for a server that refuses it), RFC 3207 section 4.2 (after
STARTTLS the session starts over), RFC 4954.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import cached_property
from typing import cast

from aiosmtplib import SMTP
from aiosmtplib.errors import SMTPHeloError, SMTPServerDisconnected

from tidings.channels.email.greeting import full_name, literal
from tidings.channels.email.smtp_settings import SmtpConfig
from tidings.channels.email.smtp_transactions import Extensions, Session

_NEVER_SENT = "[127.0.0.1]"
"""Keeps aiosmtplib from looking for a name itself; the real greeting is set before the first command."""
_PERMANENT = 500


class SessionOpener:
    """Opens sessions with the server of one account. `greeting` is the name that it sent last with EHLO."""

    def __init__(self, config: SmtpConfig) -> None:
        self._config = config
        self._name: str | None = config.helo_name
        self._name_known = config.helo_name is not None
        self.greeting = config.helo_name or ""

    async def session(self) -> Session:
        """A session in which mails may be sent, taken over from aiosmtplib. Raises as `open`."""
        connection = await self.open()
        # uvloop's transports are no subclasses.
        transport = cast("asyncio.Transport", connection.transport)
        if not connection.is_connected:
            raise SMTPServerDisconnected("the server closed the connection")
        config = self._config
        extensions = Extensions(connection.esmtp_extensions)
        return Session(transport, extensions, config.from_address, f"{config.host}:{config.to_port}", config.timeout)

    async def open(self) -> SMTP:
        """A session with encryption and login, as the settings ask.

        Raises:
            SMTPHeloError: the server refuses the greeting.
            SMTPException, OSError: there is no connection, encryption or login.
        """
        config = self._config
        connection = SMTP(
            hostname=config.host,
            port=config.to_port,
            local_hostname=_NEVER_SENT,
            timeout=config.timeout,
            use_tls=config.transport == "tls",
            start_tls=False,
            tls_context=None if config.transport == "none" else self._tls,
        )
        try:
            await connection.connect()
            self.greeting = connection.local_hostname = await self._greeting(connection)
            await _greet(connection)
            if config.transport == "starttls":
                await connection.starttls()
                await _greet(connection)
            if config.username is not None and config.password is not None:
                await connection.login(config.username, config.password.get_secret_value())
        except BaseException:
            connection.close()
            raise
        return connection

    async def _greeting(self, connection: SMTP) -> str:
        if not self._name_known:
            # getfqdn may ask a name server, so it runs only once, and in a thread.
            self._name = full_name(await asyncio.to_thread(socket.getfqdn))
            self._name_known = True
        return self._name or literal(connection.get_transport_info("sockname"))

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._config.ca_file is not None:
            context.load_verify_locations(self._config.ca_file)
        if not self._config.validate_certificates:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


async def _greet(connection: SMTP) -> None:
    try:
        await connection.ehlo()
    except SMTPHeloError as error:
        if error.code < _PERMANENT or not connection.is_connected:
            raise
        await connection.helo()
