"""An email as bytes for SMTP.

Facts: RFC 5322 (the format), RFC 2046 section 5.1.4 (multipart/alternative: the plainest part first), RFC 2047 and
RFC 6532 (names and subjects in any script), RFC 3834 section 5 (Auto-Submitted), RFC 5322 section 3.6.4 (Message-ID).
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from urllib.parse import quote

from tidings.channels.email.headers import one_line
from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.model.sending import EmailDelivery

# 7bit: every relay carries it, whether it announces 8BITMIME or not.
_POLICY = SMTP.clone(cte_type="7bit")
_POLICY_UTF8 = SMTPUTF8.clone(cte_type="7bit")


def message_id(idempotency_key: str, domain: str) -> str:
    """The same for every try of the same attempt, so that a mail that arrives twice is recognised as one."""
    return f"<{quote(idempotency_key, safe='-_~+=')}@{domain}>"


def ascii_domain(domain: str) -> str | None:
    """The domain in its ASCII form (IDNA); None when it has none."""
    if domain.isascii():
        return domain
    try:
        return domain.encode("idna").decode("ascii")
    except UnicodeError:
        return None


def build(delivery: EmailDelivery, sender: Address, recipient: tuple[str, str], now: int) -> bytes:
    """The mail of `delivery` from `sender` to the local part and domain `recipient`.

    `now` is in milliseconds since the epoch. Headers are UTF-8 (RFC 6532) only where the local part demands it.

    Raises:
        ValueError: a text that is not valid Unicode.
    """
    local, domain = recipient
    mail = EmailMessage(policy=_POLICY if local.isascii() else _POLICY_UTF8)
    mail["From"] = sender
    mail["To"] = Address(display_name=one_line(delivery.name or ""), username=local, domain=domain)
    mail["Subject"] = one_line(delivery.content.subject)
    mail["Date"] = datetime.fromtimestamp(now / 1000, UTC)
    mail["Message-ID"] = message_id(delivery.idempotency_key, sender.domain)
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Tidings-Delivery"] = to_text(DELIVERY_PREFIX, delivery.id)
    text, html = delivery.content.text, delivery.content.html
    if text is not None:
        mail.set_content(text)
    if html is not None and text is not None:
        mail.add_alternative(html, subtype="html")
    elif html is not None:
        mail.set_content(html, subtype="html")
    return mail.as_bytes()
