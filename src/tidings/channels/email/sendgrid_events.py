"""SendGrid's Signed Event Webhook: what it says later about a mail.

Facts, and SendGrid's page for each (below https://www.twilio.com/docs/sendgrid):

- Events, their types and fields; custom arguments come back as fields of the event:
  `for-developers/tracking-events/event`. They stand beside SendGrid's own fields, of which one is `attempt`; hence the
  prefix.
- The signature, ECDSA with SHA-256 over the timestamp and the raw body, and the headers that carry it:
  `for-developers/tracking-events/getting-started-event-webhook-security-features`.

An old event that is sent again adds nothing, because recording the same fact twice is recording it once.
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
from tidings.model.sending import EmailDelivery, InboundRequest, Receipt
from tidings.model.vocabulary import State

_decoder = msgspec.json.Decoder(list[dict[str, object]])

# Why SendGrid dropped a mail, and whether the address is of any use afterwards.
_DROPPED = {
    "bounced address": ("bounced_address", True),
    "invalid": ("invalid_address", True),
    "spam reporting address": ("complained", True),
    "unsubscribed address": ("unsubscribed", True),
    "spam content (if spam checker app enabled)": ("spam_content", False),
    "recipient list over package quota": ("over_quota", False),
}

_MEANINGS = {
    "deferred": (State.SENT, "deferred", "deferred", False),
    "delivered": (State.DELIVERED, "delivered", "", False),
    "open": (State.DELIVERED, "opened", "", False),
    "click": (State.DELIVERED, "clicked", "", False),
    "spamreport": (State.DELIVERED, "complained", "complained", True),
    "unsubscribe": (State.DELIVERED, "unsubscribed", "unsubscribed", True),
}


def load_key(text: str) -> EllipticCurvePublicKey:
    """The key from base64 DER, as SendGrid shows it, with or without PEM's frame."""
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


def marks(delivery: EmailDelivery) -> dict[str, str]:
    """The custom arguments by which an event finds back to its delivery. SendGrid demands strings."""
    return {
        "tidings_delivery": to_text(DELIVERY_PREFIX, delivery.id),
        "tidings_tenant": delivery.tenant,
        "tidings_attempt": str(delivery.attempt),
    }


def read(request: InboundRequest, key: EllipticCurvePublicKey | None, setting: str) -> list[Receipt]:
    """The receipts in a request that the private half of `key` signed; `setting` is where that key stands.

    Raises:
        BadReceipt: there is no key, the signature is not SendGrid's, or the body is not a list of events.
    """
    if key is None:
        raise BadReceipt(
            f"{setting} is not set: switch on SendGrid's Signed Event Webhook and copy its Verification Key there"
        )
    timestamp = request.headers.get("x-twilio-email-event-webhook-timestamp", "")
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
    """The receipt in an event; None for one that is not about a delivery of ours or says nothing new."""
    text = {name: value for name, value in event.items() if isinstance(value, str)}
    found = _meaning(text)
    attempt = text.get("tidings_attempt", "")
    if found is None or not (attempt.isascii() and attempt.isdigit() and len(attempt) < 9):
        return None
    try:
        delivery_id = from_text(DELIVERY_PREFIX, text.get("tidings_delivery", ""))
    except BadId:
        return None
    state, kind, reason, suppress = found
    timestamp = event.get("timestamp")
    return Receipt(
        delivery_id=delivery_id,
        tenant=text.get("tidings_tenant", ""),
        state=state,
        kind=kind,
        attempt=int(attempt),
        at=timestamp * 1000 if isinstance(timestamp, int) and 0 < timestamp < 1 << 40 else 0,
        reason=reason,
        detail=brief(text.get("reason") or text.get("response") or text.get("url") or ""),
        reference=text.get("sg_message_id", "").partition(".")[0],
        address=text.get("email"),
        suppress=suppress,
    )


def _meaning(event: Mapping[str, str]) -> tuple[State, str, str, bool] | None:
    """State, kind, reason and whether the address must not be used any more."""
    kind = event.get("event", "")
    if kind == "bounce":
        if event.get("type") == "blocked":
            return State.FAILED, "blocked", "blocked", False
        return State.FAILED, "bounced", "bounced", True
    if kind == "dropped":
        reason, suppress = _DROPPED.get(event.get("reason", "").lower(), ("dropped", False))
        return State.FAILED, "dropped", reason, suppress
    return _MEANINGS.get(kind)
