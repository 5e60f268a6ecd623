"""Magic addresses: addresses for which the sandbox behaves in a special way.

They always work, so a person can see a failure just by sending to one. The sandbox's page and `GET /_sandbox/magic`
list them from these tables.

- Email: the part before the `@`, alone or followed by `+`, `-`, `.`, `_` or a digit (`bounce+42@example.com`).
- Phone numbers: the vendor's own test numbers (https://www.twilio.com/docs/iam/test-credentials), and others of the
  same unassigned block for failures that come later, in a receipt.
- Device tokens: by prefix (`unregistered-42`).
"""

from __future__ import annotations

import re

from msgspec import Struct


class Step(Struct, frozen=True):
    """One thing that a vendor reports about a message that it took, `after_s` after the previous step."""

    after_s: float
    event: str
    detail: dict[str, str] = {}


class Magic(Struct, frozen=True):
    """A magic address and its effect, for people. `value` is an address on `channel` that works as it is written."""

    channel: str
    value: str
    effect: str


PROCESSED = Step(0.05, "processed")
DELIVERED = Step(0.15, "delivered", {"response": "250 2.0.0 OK"})
EMAIL_PLAN = (PROCESSED, DELIVERED)


def bounced(code: str, classification: str = "") -> Step:
    """The step of a bounce. `code` is an enhanced status code (RFC 3463), or the type `blocked` or `expired`."""
    detail = {"type": code if code in _BOUNCE_TYPES else "bounce"}
    status, reason = _BOUNCE_TYPES.get(code) or (code, _BOUNCES.get(code, "Asked to bounce"))
    if status:
        detail["status"] = status
    if classification:
        detail["bounce_classification"] = classification
    return Step(0.15, "bounce", detail | {"reason": f"{'4' if status.startswith('4') else '5'}50 {status} {reason}"})


_BOUNCE_TYPES = {
    "blocked": ("5.7.1", "Mail from this server is not accepted at the moment."),
    "expired": ("", "unable to deliver within 72 hours"),
}
_BOUNCES = {
    "5.1.1": "The email account that you tried to reach does not exist.",
    "5.2.2": "The email account that you tried to reach is over quota.",
    "4.2.2": "The email account that you tried to reach is over quota.",
    "4.4.1": "The server did not answer.",
}
BOUNCED = bounced("5.1.1", "Invalid Address")


def _dropped(reason: str) -> tuple[Step, ...]:
    return (Step(0.1, "dropped", {"reason": reason, "status": "5.0.0"}),)


EMAIL_PLANS: dict[str, tuple[str, tuple[Step, ...]]] = {
    "bounce": ("taken, then bounces: no such mailbox", (PROCESSED, BOUNCED)),
    "blocked": (
        "taken, then blocked by the receiving server (the address itself is good)",
        (PROCESSED, bounced("blocked", "Reputation")),
    ),
    "full": ("taken, then bounces: the mailbox is full", (PROCESSED, bounced("5.2.2", "Mailbox Unavailable"))),
    "soft": ("taken, then bounces for now (status 4.4.1)", (PROCESSED, bounced("4.4.1"))),
    "away": ("taken, then bounces: the mailbox takes nothing", (PROCESSED, bounced("5.2.0", "Mailbox Unavailable"))),
    "expired": ("taken, then given up after 72 hours", (PROCESSED, bounced("expired"))),
    "defer": (
        "deferred once by the receiving server, then delivered",
        (
            PROCESSED,
            Step(0.1, "deferred", {"response": "451 4.7.1 Greylisted, please try again", "attempt": "1"}),
            Step(0.5, "delivered", {"response": "250 2.0.0 OK"}),
        ),
    ),
    "dropped": ("taken, then dropped by the vendor: it bounced before", _dropped("Bounced Address")),
    "invalid": ("taken, then dropped by the vendor: not a valid address", _dropped("Invalid")),
    "complained": ("taken, then dropped by the vendor: reported as spam before", _dropped("Spam Reporting Address")),
    "unsubscribed": ("taken, then dropped by the vendor: unsubscribed before", _dropped("Unsubscribed Address")),
    "spamcontent": (
        "taken, then dropped by the vendor: it looks like spam",
        _dropped("Spam Content (if spam checker app enabled)"),
    ),
    "overquota": (
        "taken, then dropped by the vendor: the account's quota is used up",
        _dropped("Recipient List over Package Quota"),
    ),
    "lost": ("taken, then dropped by the vendor for a reason that is not documented", _dropped("Something else")),
    "spam": ("delivered, then reported as spam", (PROCESSED, DELIVERED, Step(0.3, "spamreport"))),
    "unsubscribe": ("delivered, then unsubscribes", (PROCESSED, DELIVERED, Step(0.3, "unsubscribe"))),
    "groupunsubscribe": (
        "delivered, then unsubscribes from a group",
        (PROCESSED, DELIVERED, Step(0.3, "group_unsubscribe", {"asm_group_id": "1"})),
    ),
    "open": ("delivered, then opened", (PROCESSED, DELIVERED, Step(0.3, "open"))),
    "click": (
        "delivered, opened, and a link is clicked",
        (PROCESSED, DELIVERED, Step(0.2, "open"), Step(0.2, "click", {"url": "https://example.com/"})),
    ),
    "silent": ("taken, and nothing is ever heard of it again", (PROCESSED,)),
}
"""For each word: its effect for people, and what the email API reports afterwards."""

EMAIL_REFUSALS: dict[str, tuple[str, int]] = {
    "throttled": ("refused with 429, X-RateLimit-Reset in a second and the recipient's name, for ever", 429),
    "unverified": ("refused with 403: the sender is not verified", 403),
    "error": ("refused with 500", 500),
}
"""For each word: its effect for people, and the status with which the email API refuses the request."""

SMTP_ANSWERS: dict[str, tuple[str, str]] = {
    "bounce": (
        "refused: no such mailbox",
        "550 5.1.1 The email account that you tried to reach does not exist",
    ),
    "blocked": ("refused: policy", "554 5.7.1 Mail from this server is not accepted"),
    "defer": ("put off each time", "451 4.7.1 Greylisted, please try again in a minute"),
    "full": ("put off: the mailbox is full", "452 4.2.2 The mailbox is over its quota"),
    "throttled": ("put off: too fast", "450 4.7.0 Too many messages, slow down"),
    "error": ("refused: local error", "451 4.3.0 Local error in processing"),
    "closed": ("refused: the mailbox is closed", "550 5.2.1 The mailbox is disabled"),
    "overquota": ("refused: the mailbox is full, for good", "552 5.2.2 The mailbox is over its quota"),
}
"""For each word: its effect for people, and the reply to RCPT."""

SMS_PLAN = (Step(0.1, "sent"), Step(0.15, "delivered"))

SMS_REFUSALS: dict[str, tuple[str, int]] = {
    "+15005550001": ("refused: not a valid number (21211)", 21211),
    "+15005550002": ("refused: cannot be routed (21612)", 21612),
    "+15005550003": ("refused: no permission for that country (21408)", 21408),
    "+15005550004": ("refused: the person replied STOP (21610)", 21610),
    "+15005550009": ("refused: cannot receive text messages (21614)", 21614),
    "+15005550429": ("refused with 429 and Retry-After: 1 (20429)", 20429),
    "+15005550500": ("refused with 500 (20500)", 20500),
}
"""For each recipient: the effect for people, and the error code of the refusal."""

SMS_SENDERS: dict[str, int] = {"+15005550001": 21212, "+15005550007": 21606, "+15005550008": 21611}
"""For each sender: the error code of the refusal."""


_FIRST_CARRIER_ERROR = 30003
"""With a lower code the message never reached a carrier: its status is `failed`, without `sent` before."""


def not_delivered(code: int) -> tuple[Step, ...]:
    """The steps of a message that ends with this error code."""
    detail = {"ErrorCode": str(code)}
    if code < _FIRST_CARRIER_ERROR:
        return (Step(0.1, "failed", detail),)
    return (Step(0.1, "sent"), Step(0.15, "undelivered", detail))


SMS_PLANS: dict[str, tuple[str, tuple[Step, ...]]] = {
    "+15005553000": ("taken and sent, and nothing is ever heard of it again", (Step(0.1, "sent"),)),
    "+15005551610": ("taken, then failed: the person replied STOP (21610)", not_delivered(21610)),
    "+15005553001": ("taken, then failed: the queue was full (30001)", not_delivered(30001)),
    "+15005553002": ("taken, then failed: the account was suspended (30002)", not_delivered(30002)),
    "+15005553003": ("taken, then undelivered: the phone is off or away (30003)", not_delivered(30003)),
    "+15005553004": ("taken, then undelivered: blocked (30004)", not_delivered(30004)),
    "+15005553005": ("taken, then undelivered: no such subscriber (30005)", not_delivered(30005)),
    "+15005553006": ("taken, then undelivered: a landline (30006)", not_delivered(30006)),
    "+15005553007": ("taken, then undelivered: filtered by the carrier (30007)", not_delivered(30007)),
    "+15005553008": ("taken, then undelivered: reason unknown (30008)", not_delivered(30008)),
}
"""For each recipient: the effect for people, and what is reported afterwards."""

PUSH_REFUSALS: dict[str, tuple[str, str]] = {
    "unregistered": ("refused with 404 UNREGISTERED: the app was removed", "UNREGISTERED"),
    "invalid": ("refused with 400 INVALID_ARGUMENT: not a token", "INVALID_ARGUMENT"),
    "payload": ("refused with 400 INVALID_ARGUMENT: the message is at fault", "INVALID_ARGUMENT payload"),
    "mismatch": ("refused with 403 SENDER_ID_MISMATCH: another sender's token", "SENDER_ID_MISMATCH"),
    "quota": ("refused with 429 QUOTA_EXCEEDED and Retry-After: 1", "QUOTA_EXCEEDED"),
    "unavailable": ("refused with 503 UNAVAILABLE and Retry-After: 1", "UNAVAILABLE"),
    "internal": ("refused with 500 INTERNAL", "INTERNAL"),
    "thirdparty": (
        "refused with 401 THIRD_PARTY_AUTH_ERROR: the certificate for Apple is bad",
        "THIRD_PARTY_AUTH_ERROR",
    ),
}
"""For each token prefix (before a `-`): the effect for people, and the error code of the refusal."""


_EMAIL_WORD = re.compile(rf"({'|'.join({*EMAIL_PLANS, *EMAIL_REFUSALS, *SMTP_ANSWERS})})(?=[-+._\d@])", re.IGNORECASE)
_TOKEN_WORD = re.compile(rf"({'|'.join(PUSH_REFUSALS)})-")


def email_word(address: str) -> str:
    """The magic word at the beginning of an email address, in lower case; "" if there is none."""
    match = _EMAIL_WORD.match(address)
    return match[1].lower() if match else ""


def token_word(token: str) -> str:
    """The magic word at the beginning of a device token; "" if there is none."""
    match = _TOKEN_WORD.match(token)
    return match[1] if match else ""


def table() -> list[Magic]:
    """Every magic address, for people."""
    return [
        *(Magic("email", f"{word}@example.com", effect) for word, (effect, _) in EMAIL_PLANS.items()),
        *(Magic("email", f"{word}@example.com", effect) for word, (effect, _) in EMAIL_REFUSALS.items()),
        *(Magic("smtp", f"{word}@example.com", effect) for word, (effect, _) in SMTP_ANSWERS.items()),
        *(Magic("sms", number, effect) for number, (effect, _) in SMS_REFUSALS.items()),
        *(Magic("sms", number, effect) for number, (effect, _) in SMS_PLANS.items()),
        *(Magic("push", f"{word}-1", effect) for word, (effect, _) in PUSH_REFUSALS.items()),
    ]
