"""SendGrid: grouping by content, refusals that name recipients, and events signed as SendGrid's library checks them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st
from sendgrid.helpers.eventwebhook import EventWebhook

from support.vendors import NOW, Said, SendgridVendor, id_of, tools_for
from tidings.channels.email.sendgrid import Sendgrid
from tidings.channels.registry import build
from tidings.model.errors import BadReceipt, SettingsError
from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.model.sending import NAMELESS, About, EmailDelivery, InboundRequest, Receipt, Rejected, Retry, Sent
from tidings.model.vocabulary import State
from tidings.policy.retry import about

TIMESTAMP = "1790000000"
MARKS = {
    "tidings_delivery": to_text(DELIVERY_PREFIX, id_of(1)),
    "tidings_tenant": "shop",
    "tidings_attempt": "2",
}


@pytest.fixture
async def vendor() -> AsyncIterator[SendgridVendor]:
    stand_in = SendgridVendor()
    async with stand_in.running():
        yield stand_in


@pytest.fixture
async def provider(vendor: SendgridVendor) -> AsyncIterator[Sendgrid]:
    made = build("sendgrid", vendor.settings(), tools_for())
    assert isinstance(made, Sendgrid)
    yield made
    await made.close()


def newsletter(vendor: SendgridVendor, count: int) -> list[EmailDelivery]:
    return [vendor.delivery(number) for number in range(count)]


async def test_equal_content_goes_out_in_one_request(vendor: SendgridVendor, provider: Sendgrid) -> None:
    results = await provider.send(newsletter(vendor, 1000))
    assert results == [Sent("message-1")] * 1000
    [mail] = vendor.mails()
    assert len(mail["personalizations"]) == 1000
    assert mail["personalizations"][7] == {
        "to": [{"email": "ada7@example.com"}],
        "custom_args": {
            "tidings_delivery": to_text(DELIVERY_PREFIX, id_of(7)),
            "tidings_tenant": "shop",
            "tidings_attempt": "1",
        },
    }
    assert mail["from"] == {"email": "hello@shop.example", "name": "The Shop"}
    assert mail["subject"] == "Your order"
    assert [part["type"] for part in mail["content"]] == ["text/plain", "text/html"]


async def test_more_than_a_request_holds_is_split(vendor: SendgridVendor, provider: Sendgrid) -> None:
    results = await provider.send(newsletter(vendor, 1001))
    assert len(results) == 1001
    assert sorted(len(mail["personalizations"]) for mail in vendor.mails()) == [1, 1000]


async def test_different_content_is_never_mixed(vendor: SendgridVendor, provider: Sendgrid) -> None:
    batch = [vendor.delivery(number, text=f"Hello {number % 3}") for number in range(9)]
    assert all(isinstance(result, Sent) for result in await provider.send(batch))
    mails = vendor.mails()
    assert len(mails) == 3
    for mail in mails:
        texts = {batch[int(one["to"][0]["email"][3])].content.text for one in mail["personalizations"]}
        assert texts == {mail["content"][0]["value"]}


async def test_one_address_twice_needs_two_requests(vendor: SendgridVendor, provider: Sendgrid) -> None:
    batch = [vendor.delivery(1, to="Ada@example.com"), vendor.delivery(2, to="ada@example.com")]
    assert all(isinstance(result, Sent) for result in await provider.send(batch))
    assert len(vendor.mails()) == 2


async def test_refused_recipients_do_not_spoil_the_others(vendor: SendgridVendor, provider: Sendgrid) -> None:
    def refuse_some(came: Any) -> Said:
        mail = msgspec.json.decode(came.body)
        errors = [
            {"message": "Does not contain a valid address.", "field": f"personalizations.{place}.to.0.email"}
            for place, one in enumerate(mail["personalizations"])
            if one["to"][0]["email"] in {"ada3@example.com", "ada5@example.com"}
        ]
        return Said(400, msgspec.json.encode({"errors": errors})) if errors else Said(202)

    vendor.server.usual = refuse_some
    results = await provider.send(newsletter(vendor, 8))
    refused = Rejected("invalid_address", suppress=True, detail="Does not contain a valid address.")
    assert results == [refused if place in (3, 5) else Sent() for place in range(8)]
    assert len(vendor.mails()) == 2


async def test_a_vendor_that_refuses_one_at_a_time_is_not_asked_for_ever(
    vendor: SendgridVendor, provider: Sendgrid
) -> None:
    body = b'{"errors": [{"message": "No.", "field": "personalizations.0.to.0.email"}]}'
    vendor.server.always = Said(400, body)
    results = await provider.send(newsletter(vendor, 10))
    assert [type(result) for result in results] == [Rejected] * 3 + [Retry] * 7
    assert len(vendor.mails()) == 3


async def test_only_a_bad_address_is_suppressed(vendor: SendgridVendor, provider: Sendgrid) -> None:
    body = b'{"errors": [{"message": "Too long.", "field": "personalizations.0.custom_args"}]}'
    vendor.server.always = Said(400, body)
    assert await provider.send(newsletter(vendor, 1)) == [Rejected("refused", detail="Too long.")]


async def test_content_that_is_refused_is_refused_for_all(vendor: SendgridVendor, provider: Sendgrid) -> None:
    vendor.server.always = Said(400, b'{"errors": [{"message": "The subject is required.", "field": "subject"}]}')
    results = await provider.send(newsletter(vendor, 3))
    assert results == [Rejected("refused", detail="subject: The subject is required.")] * 3
    assert len(vendor.mails()) == 1


async def test_the_rate_limits_end_is_heeded(vendor: SendgridVendor, provider: Sendgrid) -> None:
    vendor.throttle({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(NOW // 1000 + 42)})
    [result] = await provider.send([vendor.delivery(1)])
    assert isinstance(result, Retry)
    assert result.after_s == 42.0


@pytest.mark.parametrize(
    ("reset", "after"),
    [(str(NOW // 1000 - 9999), 0.0), ("-5", None), ("soon", None), ("", None), ("9" * 30, None), ("\u0663", None)],
)
async def test_a_rate_limits_end_that_makes_no_sense(
    vendor: SendgridVendor, provider: Sendgrid, reset: str, after: float | None
) -> None:
    vendor.throttle({"X-RateLimit-Reset": reset} if reset.isascii() else {})
    [result] = await provider.send([vendor.delivery(1)])
    assert isinstance(result, Retry)
    assert result.after_s == after


async def test_too_many_requests_are_about_the_account_when_headers_say_so(
    vendor: SendgridVendor, provider: Sendgrid
) -> None:
    for headers, whose in (
        ({"X-RateLimit-Reset": str(NOW // 1000 + 42)}, About.ACCOUNT),
        ({"Retry-After": "7"}, About.ACCOUNT),
        ({}, About.DELIVERY),
    ):
        vendor.throttle(headers)
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert about(result) is whose, headers


async def test_too_many_requests_for_a_recipient_who_is_named_cost_that_one_alone(
    vendor: SendgridVendor, provider: Sendgrid
) -> None:
    named = b'{"errors": [{"message": "too many requests", "field": "personalizations.1.to.0.email"}]}'
    vendor.server.script = [Said(429, named, {"X-RateLimit-Reset": str(NOW // 1000 + 42)})]
    results = await provider.send(newsletter(vendor, 3))
    assert [type(result) for result in results] == [Sent, Retry, Sent]
    refused = results[1]
    assert isinstance(refused, Retry)
    assert (refused.reason, about(refused)) == ("throttled", About.DELIVERY)


async def test_an_email_without_content_is_not_sent(vendor: SendgridVendor, provider: Sendgrid) -> None:
    [result] = await provider.send([vendor.delivery(1, text="", html="")])
    assert isinstance(result, Rejected)
    assert vendor.mails() == []


@pytest.mark.parametrize(
    ("scopes", "words"), [(b'{"scopes": ["alerts.read"]}', "Mail Send"), (b"<html>", "is not SendGrid")]
)
async def test_check_looks_at_what_the_key_may_do(
    vendor: SendgridVendor, provider: Sendgrid, scopes: bytes, words: str
) -> None:
    vendor.server.always = Said(200, scopes)
    with pytest.raises(SettingsError, match=words):
        await provider.check()


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
    told = reader().receipts_with_unnamed(request)
    assert [(one.delivery_id, one.state, one.reference, one.address) for one in told] == [
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
