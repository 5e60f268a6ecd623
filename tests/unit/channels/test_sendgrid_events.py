"""SendGrid's events: which receipt each becomes, and signatures as SendGrid's library makes them."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st
from sendgrid.helpers.eventwebhook import EventWebhook

from support.vendors import SendgridVendor, id_of, tools_for
from tidings.channels.email.sendgrid import Sendgrid
from tidings.channels.registry import build
from tidings.model.errors import BadReceipt, SettingsError
from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.model.sending import NAMELESS, InboundRequest, Receipt
from tidings.model.vocabulary import State

TIMESTAMP = "1790000000"
MARKS = {
    "tidings_delivery": to_text(DELIVERY_PREFIX, id_of(1)),
    "tidings_tenant": "shop",
    "tidings_attempt": "2",
}


def reader(**more: Any) -> Sendgrid:
    section = {"api_key": "SG.x", "from_address": "a@b.example", "webhook_public_key": SendgridVendor.event_public_key}
    made = build("sendgrid", section | more, tools_for())
    assert isinstance(made, Sendgrid)
    return made


def signed(body: bytes, timestamp: str = TIMESTAMP) -> InboundRequest:
    signature = b64encode(SendgridVendor.event_key.sign(timestamp.encode() + body, ECDSA(SHA256()))).decode()
    if body.isascii():
        assert EventWebhook(SendgridVendor.event_public_key).verify_signature(body.decode(), signature, timestamp)
    headers = {
        "x-twilio-email-event-webhook-signature": signature,
        "x-twilio-email-event-webhook-timestamp": timestamp,
    }
    return InboundRequest("https://notify.example.com/v1/receipts/sendgrid", headers, {}, body)


def said(**event: Any) -> Receipt:
    whole = {"email": "ada@example.com", "timestamp": 1513299569, "sg_message_id": "14c5d75ce93.dfd.64b469", **MARKS}
    [receipt] = reader().receipts(signed(msgspec.json.encode([whole | event])))
    return receipt


@pytest.mark.parametrize(
    ("event", "state", "kind", "reason", "suppress"),
    [
        ({"event": "delivered", "response": "250 OK"}, State.DELIVERED, "delivered", "", False),
        ({"event": "deferred", "response": "400", "attempt": "5"}, State.SENT, "deferred", "deferred", False),
        ({"event": "bounce", "type": "bounce", "status": "5.0.0"}, State.FAILED, "bounced", "bounced", True),
        ({"event": "bounce", "type": "bounce", "reason": "550 no such user"}, State.FAILED, "bounced", "bounced", True),
        ({"event": "bounce", "type": "bounce"}, State.FAILED, "bounced", "bounced", True),
        ({"event": "bounce", "status": "5.1.1"}, State.FAILED, "bounced", "bounced", True),
        ({"event": "bounce", "type": "blocked"}, State.FAILED, "blocked", "blocked", False),
        ({"event": "bounce", "type": "blocked", "status": "5.1.1"}, State.FAILED, "blocked", "blocked", False),
        ({"event": "bounce", "type": "bounce", "status": "4.0.0"}, State.FAILED, "bounced", "temporary_bounce", False),
        (
            {"event": "bounce", "type": "bounce", "reason": "451 4.3.0 later"},
            State.FAILED,
            "bounced",
            "temporary_bounce",
            False,
        ),
        ({"event": "bounce", "type": "bounce", "status": "5.2.2"}, State.FAILED, "bounced", "mailbox_full", False),
        (
            {"event": "bounce", "type": "bounce", "reason": "552 5.2.2 full"},
            State.FAILED,
            "bounced",
            "mailbox_full",
            False,
        ),
        (
            {"event": "bounce", "type": "bounce", "status": "5.1.1", "reason": "550 5.1.1 from 15.2.2.9"},
            State.FAILED,
            "bounced",
            "bounced",
            True,
        ),
        (
            {"event": "bounce", "type": "bounce", "status": "5.7.1", "bounce_classification": "Reputation"},
            State.FAILED,
            "blocked",
            "blocked",
            False,
        ),
        (
            {"event": "bounce", "type": "bounce", "status": "5.0.0", "bounce_classification": "Mailbox Unavailable"},
            State.FAILED,
            "bounced",
            "mailbox_unavailable",
            False,
        ),
        ({"event": "bounce", "type": "expired"}, State.FAILED, "bounced", "timed_out", False),
        ({"event": "dropped", "reason": "Bounced Address"}, State.FAILED, "dropped", "bounced_address", True),
        ({"event": "dropped", "reason": "Unsubscribed Address"}, State.FAILED, "dropped", "unsubscribed", True),
        ({"event": "dropped", "reason": "anything else"}, State.FAILED, "dropped", "dropped", False),
        ({"event": "spamreport"}, State.DELIVERED, "complained", "complained", True),
        ({"event": "unsubscribe"}, State.DELIVERED, "unsubscribed", "unsubscribed", True),
        ({"event": "group_unsubscribe", "asm_group_id": 1}, State.DELIVERED, "unsubscribed", "unsubscribed", True),
        ({"event": "open", "useragent": "Mozilla"}, State.DELIVERED, "opened", "", False),
        ({"event": "click", "url": "https://shop.example/"}, State.DELIVERED, "clicked", "", False),
    ],
)
def test_an_event_becomes_a_receipt(
    event: dict[str, Any], state: State, kind: str, reason: str, suppress: bool
) -> None:
    receipt = said(**event)
    assert (receipt.state, receipt.kind, receipt.reason, receipt.suppress) == (state, kind, reason, suppress)
    assert (receipt.delivery_id, receipt.tenant, receipt.attempt) == (id_of(1), "shop", 2)
    assert (receipt.at, receipt.address) == (1513299569000, "ada@example.com")
    assert receipt.reference == "14c5d75ce93"


def test_what_is_not_ours_or_says_nothing_is_left_out() -> None:
    events: list[Any] = [
        {"event": "processed", **MARKS},
        {"event": "group_resubscribe", **MARKS},
        {"event": "bounce blocked", "tidings_delivery": "dlv_nonsense", "tidings_attempt": "1"},
        {"event": "delivered", "email": "someone@example.com"},
        {"event": "delivered", **MARKS, "tidings_delivery": "dlv_nonsense"},
        {"event": "delivered", **MARKS, "tidings_attempt": "²"},
        {"event": "delivered", **MARKS, "tidings_attempt": 2},
        {"event": ["delivered"], **MARKS},
        {"event": "account_status_change", "type": "compliance_suspend"},
        {},
        {"event": "delivered", **MARKS, "timestamp": "yesterday", "sg_message_id": 7, "email": None},
    ]
    [receipt] = reader().receipts(signed(msgspec.json.encode(events)))
    assert (receipt.at, receipt.reference, receipt.address) == (0, "", None)


def test_events_without_our_arguments_are_told_by_reference_and_address() -> None:
    events = [
        {"event": "bounce", "email": "ada@example.com", "sg_message_id": "14c5d75ce93.dfd.64b469", "timestamp": 1},
        {"event": "delivered", "email": "bob@example.com"},
        {"event": "delivered", "sg_message_id": "14c5d75ce94.dfd"},
        {"event": "delivered"},
        {"event": "delivered", "email": "eve@example.com", "tidings_delivery": "dlv_nonsense"},
        {"event": "processed", "email": "ada@example.com"},
    ]
    request = signed(msgspec.json.encode(events))
    unnamed = reader().receipts_with_unnamed(request)
    assert [(receipt.delivery_id, receipt.state, receipt.reference, receipt.address) for receipt in unnamed] == [
        (NAMELESS, State.FAILED, "14c5d75ce93", "ada@example.com"),
        (NAMELESS, State.DELIVERED, "", "bob@example.com"),
        (NAMELESS, State.DELIVERED, "14c5d75ce94", None),
    ]
    assert reader().receipts(request) == []


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["event", "type", "reason", "timestamp", "email", "sg_message_id", *MARKS]),
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just([]),
        )
    )
)
def test_signed_nonsense_never_raises(events: list[dict[str, Any]]) -> None:
    try:
        body = msgspec.json.encode([MARKS | event for event in events])
    except UnicodeEncodeError:
        return
    for receipt in reader().receipts(signed(body)):
        assert receipt.state in (State.SENT, State.DELIVERED, State.FAILED)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b"[[]]", b'["x"]', b"\xff", b"[" * 5000, b'[{"a":' + b"[" * 100_000]
)
def test_signed_but_unreadable_is_refused(body: bytes) -> None:
    with pytest.raises(BadReceipt):
        reader().receipts(signed(body))


def test_a_changed_body_or_time_is_refused() -> None:
    genuine = signed(msgspec.json.encode([{"event": "delivered", **MARKS}]))
    assert len(reader().receipts(genuine)) == 1
    later = dict(genuine.headers) | {"x-twilio-email-event-webhook-timestamp": "1790000001"}
    for headers, body in [(genuine.headers, genuine.body + b" "), (later, genuine.body), ({}, genuine.body)]:
        with pytest.raises(BadReceipt, match="signature"):
            reader().receipts(InboundRequest(genuine.url, headers, {}, body))


@pytest.mark.parametrize(
    ("more", "off_s", "fine"),
    [
        ({}, 0, True),
        ({}, -900, True),
        ({}, 900, True),
        ({}, -901, False),
        ({}, 901, False),
        ({}, -86_400, False),
        ({"webhook_tolerance_s": 86_400}, -86_400, True),
        ({"webhook_tolerance_s": 60}, -61, False),
    ],
)
def test_what_was_signed_long_ago_is_refused(more: dict[str, Any], off_s: int, fine: bool) -> None:
    request = signed(msgspec.json.encode([{"event": "delivered", **MARKS}]), str(int(TIMESTAMP) + off_s))
    if fine:
        assert len(reader(**more).receipts(request)) == 1
    else:
        with pytest.raises(
            BadReceipt, match=r"signed \d+ seconds (ago|ahead).*providers\.sendgrid\.webhook_tolerance_s"
        ):
            reader(**more).receipts(request)


@pytest.mark.parametrize("timestamp", ["", "soon", "1790000000.5", "-1790000000", "9" * 30, "٣"])
def test_a_time_that_is_none_is_refused(timestamp: str) -> None:
    with pytest.raises(BadReceipt, match="not with a time"):
        reader().receipts(signed(msgspec.json.encode([{"event": "delivered", **MARKS}]), timestamp))


def test_without_a_key_every_receipt_is_refused() -> None:
    with pytest.raises(BadReceipt, match="webhook_public_key is not set"):
        reader(webhook_public_key=None).receipts(signed(b"[]"))


@pytest.mark.parametrize("key", ["", "no key", "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE"])
def test_a_key_that_is_none_is_told_at_once(key: str) -> None:
    with pytest.raises(SettingsError, match=r"providers\.sendgrid\.webhook_public_key cannot be used"):
        reader(webhook_public_key=key)


def test_the_key_may_come_in_its_frame() -> None:
    framed = f"-----BEGIN PUBLIC KEY-----\n{SendgridVendor.event_public_key}\n-----END PUBLIC KEY-----\n"
    assert reader(webhook_public_key=framed).receipts(signed(b"[]")) == []
