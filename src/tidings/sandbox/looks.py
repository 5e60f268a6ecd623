"""Shows arrivals to people: as JSON for the viewer, and an email as a page of its own."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Mapping
from email.message import EmailMessage
from functools import lru_cache

from msgspec import Struct

from tidings.model.errors import BadId
from tidings.model.ids import DELIVERY_PREFIX, NOTIFICATION_PREFIX, from_text, notification_of, to_text
from tidings.policy.sms import segments
from tidings.sandbox.arrivals import Arrival, Mime, Parts

MAX_TEXT = 20_000


class Look(Struct, frozen=True, omit_defaults=True):
    """An arrival for the viewer. `at` is in milliseconds since the epoch; `text` has at most MAX_TEXT characters."""

    seq: int
    at: int
    channel: str
    vendor: str
    to: str
    sender: str
    status: str
    error: str = ""
    reference: str = ""
    delivery: str = ""
    key: str = ""
    to_name: str = ""
    from_name: str = ""
    title: str = ""
    text: str = ""
    link: str = ""
    html: bool = False
    encoding: str = ""
    segments: int = 0
    tags: Mapping[str, str] = {}
    ttl_s: int | None = None
    urgency: str = ""
    notification: str = ""


def look(arrival: Arrival) -> Look:
    """The arrival as the viewer gets it."""
    parts = _parts(arrival)
    text = _filled(parts.text, parts)
    size = segments(text) if arrival.channel == "sms" else None
    return Look(
        seq=arrival.seq,
        at=arrival.at,
        channel=arrival.channel,
        vendor=arrival.vendor,
        to=arrival.to,
        sender=arrival.sender,
        status=arrival.status,
        error=arrival.error,
        reference=arrival.reference,
        delivery=arrival.delivery,
        key=arrival.key,
        to_name=parts.to_name,
        from_name=parts.from_name,
        title=_filled(parts.title, parts),
        text=text[:MAX_TEXT],
        link=parts.link,
        html=bool(parts.html),
        encoding=size.encoding if size else "",
        segments=size.segments if size else 0,
        tags=arrival.tags,
        ttl_s=arrival.ttl_s,
        urgency=arrival.urgency,
        notification=_notification(arrival.delivery),
    )


def _notification(delivery: str) -> str:
    """The id of the notification to which the delivery belongs; "" if the sender's id is not a delivery's."""
    try:
        return to_text(NOTIFICATION_PREFIX, notification_of(from_text(DELIVERY_PREFIX, delivery)))
    except BadId:
        return ""


def html_page(arrival: Arrival) -> str:
    """The email's HTML. Its links open in a new tab, because the page is shown in a frame."""
    parts = _parts(arrival)
    return f'<base target="_blank">{_filled(parts.html, parts)}'


def _parts(arrival: Arrival) -> Parts:
    return _read(arrival.body.raw) if isinstance(arrival.body, Mime) else arrival.body


def _filled(text: str, parts: Parts) -> str:
    for mark, value in parts.substitutions.items():
        text = text.replace(mark, value)
    return text


@lru_cache(maxsize=64)
def _read(raw: bytes) -> Parts:
    """A MIME document's parts (RFC 5322, RFC 2045)."""
    document = email.message_from_bytes(raw, policy=email.policy.default)
    return Parts(
        title=str(document.get("subject", "")),
        text=_content(document, "plain"),
        html=_content(document, "html"),
        to_name=_name(document, "to"),
        from_name=_name(document, "from"),
    )


def _content(document: EmailMessage, kind: str) -> str:
    part = document.get_body((kind,))
    if part is None:
        return ""
    try:
        return str(part.get_content())
    except (LookupError, UnicodeError):
        payload = part.get_payload(decode=True)
        return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else str(part.get_payload())


def _name(document: EmailMessage, header: str) -> str:
    addresses = getattr(document.get(header), "addresses", ())
    return str(addresses[0].display_name) if addresses else ""
