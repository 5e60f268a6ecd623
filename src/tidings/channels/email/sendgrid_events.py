"""Reads SendGrid's Signed Event Webhook, which reports what became of a mail.

Facts, and SendGrid's page for each (below https://www.twilio.com/docs/sendgrid):

- Events, their types and fields; custom arguments come back as fields of the event:
  `for-developers/tracking-events/event`. They stand beside SendGrid's own fields, of which one is `attempt`; hence the
  prefix.
- A bounce of type `blocked` is the mail's or the sender's fault, and SendGrid continues to send to the address:
  `api-reference/blocks-api`; `bounce_classification`: https://sendgrid.com/en-us/blog/bounce-block-classifications-in-event-webhook.
- An unsubscription from a group counts as one from everything: Tidings sends to no group, so this is the only safe
  reading. `group_resubscribe` changes nothing: an address stays suppressed until somebody takes it off the list.
- The signature, ECDSA with SHA-256 over the timestamp and the raw body, and the headers that carry it:
  `for-developers/tracking-events/getting-started-event-webhook-security-features`.
- A request without an answer is repeated for 24 hours: `for-developers/tracking-events/troubleshooting`. No page says
  whether it is then signed anew. If repeated requests are refused as too old, raise `webhook_tolerance_s`.

An event that comes again adds nothing, because the recorder writes the same fact only once.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tidings.channels.http import brief
from tidings.model.errors import BadId, BadReceipt
from tidings.model.ids import DELIVERY_PREFIX, from_text, to_text
from tidings.model.sending import NAMELESS, EmailDelivery, InboundRequest, Receipt
from tidings.model.vocabulary import State
from tidings.ports.provider import Event

_TIMESTAMP = "x-twilio-email-event-webhook-timestamp"
_decoder = msgspec.json.Decoder(list[dict[str, object]])

EVENTS: Mapping[str, Event] = {
    "deferred": Event(State.SENT, "deferred", "deferred", detail="put off; SendGrid tries for 72 hours"),
    "delivered": Event(State.DELIVERED, "delivered", detail="the receiving server took it"),
    "open": Event(State.DELIVERED, "opened", detail="it was opened"),
    "click": Event(State.DELIVERED, "clicked", detail="a link in it was clicked"),
    "bounce": Event(State.FAILED, "bounced", "bounced", True, "there is no such mailbox"),
    "bounce full": Event(State.FAILED, "bounced", "mailbox_full", detail="the mailbox is full (X.2.2)"),
    "bounce unavailable": Event(
        State.FAILED, "bounced", "mailbox_unavailable", detail="the mailbox takes nothing now (classification)"
    ),
    "bounce temporary": Event(State.FAILED, "bounced", "temporary_bounce", detail="given up after a status 4.x.x"),
    "bounce blocked": Event(
        State.FAILED, "blocked", "blocked", detail="refused for its content or sender (type or classification)"
    ),
    "bounce expired": Event(State.FAILED, "bounced", "timed_out", detail="put off for too long (type)"),
    "dropped": Event(State.FAILED, "dropped", "dropped", detail="not sent, for another reason"),
    "dropped bounced address": Event(State.FAILED, "dropped", "bounced_address", True, "it bounced before"),
    "dropped invalid": Event(State.FAILED, "dropped", "invalid_address", True, "not a valid address"),
    "dropped spam reporting address": Event(State.FAILED, "dropped", "complained", True, "reported as spam before"),
    "dropped unsubscribed address": Event(State.FAILED, "dropped", "unsubscribed", True, "unsubscribed before"),
    "dropped spam content (if spam checker app enabled)": Event(
        State.FAILED, "dropped", "spam_content", detail="SendGrid's spam checker refuses the content"
    ),
    "dropped recipient list over package quota": Event(
        State.FAILED, "dropped", "over_quota", detail="the account's quota is used up"
    ),
    "spamreport": Event(State.DELIVERED, "complained", "complained", True, "reported as spam"),
    "unsubscribe": Event(State.DELIVERED, "unsubscribed", "unsubscribed", True, "unsubscribed from all mail"),
    "group_unsubscribe": Event(State.DELIVERED, "unsubscribed", "unsubscribed", True, "unsubscribed from a group"),
}
"""The meaning of each event. After `dropped` follows its reason, after `bounce` a case found from its other fields."""

# SendGrid's classifications that blame the mail or the sender, not the address.
_NOT_THE_ADDRESS = frozenset(
    {"content", "frequency or volume too high", "reputation", "technical", "technical failure"}
)
_FULL = re.compile(r"(?<![\d.])[45]\.2\.2(?!\d|\.\d)")
_STATUS = re.compile(r"(?:^|\s)([45])(?:\.\d{1,3}\.\d{1,3}|\d\d)(?=\s|$)")

_CUSTOM_ARGUMENTS = frozenset({"tidings_delivery", "tidings_tenant", "tidings_attempt"})


def load_key(text: str) -> EllipticCurvePublicKey:
    """The public key in base64 DER, as SendGrid shows it, with or without the lines of PEM around it."""
    bare = re.sub(r"-----(BEGIN|END) PUBLIC KEY-----|\s", "", text)
    try:
        key = load_der_public_key(b64decode(bare, validate=True))
    except ValueError as error:
        raise ValueError("it is not a public key; copy the Verification Key whole") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise ValueError(  # noqa: TRY004 - pydantic turns only a ValueError into a sentence
            "it is not an elliptic curve key; copy the Verification Key of the Signed Event Webhook"
        )
    return key


def custom_arguments(delivery: EmailDelivery) -> dict[str, str]:
    """The custom arguments that come back with each event and name the delivery. SendGrid demands strings."""
    return {
        "tidings_delivery": to_text(DELIVERY_PREFIX, delivery.id),
        "tidings_tenant": delivery.tenant,
        "tidings_attempt": str(delivery.attempt),
    }


def check_time(request: InboundRequest, now: int, tolerance_s: int, section: str) -> None:
    """Raise BadReceipt if the signed time is more than `tolerance_s` away from `now` (milliseconds since the epoch).

    So nobody can send a recorded request again and again for ever.
    """
    text = request.headers.get(_TIMESTAMP, "")
    if not (text.isascii() and text.isdigit() and len(text) < 15):
        raise BadReceipt("SendGrid signed this, but not with a time in seconds")
    off_s = now // 1000 - int(text)
    if abs(off_s) > tolerance_s:
        way = "ago" if off_s > 0 else "ahead of this machine's clock"
        raise BadReceipt(
            f"this was signed {abs(off_s)} seconds {way}: look at the clock, and at {section}.webhook_tolerance_s"
        )


def read(request: InboundRequest, key: EllipticCurvePublicKey | None, setting: str) -> list[Receipt]:
    """The receipts in a request, after checking its signature with `key`; `setting` names the setting with the key.

    Raises:
        BadReceipt: there is no key, the signature is not SendGrid's, or the body is not a list of events.
    """
    if key is None:
        raise BadReceipt(
            f"{setting} is not set: switch on SendGrid's Signed Event Webhook and copy its Verification Key there"
        )
    timestamp = request.headers.get(_TIMESTAMP, "")
    try:
        signature = b64decode(request.headers.get("x-twilio-email-event-webhook-signature", ""), validate=True)
        key.verify(signature, timestamp.encode() + request.body, ECDSA(SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise BadReceipt(f"the signature is not SendGrid's: look at {setting}") from error
    try:
        events = _decoder.decode(request.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadReceipt("SendGrid signed this, but it is not a list of events") from error
    return [receipt for event in events if (receipt := _receipt(event)) is not None]


def _receipt(event: Mapping[str, object]) -> Receipt | None:
    """The receipt in an event; None if the event cannot be about a delivery of Tidings or adds nothing."""
    text = {name: value for name, value in event.items() if isinstance(value, str)}
    meaning = EVENTS.get(_name(text))
    if meaning is None:
        return None
    attempt = text.get("tidings_attempt", "")
    reference = text.get("sg_message_id", "").partition(".")[0]
    if _CUSTOM_ARGUMENTS.isdisjoint(event):
        delivery_id, attempt = NAMELESS, "1"
        if not reference and not text.get("email"):
            return None
    else:
        if not (attempt.isascii() and attempt.isdigit() and len(attempt) < 9):
            return None
        try:
            delivery_id = from_text(DELIVERY_PREFIX, text.get("tidings_delivery", ""))
        except BadId:
            return None
    timestamp = event.get("timestamp")
    return Receipt(
        delivery_id=delivery_id,
        tenant=text.get("tidings_tenant", ""),
        state=meaning.state,
        kind=meaning.kind,
        attempt=int(attempt),
        at=timestamp * 1000 if isinstance(timestamp, int) and 0 < timestamp < 1 << 40 else 0,
        reason=meaning.reason,
        detail=brief(text.get("reason") or text.get("response") or text.get("url") or ""),
        reference=reference,
        address=text.get("email"),
        suppress=meaning.suppress,
    )


def _name(event: Mapping[str, str]) -> str:
    """The name under which EVENTS lists the event, if it does."""
    kind = event.get("event", "")
    if kind == "bounce":
        return f"bounce {_bounce(event)}".strip()
    if kind == "dropped":
        why = f"dropped {event.get('reason', '').lower()}"
        return why if why in EVENTS else kind
    return kind


def _bounce(event: Mapping[str, str]) -> str:
    """The case of a bounce; "" if the address does not exist.

    `type` is `blocked` where the address is not at fault; `status` and `bounce_classification` are not always there.
    """
    said = f"{event.get('status', '')} {event.get('reason', '')}"
    classification = event.get("bounce_classification", "").lower()
    if event.get("type") == "expired":
        return "expired"
    if event.get("type") == "blocked" or classification in _NOT_THE_ADDRESS:
        return "blocked"
    if _FULL.search(said):
        return "full"
    if classification == "mailbox unavailable":
        return "unavailable"
    status = _STATUS.search(said)
    return "temporary" if status is not None and status[1] == "4" else ""
