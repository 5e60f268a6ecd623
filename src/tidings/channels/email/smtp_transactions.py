"""One SMTP session after its greeting: it offers mail after mail to the server and notes what came of each.

Facts: RFC 5321 sections 3.3 and 4.1.1 (MAIL, RCPT, DATA, the mail), 4.2.5 (a server that has said 250 to the mail has
it; before that nobody knows); RFC 2920 section 3.1 (several commands in one write: which may follow which, and the
empty mail for a server that says 354 although it has refused the recipient); RFC 1870 (SIZE); RFC 6152 (8BITMIME);
RFC 6531 (SMTPUTF8). docs/decisions/0034-smtp-session.md says why this is not left to aiosmtplib.

The commands for a mail go out in one write where the server announces PIPELINING, and together with the mail before it.
The mail itself goes out only after the server has said yes to MAIL, RCPT and DATA: until then nothing can have been
taken, and from then on only the server's reply tells.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum, auto

from tidings.channels.email.smtp_reading import Garbled, Replies, Reply
from tidings.channels.email.smtp_replies import CLOSING, judge
from tidings.channels.http import brief
from tidings.channels.parallel import NOT_BEGUN
from tidings.model.sending import About, Rejected, Retry, SendResult, Sent, Uncertain

_TAKEN, _GO_AHEAD = 250, 354
_EMPTY_MAIL = b".\r\n"


class Mail:
    """One mail for one recipient (`local@domain` in bytes). `result` is None until it is known what came of it.

    `write` makes its bytes; its argument says whether they may have more than seven bits.
    """

    __slots__ = ("_write", "is_ascii", "needs_utf8", "recipient", "reference", "result", "size_bytes", "wire")

    def __init__(self, recipient: bytes, reference: str, write: Callable[[bool], bytes], *, needs_utf8: bool) -> None:
        self.recipient = recipient
        self.reference = reference
        self.needs_utf8 = needs_utf8
        self.result: SendResult | None = None
        self._write = write

    def prepare(self, *, eight_bit: bool) -> None:
        """Write the mail. Raises ValueError for a text that no mail can hold."""
        content = self._write(eight_bit)
        self.is_ascii = content.isascii()
        self.size_bytes = len(content)
        # RFC 5321 section 4.5.2. No header begins with a dot.
        stuffed = content.replace(b"\r\n.", b"\r\n..") if b"\r\n." in content else content
        self.wire = stuffed + (b".\r\n" if content.endswith(b"\r\n") else b"\r\n.\r\n")


class Extensions:
    """What the server announced that changes how mails are offered, from its EHLO reply: keyword to parameters."""

    def __init__(self, announced: Mapping[str, str]) -> None:
        self.pipelining = "pipelining" in announced
        self.eight_bit = "8bitmime" in announced
        self.utf8 = "smtputf8" in announced
        self.size = "size" in announced
        limit = announced.get("size", "").strip()
        # 0, or no number, is no limit that the server tells (RFC 1870 section 3).
        self.most_bytes = (int(limit[:18]) if limit.isdecimal() and limit.isascii() else 0) or math.inf


class _Stage(Enum):
    RESET = auto()
    SENDER = auto()
    RECIPIENT = auto()
    DATA = auto()
    CONTENT = auto()
    EMPTY = auto()


class Session(asyncio.Protocol):
    """Takes over `transport` from whoever opened the session. `where` names the server in details.

    `timeout_s` bounds the offering of a mail up to the reply to DATA, and the wait for the reply to the mail.
    """

    def __init__(
        self, transport: asyncio.Transport, extensions: Extensions, sender: str, where: str, timeout_s: float
    ) -> None:
        self.extensions = extensions
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._from = f"MAIL FROM:<{sender}>".encode()
        self._where = where
        self._timeout_s = timeout_s
        self._replies = Replies()
        self._expected: deque[tuple[_Stage, Mail]] = deque()
        self._unsent: deque[tuple[_Stage, bytes]] = deque()
        self._offering: Mail | None = None
        self._agreed = False
        self._offered = 0
        self._must_reset = False
        self._mails: Iterator[Mail] = iter(())
        self._begin_until = 0.0
        self._first_until = math.inf
        self._done: asyncio.Future[None] | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_open = not transport.is_closing()
        transport.set_protocol(self)

    async def carry(self, mails: Iterable[Mail], begin_until: float, first_until: float) -> None:
        """Offer the mails in order. Those that the session ended before are left without a result.

        Instants are the loop's. A mail whose turn has not come by `begin_until` is not begun; the first must have been
        offered by `first_until`.
        """
        self._mails = iter(mails)
        self._begin_until, self._first_until = begin_until, first_until
        self._done = self._loop.create_future()
        try:
            self._offer_next()
            await self._done
        except BaseException:
            self.abort()
            raise

    async def quit(self) -> None:
        """Say goodbye and wait until the server has closed the connection."""
        if not self.is_open:
            return
        self._done = self._loop.create_future()
        self._transport.write(b"QUIT\r\n")
        await self._done

    def abort(self) -> None:
        """Break the connection off; nothing more is sent or noted."""
        self._mails = iter(())
        self._expected.clear()
        self._offering = None
        self._close()

    def data_received(self, data: bytes) -> None:
        """Note the replies and go on."""
        try:
            for reply in self._replies.feed(data):
                self._heard(reply)
                if not self.is_open:
                    return
        except Garbled as error:
            self._end_broken(f"it broke the protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed the connection, or it broke."""
        why = f"the connection ended: {exc}" if exc else "the connection ended"
        self._end(self._unsent_because("connection_lost" if self._agreed else "service_unavailable", why), why)

    def _offer_next(self, before: bytes = b"") -> bool:
        """Write `before` and the commands for the next mail; False when there is none, and nothing was written."""
        for mail in self._mails:
            mail.result = NOT_BEGUN if self._loop.time() >= self._begin_until else self._unfit(mail)
            if mail.result is None:
                break
        else:
            if not self._expected:
                self._finish()
            return False
        options = b""
        if self.extensions.size:
            options += b" SIZE=%d" % mail.size_bytes
        if mail.needs_utf8:
            options += b" SMTPUTF8"
        if not mail.is_ascii or mail.needs_utf8:
            options += b" BODY=8BITMIME"
        commands = [
            (_Stage.SENDER, b"%b%b\r\n" % (self._from, options)),
            (_Stage.RECIPIENT, b"RCPT TO:<%b>\r\n" % mail.recipient),
            (_Stage.DATA, b"DATA\r\n"),
        ]
        if self._must_reset:
            commands.insert(0, (_Stage.RESET, b"RSET\r\n"))
            self._must_reset = False
        self._offering, self._agreed = mail, False
        self._offered += 1
        self._await_until(min(self._loop.time() + self._timeout_s, self._first_until))
        self._first_until = math.inf
        if not self.extensions.pipelining:
            self._unsent.extend(commands[1:])
            commands = commands[:1]
        self._write(commands, mail, before)
        return True

    def _unfit(self, mail: Mail) -> Rejected | None:
        """Why this server cannot be offered the mail; None if it can, written as the server takes it."""
        if mail.needs_utf8 and not self.extensions.utf8:
            return Rejected("address_not_supported", fallback=True, detail=f"{self._where} takes only ASCII addresses")
        if not (mail.is_ascii or mail.needs_utf8 or self.extensions.eight_bit):
            mail.prepare(eight_bit=False)
        if mail.size_bytes > self.extensions.most_bytes:
            limit = f"{self._where} takes at most {self.extensions.most_bytes}"
            return Rejected("too_large", fallback=True, detail=f"the mail has {mail.size_bytes} bytes, and {limit}")
        return None

    def _write(self, commands: Iterable[tuple[_Stage, bytes]], mail: Mail, before: bytes = b"") -> None:
        for stage, command in commands:
            self._expected.append((stage, mail))
            before += command
        self._transport.write(before)

    def _heard(self, reply: Reply) -> None:
        if not self._expected:
            # The goodbye, or something unasked: the replies after that would be taken for others.
            why = f"it said {reply.code} {reply.text}"
            self._end(self._unsent_because("service_unavailable", why), why)
            return
        stage, mail = self._expected.popleft()
        if stage is _Stage.CONTENT:
            self._heard_of_content(mail, reply)
        elif reply.code == CLOSING:
            self._end(judge(reply.code, reply.text), f"it said {reply.code} {reply.text}")
        elif stage is _Stage.EMPTY:
            pass  # the recipient was refused: whatever is said of the empty mail, it was for nobody
        elif mail.result is not None:
            self._heard_after_refusal(stage, mail, reply)
        elif stage is _Stage.DATA:
            self._heard_of_data(mail, reply)
        else:
            self._heard_of_envelope(stage, mail, reply)
        if self._expected or not self.is_open:
            return
        if self._unsent:
            self._write([self._unsent.popleft()], mail)
        else:
            self._offer_next()

    def _heard_of_envelope(self, stage: _Stage, mail: Mail, reply: Reply) -> None:
        kind = reply.code // 100
        if kind == 2:
            self._agreed = stage is _Stage.RECIPIENT
        elif kind == 3 or stage is _Stage.RESET:
            self._end_broken(f"it broke the protocol: {reply.code} {reply.text}")
        else:
            self._refuse(mail, judge(reply.code, reply.text, to_sender=stage is _Stage.SENDER))

    def _heard_of_data(self, mail: Mail, reply: Reply) -> None:
        if reply.code == _GO_AHEAD:
            self._hand_over(mail)
        elif reply.code >= 400:
            self._refuse(mail, judge(reply.code, reply.text))
        else:
            said = brief(f"{reply.code} {reply.text}")
            self._end(Retry("provider_error", detail=said), said, is_said_of_the_mail=True)

    def _heard_after_refusal(self, stage: _Stage, mail: Mail, reply: Reply) -> None:
        """What the server says to the commands that went out together with the refused one."""
        if stage is _Stage.DATA and reply.code == _GO_AHEAD:
            self._await_until(self._loop.time() + self._timeout_s)
            self._write([(_Stage.EMPTY, _EMPTY_MAIL)], mail)

    def _hand_over(self, mail: Mail) -> None:
        """Send the mail itself. From here on the server may have it."""
        self._expected.append((_Stage.CONTENT, mail))
        self._offering = None
        self._await_until(self._loop.time() + self._timeout_s)
        if not self.extensions.pipelining or not self._offer_next(mail.wire):
            self._transport.write(mail.wire)

    def _heard_of_content(self, mail: Mail, reply: Reply) -> None:
        said = f"{reply.code} {reply.text}"
        # A server may refuse a mail before it has read all of it. The rest would be read as commands.
        is_early = self._transport.get_write_buffer_size() > 0
        if reply.code >= 400:
            mail.result = judge(reply.code, reply.text)
        elif reply.code == _TAKEN:
            mail.result, is_early = Sent(mail.reference), False
        else:
            mail.result, is_early = Uncertain("unreadable_answer", brief(said)), True
        if is_early or reply.code == CLOSING:
            self._end(self._unsent_because("service_unavailable", f"it said {said}"), said)
        elif self._offering is not None:
            self._await_until(self._loop.time() + self._timeout_s)

    def _refuse(self, mail: Mail, result: SendResult) -> None:
        mail.result = result
        self._offering = None
        self._unsent.clear()
        self._must_reset = True

    def _unsent_because(self, reason: str, why: str) -> Retry:
        detail = brief(f"{self._where} did not get the mail: {why}")
        return Retry(reason, detail=detail, about=About.UNOFFERED)

    def _end_broken(self, why: str) -> None:
        self._end(self._unsent_because("provider_error", why), why, is_said_of_the_mail=True)

    def _end(self, result: SendResult, why: str, *, is_said_of_the_mail: bool = False) -> None:
        """The session is over. `result` is that of the mail that was being offered, if no other session is to try.

        Another one tries when the server may have meant this session: not the first mail of it, and nothing
        `is_said_of_the_mail`.
        """
        if not self.is_open:
            return
        is_waiting = False
        for stage, mail in self._expected:
            if stage is _Stage.CONTENT:
                is_waiting = True
                mail.result = Uncertain(
                    "no_answer", brief(f"the mail went out and {self._where} did not answer: {why}")
                )
        offering, self._offering = self._offering, None
        is_first = self._offered == 1
        if offering is not None and offering.result is None and not is_waiting and (is_said_of_the_mail or is_first):
            offering.result = result
        self._expected.clear()
        self._close()

    def _close(self) -> None:
        self.is_open = False
        self._unsent.clear()
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._finish()

    def _finish(self) -> None:
        self._deadline = None
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _await_until(self, instant: float) -> None:
        """Give the server up when this instant (the loop's) comes. One timer serves many mails: it looks again."""
        self._deadline = instant
        if self._timer is None:
            self._timer = self._loop.call_at(instant, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
            return
        why = f"no reply within {self._timeout_s:g} s"
        self._end(self._unsent_because("no_answer", why), why, is_said_of_the_mail=True)
