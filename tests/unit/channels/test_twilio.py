"""Twilio's form, and its signed status callbacks, checked against Twilio's own validator."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from support.http_stand_in import Reply
from support.vendors import NOW, RECEIPTS, StillClock, TwilioVendor, id_of
from tidings.channels.registry import build
from tidings.channels.sms.twilio import Twilio
from tidings.channels.tools import Tools
from tidings.model.errors import BadReceipt, SettingsError
from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.model.sending import InboundRequest, Receipt, Rejected, Retry
from tidings.model.vocabulary import State

URL = f"{RECEIPTS}/twilio"
VALIDATOR = RequestValidator(TwilioVendor.token)


def make(receipts_url: str = RECEIPTS, base_url: str = "http://127.0.0.1:9", **more: Any) -> Twilio:
    section = {
        "account_sid": TwilioVendor.sid,
        "auth_token": TwilioVendor.token,
        "from_number": "+15005550006",
        "base_url": base_url,
        **more,
    }
    provider = build("twilio", section, Tools(receipts_url, StillClock(), None))
    assert isinstance(provider, Twilio)
    return provider


def tail(tenant: str = "shop", attempt: int = 2) -> str:
    return urlencode({"delivery": to_text(DELIVERY_PREFIX, id_of(1)), "tenant": tenant, "attempt": attempt})


def signed(form: dict[str, str], query: str | None = None, url: str = URL, signed_url: str = "") -> InboundRequest:
    whole = f"{url}?{tail() if query is None else query}"
    signature = VALIDATOR.compute_signature(signed_url or whole, form)
    return InboundRequest(whole, {"x-twilio-signature": signature}, {}, urlencode(form).encode())


def said(**form: str) -> Receipt:
    [receipt] = make().receipts(signed({"MessageSid": "SM1", "To": "+14155550001", **form}))
    return receipt


@pytest.mark.parametrize(
    ("left_ms", "period"),
    [
        (None, None),
        (300_000, "300"),
        (1, "1"),
        (-1, "1"),
        (1_999, "1"),
        (36_000_000, "36000"),
        (36_000_999, "36000"),
        (36_001_000, None),
        (10**15, None),
    ],
)
def test_twilio_keeps_a_text_until_it_expires(left_ms: int | None, period: str | None) -> None:
    expires_at = None if left_ms is None else NOW + left_ms
    form = parse_qs(make()._form(TwilioVendor().delivery(1, expires_at=expires_at)).decode(), strict_parsing=True)
    assert form.get("ValidityPeriod") == (None if period is None else [period])


def test_the_form_says_where_receipts_go() -> None:
    vendor = TwilioVendor()
    form = parse_qs(make()._form(vendor.delivery(1, tenant="a&b/ç", attempt=3)).decode(), strict_parsing=True)
    target = urlsplit(form["StatusCallback"][0])
    assert f"{target.scheme}://{target.netloc}{target.path}" == URL
    assert dict(parse_qsl(target.query)) == {
        "delivery": to_text(DELIVERY_PREFIX, id_of(1)),
        "tenant": "a&b/ç",
        "attempt": "3",
    }
    assert form["From"] == ["+15005550006"]


def test_a_messaging_service_stands_in_for_the_sender() -> None:
    provider = make(from_number=None, messaging_service_sid="MG" + "1" * 32)
    form = parse_qs(provider._form(TwilioVendor().delivery(1)).decode())
    assert form["MessagingServiceSid"] == ["MG" + "1" * 32]
    assert "From" not in form


@pytest.mark.parametrize("both", [{"messaging_service_sid": "MG" + "1" * 32}, {"from_number": None}])
def test_exactly_one_sender(both: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="exactly one of from_number and messaging_service_sid"):
        make(**both)


def test_no_receipts_are_asked_for_where_twilio_cannot_reach_us() -> None:
    provider = make("http://127.0.0.1:8400/v1/receipts", "https://api.twilio.com")
    assert b"StatusCallback" not in provider._form(TwilioVendor().delivery(1))
    provider = make("http://127.0.0.1:8400/v1/receipts", "http://127.0.0.1:8401")
    assert b"StatusCallback" in provider._form(TwilioVendor().delivery(1))


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200), to=st.text(min_size=1, max_size=20), tenant=st.text(min_size=1, max_size=20))
def test_no_text_adds_a_parameter(text: str, to: str, tenant: str) -> None:
    delivery = TwilioVendor().delivery(1, to=to, text=text, tenant=tenant)
    form = parse_qs(make()._form(delivery).decode(), keep_blank_values=True, strict_parsing=True)
    assert set(form) == {"From", "To", "Body", "StatusCallback"}
    assert (form["To"], form["Body"]) == ([to], [text])


@pytest.mark.parametrize(
    ("status", "state", "kind"),
    [
        ("sent", State.SENT, "sent"),
        ("delivered", State.DELIVERED, "delivered"),
        ("read", State.DELIVERED, "opened"),
        ("undelivered", State.FAILED, "undelivered"),
        ("failed", State.FAILED, "failed"),
        ("canceled", State.FAILED, "cancelled"),
    ],
)
def test_a_status_becomes_a_receipt(status: str, state: State, kind: str) -> None:
    receipt = said(MessageStatus=status)
    assert (receipt.state, receipt.kind) == (state, kind)
    assert (receipt.delivery_id, receipt.tenant, receipt.attempt) == (id_of(1), "shop", 2)
    assert (receipt.reference, receipt.address) == ("SM1", "+14155550001")
    assert not receipt.suppress


@pytest.mark.parametrize("status", ["queued", "sending", "accepted", "scheduled", "something new"])
def test_an_intermediate_status_gives_no_receipt(status: str) -> None:
    assert make().receipts(signed({"MessageStatus": status})) == []


@pytest.mark.parametrize(
    ("code", "reason", "suppress"),
    [
        ("30001", "queue_full", False),
        ("30002", "account_suspended", False),
        ("30003", "handset_unreachable", False),
        ("30004", "blocked", False),
        ("30005", "unknown_number", True),
        ("30006", "landline", True),
        ("30007", "filtered", False),
        ("30008", "unknown_error", False),
        ("21610", "unsubscribed", True),
        ("39999", "undelivered", False),
        ("not a number", "undelivered", False),
    ],
)
def test_an_error_code_says_why(code: str, reason: str, suppress: bool) -> None:
    receipt = said(MessageStatus="undelivered", ErrorCode=code)
    assert (receipt.reason, receipt.suppress) == (reason, suppress)
    assert code in receipt.detail


def test_a_receipt_says_what_the_code_means() -> None:
    assert said(MessageStatus="failed", ErrorCode="21610").detail == "21610: the person replied STOP"


def test_a_short_code_says_nothing_about_the_number() -> None:
    receipt = said(MessageStatus="undelivered", ErrorCode="30006", From="12345")
    assert (receipt.reason, receipt.suppress) == ("carrier_unreachable", False)


def test_a_filtered_or_blocked_text_is_never_sent_by_another_provider() -> None:
    for code in (21610, 30004, 30007, 30450):
        row = Twilio.ERRORS[code]
        assert isinstance(row, Rejected)
        assert not row.fallback


def test_twilios_documented_extra_fields_are_accepted() -> None:
    receipt = said(
        MessageStatus="delivered",
        SmsSid="SM1",
        SmsStatus="delivered",
        ApiVersion="2010-04-01",
        From="+15005550006",
        RawDlrDoneDate="2409181200",
        Empty="",
    )
    assert receipt.state is State.DELIVERED


@settings(max_examples=100, deadline=None)
@given(form=st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=30), max_size=8))
def test_the_signature_is_what_twilios_validator_computes(form: dict[str, str]) -> None:
    form = {name: value for name, value in form.items() if name not in {"MessageStatus", "ErrorCode"}}
    assert make().receipts(signed(form)) == []


@pytest.mark.parametrize("port", ["", ":443"])
@pytest.mark.parametrize("signed_port", ["", ":443"])
def test_the_port_may_be_spelled_or_not(port: str, signed_port: str) -> None:
    here = f"https://notify.example.com{port}/v1/receipts/twilio"
    there = f"https://notify.example.com{signed_port}/v1/receipts/twilio?{tail()}"
    [receipt] = make().receipts(signed({"MessageStatus": "sent"}, url=here, signed_url=there))
    assert receipt.kind == "sent"


def test_a_changed_url_or_form_is_refused() -> None:
    genuine = signed({"MessageStatus": "delivered"})
    for url, body in [
        (genuine.url.replace("attempt=2", "attempt=3"), genuine.body),
        (genuine.url.replace("tenant=shop", "tenant=other"), genuine.body),
        (genuine.url, genuine.body.replace(b"delivered", b"failed")),
        (genuine.url, genuine.body + b"&MessageStatus=failed"),
    ]:
        with pytest.raises(BadReceipt, match="signature"):
            make().receipts(InboundRequest(url, genuine.headers, {}, body))


@pytest.mark.parametrize("query", ["", "delivery=dlv_1&tenant=shop&attempt=1", "tenant=shop&attempt=1"])
def test_a_signed_request_that_names_no_delivery_is_refused(query: str) -> None:
    with pytest.raises(BadReceipt, match="does not name a delivery"):
        make().receipts(signed({"MessageStatus": "sent"}, query=query))


async def test_a_suspended_account_is_told() -> None:
    vendor = TwilioVendor()
    async with vendor.running():
        provider = build("twilio", vendor.settings(), Tools(RECEIPTS, StillClock(), None))
        vendor.server.always = Reply(200, b'{"sid": "AC1", "status": "suspended"}')
        with pytest.raises(SettingsError, match="suspended"):
            await provider.check()
        await provider.close()


async def test_an_unknown_error_keeps_twilios_words() -> None:
    vendor = TwilioVendor()
    async with vendor.running():
        provider = build("twilio", vendor.settings(), Tools(RECEIPTS, StillClock(), None))
        vendor.server.always = Reply(500, b'{"code": 20500, "message": "Internal\\nerror"}')
        [result] = await provider.send([vendor.delivery(1)])
        await provider.close()
    assert result == Retry("provider_error", None, "20500: Internal error")
