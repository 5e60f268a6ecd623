"""Whether a content can be sent at all: it shows something, and at least one vendor would take its size.

The limits hold for a whole channel; a limit of one vendor is in that vendor's error table.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from tidings.model.notification import EmailContent, InappContent, PushContent, SmsContent
from tidings.model.vocabulary import Reason

MAX_SMS = 1_600
"""Characters of a text message: no vendor takes more than ten segments."""
MAX_PUSH_BYTES = 4_096
"""Bytes of a push notification's payload as JSON: title, body, link and the delivery's id."""
MAX_SUBJECT = 998
"""Characters of an email's subject: a line of RFC 5322, section 2.1.1, unfolded."""

_ID_BYTES = 64
_SURELY_FITS = 600
"""Characters of title, body and link that fit however JSON escapes them."""
_BLANKS = frozenset("\u2800\u3164\uffa0\u115f\u1160")  # letters and symbols that show nothing


class Unfit(Struct, frozen=True):
    """Why a content cannot be sent. `field` names the part of the content that is at fault."""

    reason: Reason
    field: str
    detail: str


def is_blank(text: str | None) -> bool:
    """Whether the text shows nothing: it is empty, or has only spaces, line ends and invisible characters."""
    for letter in text or "":  # noqa: SIM110 - a generator costs three times as much, for every field of a request
        if letter.isprintable() and not letter.isspace() and letter not in _BLANKS:
            return False
    return True


def unfit(content: EmailContent | SmsContent | PushContent | InappContent) -> Unfit | None:
    """Why a rendered content cannot be sent; None when it can."""
    if isinstance(content, SmsContent):
        return _sms(content)
    if isinstance(content, EmailContent):
        return _email(content)
    if is_blank(content.title) and is_blank(content.body):
        return Unfit(Reason.EMPTY_CONTENT, "body", "neither the title nor the body shows anything")
    return _push(content) if isinstance(content, PushContent) else None


def _sms(content: SmsContent) -> Unfit | None:
    if is_blank(content.text):
        return Unfit(Reason.EMPTY_CONTENT, "text", "the text message shows nothing")
    if len(content.text) > MAX_SMS:
        detail = f"a text message has at most {MAX_SMS} characters; this has {len(content.text)}"
        return Unfit(Reason.TOO_LONG, "text", detail)
    return None


def _email(content: EmailContent) -> Unfit | None:
    if is_blank(content.subject):
        return Unfit(Reason.EMPTY_CONTENT, "subject", "the subject shows nothing")
    if is_blank(content.text) and is_blank(content.html):
        field = "html" if content.text is None else "text"
        return Unfit(Reason.EMPTY_CONTENT, field, "neither the text nor the HTML shows anything")
    if len(content.subject) > MAX_SUBJECT:
        detail = f"a subject has at most {MAX_SUBJECT} characters; this has {len(content.subject)}"
        return Unfit(Reason.TOO_LONG, "subject", detail)
    return None


def _push(content: PushContent) -> Unfit | None:
    link = content.link or ""
    if len(content.title) + len(content.body) + len(link) <= _SURELY_FITS:
        return None
    shown = {"notification": {"title": content.title, "body": content.body}, "data": {"link": link}}
    size_bytes = len(msgspec.json.encode(shown)) + _ID_BYTES
    if size_bytes <= MAX_PUSH_BYTES:
        return None
    field = max(("title", content.title), ("body", content.body), ("link", link), key=lambda each: len(each[1]))[0]
    detail = f"a push notification has at most {MAX_PUSH_BYTES} bytes of title, body and link; this has {size_bytes}"
    return Unfit(Reason.TOO_LONG, field, detail)
