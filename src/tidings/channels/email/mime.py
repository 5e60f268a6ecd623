"""Writes an email as bytes for SMTP: the same on every Python, in a ninth of the standard library's time.

Facts: RFC 5322 (the format; section 3.6.4, Message-ID), RFC 2045 section 6 (transfer encodings), RFC 2046 section 5.1.4
(multipart/alternative: the plainest part first), RFC 3834 section 5 (Auto-Submitted). Header fields: fields.py.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from email.headerregistry import Address
from email.utils import format_datetime
from functools import lru_cache
from urllib.parse import quote

from tidings.channels.email.fields import local_part, mailbox, unstructured
from tidings.channels.email.headers import one_line
from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.model.sending import EmailDelivery

_LINE_ENDS = re.compile(r"\r\n|\r|\n")
_SAFE_KEY = re.compile(r"[A-Za-z0-9._-]*")
_LONGEST_LINE = 998
_PLAIN = bytes(range(0x20, 0x7F)) + b"\t\r\n"
"""The octets that a 7bit body may have (RFC 5321 section 4.5.2)."""
_FIRST_OF_EIGHT_BITS = 0x80
_SAFE_IN_QUOTED_PRINTABLE = _PLAIN.replace(b"=", b"")


def message_id(idempotency_key: str, domain: str) -> str:
    """The Message-ID: the same for every try of one attempt, so that readers recognise a mail that arrives twice."""
    key = idempotency_key if _SAFE_KEY.fullmatch(idempotency_key) else quote(idempotency_key, safe="-_~+=")
    return f"<{key}@{domain}>"


def ascii_domain(domain: str) -> str | None:
    """The domain in its ASCII form (IDNA); None when it has none."""
    if domain.isascii():
        return domain
    try:
        return domain.encode("idna").decode("ascii")
    except UnicodeError:
        return None


def build(
    delivery: EmailDelivery, sender: Address, recipient: tuple[str, str], now: int, *, eight_bit: bool = False
) -> bytes:
    """The bytes of the mail for `delivery`, from `sender` to the local part and domain in `recipient`.

    `now` is in milliseconds since the epoch. Headers are UTF-8 (RFC 6532) only if the local part needs it. Bodies are
    7bit, quoted-printable or base64, which every relay carries. With `eight_bit`, for a server that announces 8BITMIME
    (RFC 6152), a text that is not ASCII and has short lines is sent unencoded.

    Raises:
        ValueError: a text that is not valid Unicode.
    """
    local, domain = recipient
    utf8 = not local.isascii()
    head = [
        _from(sender.display_name, sender.username, sender.domain, utf8=utf8),
        mailbox("To", one_line(delivery.name or ""), f"{local_part(local)}@{domain}", utf8=utf8),
        unstructured("Subject", one_line(delivery.content.subject), utf8=utf8),
        _date(now // 1000),
        f"Message-ID: {message_id(delivery.idempotency_key, sender.domain)}\r\n",
        "Auto-Submitted: auto-generated\r\n",
        f"X-Tidings-Delivery: {to_text(DELIVERY_PREFIX, delivery.id)}\r\n",
        "MIME-Version: 1.0\r\n",
    ]
    return "".join(head).encode() + _bodies(delivery, eight_bit=eight_bit)


@lru_cache(maxsize=64)
def _from(display: str, username: str, domain: str, *, utf8: bool) -> str:
    return mailbox("From", one_line(display), Address(username=username, domain=domain).addr_spec, utf8=utf8)


@lru_cache(maxsize=4)
def _date(second: int) -> str:
    return f"Date: {format_datetime(datetime.fromtimestamp(second, UTC))}\r\n"


def _bodies(delivery: EmailDelivery, *, eight_bit: bool) -> bytes:
    text, html = delivery.content.text, delivery.content.html
    parts = [
        _part(kind, body, eight_bit=eight_bit) for kind, body in (("plain", text), ("html", html)) if body is not None
    ]
    if len(parts) == 1:
        return parts[0]
    boundary = f"=_{delivery.id.hex}".encode()
    while any(boundary in part for part in parts):
        boundary += b"_"
    pieces = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    # RFC 2045 section 6.4: it must not claim less than its parts.
    encoding = b"" if pieces.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
    return (
        b'Content-Type: multipart/alternative; boundary="'
        + boundary
        + b'"\r\n'
        + encoding
        + b"\r\n"
        + pieces
        + b"--"
        + boundary
        + b"--\r\n"
    )


def _part(kind: str, text: str, *, eight_bit: bool) -> bytes:
    """One text with its header; every line ends with CRLF, the last one too."""
    lines = _LINE_ENDS.sub("\r\n", text) if "\n" in text or "\r" in text else text
    body = (lines if lines.endswith("\r\n") else lines + "\r\n").encode()
    encoding, encoded = _transferable(body, eight_bit=eight_bit)
    return (
        f'Content-Type: text/{kind}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n'.encode()
        + encoded
    )


def _transferable(body: bytes, *, eight_bit: bool) -> tuple[str, bytes]:
    """The name of the transfer encoding that makes `body` smallest, and the encoded body."""
    others = body.translate(None, _PLAIN)
    is_plain = not others or (eight_bit and min(others) >= _FIRST_OF_EIGHT_BITS)
    if is_plain and (len(body) <= _LONGEST_LINE or max(map(len, body.split(b"\r\n"))) <= _LONGEST_LINE):
        return "8bit" if others else "7bit", body
    escaped = len(body.translate(None, _SAFE_IN_QUOTED_PRINTABLE))
    if len(body) + 2 * escaped <= len(body) * 4 / 3:
        return "quoted-printable", binascii.b2a_qp(body, quotetabs=False, istext=True)
    return "base64", base64.encodebytes(body).replace(b"\n", b"\r\n")
