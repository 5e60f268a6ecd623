"""The promises of ports/provider.py, for every provider in the registry, against stand-ins for the vendors."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.smtp import SmtpVendor
from support.vendors import (
    NOW,
    FcmVendor,
    HttpVendor,
    InboxVendor,
    SendgridVendor,
    TwilioVendor,
    Vendor,
    id_of,
    tools_for,
)
from tidings.channels.registry import build, config_of, providers
from tidings.channels.settings import HttpProviderConfig, NetworkProviderConfig
from tidings.model.errors import BadReceipt, SettingsError
from tidings.model.sending import InboundRequest, Rejected, Retry, Sent, Uncertain
from tidings.model.vocabulary import Channel
from tidings.ports.provider import Provider

STAND_INS: dict[str, type[Vendor]] = {
    vendor.name: vendor for vendor in (TwilioVendor, SendgridVendor, FcmVendor, SmtpVendor, InboxVendor)
}
NAMES = sorted(providers())
OVER_HTTP = [name for name in NAMES if issubclass(config_of(providers()[name]), HttpProviderConfig)]
SHORT = {"timeout": 0.6, "connect_timeout": 0.5}

of_every_provider = pytest.mark.parametrize("name", NAMES)
of_every_http_provider = pytest.mark.parametrize("name", OVER_HTTP)


@asynccontextmanager
async def sending(name: str, **more: Any) -> AsyncIterator[tuple[Provider[Any], Any]]:
    """The provider and its vendor's stand-in."""
    vendor = STAND_INS[name]()
    async with vendor.running():
        provider = build(name, vendor.settings(**more), tools_for(vendor.inbox))
        try:
            yield provider, vendor
        finally:
            await provider.close()


def test_every_provider_has_a_stand_in() -> None:
    assert set(NAMES) == set(STAND_INS), "write a Vendor in tests/support/vendors.py for a new provider"


@of_every_provider
def test_a_provider_describes_itself(name: str) -> None:
    provider = providers()[name]
    assert provider.kind == name
    assert provider.channel in Channel
    assert provider.__module__.split(".")[-2] == provider.channel.value
    assert all(isinstance(row, Retry | Rejected) and row.reason for row in provider.ERRORS.values())


@of_every_provider
def test_every_setting_is_described(name: str) -> None:
    config = config_of(providers()[name])
    assert config.model_config.get("frozen")
    assert config.model_config.get("extra") == "forbid"
    assert all(field.description for field in config.model_fields.values())


@of_every_provider
def test_an_unknown_setting_is_named(name: str) -> None:
    vendor = STAND_INS[name]()
    with pytest.raises(SettingsError, match=rf"providers\.{name}\.colour is not a setting"):
        build(name, vendor.settings(colour="red"), tools_for(vendor.inbox))


@of_every_provider
async def test_one_kind_can_have_several_accounts(name: str) -> None:
    vendor = STAND_INS[name]()
    async with vendor.running():
        tools = tools_for(vendor.inbox)
        second = build(f"{name}-eu", vendor.settings(kind=name), tools)
        assert (second.name, second.kind, second.section) == (f"{name}-eu", name, f"providers.{name}-eu")
        assert isinstance((await second.send([vendor.delivery(1)]))[0], Sent)
        await second.close()
    with pytest.raises(SettingsError, match=rf"providers\.{name}-eu\.colour is not a setting"):
        build(f"{name}-eu", vendor.settings(kind=name, colour="red"), tools)


@of_every_provider
async def test_the_vendors_rate_is_declared(name: str) -> None:
    async with sending(name) as (provider, _):
        assert provider.rate is None
    if issubclass(config_of(providers()[name]), NetworkProviderConfig):
        async with sending(name, rate=12.5) as (provider, vendor):
            assert provider.rate == 12.5
            for wrong in (0, -1, "fast"):
                with pytest.raises(SettingsError, match=rf"providers\.{name}\.rate cannot be used"):
                    build(name, vendor.settings(rate=wrong), tools_for())


@of_every_provider
async def test_the_bounds_make_sense(name: str) -> None:
    async with sending(name) as (provider, _):
        assert provider.batch_size >= 1
        assert provider.concurrency >= 1
        assert provider.timeout_s > 0
        assert isinstance(provider.idempotent, bool)


@of_every_provider
async def test_one_is_sent(name: str) -> None:
    async with sending(name) as (provider, vendor):
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Sent)
        assert result.delivered == (provider.channel is Channel.INAPP)
        assert result.reference or provider.channel is Channel.INAPP
        assert vendor.arrived() == [(vendor.delivery(1).to, "Hello")]


@of_every_provider
async def test_answers_come_in_order(name: str) -> None:
    async with sending(name) as (provider, vendor):
        batch = [vendor.delivery(number, text=f"number {number % 7}") for number in range(60)]
        results = await provider.send(batch)
        assert len(results) == 60
        assert all(isinstance(result, Sent) for result in results)
        assert sorted(vendor.arrived()) == sorted((one.to, f"number {n % 7}") for n, one in enumerate(batch))


@of_every_provider
async def test_many_sends_at_once(name: str) -> None:
    async with sending(name) as (provider, vendor):
        batches = [[vendor.delivery(start + n, text=str(start + n)) for n in range(3)] for start in range(0, 90, 3)]
        answers = await asyncio.gather(*[provider.send(batch) for batch in batches])
        assert all(isinstance(result, Sent) for answer in answers for result in answer)
        assert len(vendor.arrived()) == 90


@of_every_provider
async def test_any_text_arrives_as_it_is(name: str) -> None:
    texts = [
        "Grüße, Ada! Ñandú & co = 50 % + 1",
        "ご注文ありがとうございます 🎁👨‍👩‍👧",
        "طلبك في الطريق: ١٢٣",
        "<b>not bold</b> & \"quoted\" 'too' \\ back",
        "a" * 1500,
        "two\nlines",
        ".\n..\n.dot",
    ]
    async with sending(name) as (provider, vendor):
        batch = [vendor.delivery(n, text=text, name="Zoë “Ω” O'Neil, 山田") for n, text in enumerate(texts)]
        assert all(isinstance(result, Sent) for result in await provider.send(batch))
        assert sorted(vendor.arrived()) == sorted((one.to, text) for one, text in zip(batch, texts, strict=True))


@of_every_provider
async def test_broken_unicode_is_one_deliverys_fault(name: str) -> None:
    async with sending(name) as (provider, vendor):
        results = await provider.send([vendor.delivery(1), vendor.delivery(2, text="\ud800"), vendor.delivery(3)])
        assert isinstance(results[0], Sent)
        assert isinstance(results[2], Sent)
        if provider.channel is not Channel.INAPP:
            assert isinstance(results[1], Rejected)


ROWS = [(name, code) for name in NAMES for code in providers()[name].ERRORS]


@pytest.mark.parametrize(("name", "code"), ROWS, ids=[f"{name}-{code}" for name, code in ROWS])
async def test_each_row_of_the_error_table(name: str, code: int | str) -> None:
    async with sending(name, **STAND_INS[name].settings_for(code)) as (provider, vendor):
        vendor.refuse_everything_with(code)
        [result] = await provider.send([vendor.delivery(1)])
        expected = provider.ERRORS[code]
        assert expected.detail, "say what the code means"
        assert isinstance(result, Retry | Rejected)
        assert result.detail
        assert msgspec.structs.replace(result, detail="") == msgspec.structs.replace(expected, detail="")


@of_every_http_provider
async def test_retry_after_in_seconds(name: str) -> None:
    async with sending(name) as (provider, vendor):
        vendor.throttle({"Retry-After": "7200"})
        results = await provider.send([vendor.delivery(1), vendor.delivery(2)])
        for result in results:
            assert isinstance(result, Retry)
            assert (result.reason, result.after_s) == ("throttled", 7200.0)


@of_every_http_provider
@pytest.mark.parametrize(
    ("said", "after"),
    [
        ("-5", None),
        ("0", 0.0),
        ("9" * 60, 999_999_999_999_999_999.0),
        ("soon", None),
        ("1e9", None),
        ("nan", None),
        ("inf", None),
        ("30, 120, 7", 120.0),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 251_612_300_799.0),
        ("Mon, 99 Foo 2026 25:61:00 GMT", None),
        ("-1\r\nRetry-After: 40\r\nRetry-After: 9", 40.0),
        ("soon\r\nRetry-After: later", None),
    ],
)
async def test_retry_after_is_never_nonsense(name: str, said: str, after: float | None) -> None:
    async with sending(name) as (provider, vendor):
        vendor.throttle({"Retry-After": said})
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert result.reason == "throttled"
        assert result.after_s == (None if after is None else pytest.approx(after))


@of_every_http_provider
async def test_retry_after_as_a_date(name: str) -> None:
    later = datetime.fromtimestamp(NOW / 1000 + 90, UTC)
    async with sending(name) as (provider, vendor):
        vendor.throttle({"Retry-After": format_datetime(later, usegmt=True)})
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert result.reason == "throttled"
        assert result.after_s == pytest.approx(90, abs=1)


@of_every_http_provider
@pytest.mark.parametrize("status", [500, 502, 503, 521, 522])
async def test_a_server_error_is_tried_again(name: str, status: int) -> None:
    async with sending(name) as (provider, vendor):
        vendor.fail_with(status)
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)


@of_every_http_provider
@pytest.mark.parametrize("status", [504, 520, 524])
async def test_a_gateway_timeout_is_uncertain(name: str, status: int) -> None:
    async with sending(name) as (provider, vendor):
        vendor.fail_with(status)
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Uncertain)


@of_every_http_provider
@pytest.mark.parametrize("status", [301, 404, 418])
async def test_any_other_refusal_is_for_good(name: str, status: int) -> None:
    async with sending(name) as (provider, vendor):
        vendor.fail_with(status)
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Rejected)
        assert not result.suppress


WAYS = [(name, way) for name in NAMES for way in sorted(STAND_INS[name].ways)]


@pytest.mark.parametrize(("name", "way"), WAYS, ids=[f"{name}-{way}" for name, way in WAYS])
async def test_no_answer_after_the_body_is_never_a_retry(name: str, way: str) -> None:
    async with sending(name, **SHORT) as (provider, vendor):
        vendor.misbehave(way)
        [result] = await asyncio.wait_for(provider.send([vendor.delivery(1)]), provider.timeout_s + 1)
        # A vendor that accepts by its status has accepted, whatever happens to the body.
        taken_by_status = (name, way) == ("sendgrid", "endless_body")
        assert isinstance(result, Sent if taken_by_status else Uncertain), result


@pytest.mark.parametrize("name", [name for name in NAMES if STAND_INS[name].ways])
async def test_a_refused_connection_is_tried_again(name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = taken.getsockname()[1]
        vendor = STAND_INS[name]()
        async with vendor.running():
            place = {"port": closed} if name == "smtp" else {"base_url": f"http://127.0.0.1:{closed}"}
            provider = build(name, vendor.settings(**place), tools_for())
            results = await provider.send([vendor.delivery(1), vendor.delivery(2)])
            await provider.close()
        for result in results:
            assert isinstance(result, Retry)
            assert result.reason == "unreachable"


@pytest.mark.parametrize("name", [name for name in NAMES if STAND_INS[name].ways])
async def test_a_connection_that_is_never_established_is_a_retry(name: str) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [_begin_connecting(port) for _ in range(4)]
        vendor = STAND_INS[name]()
        async with vendor.running():
            place = {"port": port} if name == "smtp" else {"base_url": f"http://127.0.0.1:{port}"}
            provider = build(name, vendor.settings(**place, **SHORT), tools_for())
            [result] = await provider.send([vendor.delivery(1)])
            await provider.close()
        for one in waiting:
            one.close()
        assert isinstance(result, Retry)


def _begin_connecting(port: int) -> socket.socket:
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
    return one


@pytest.mark.parametrize("name", [name for name in NAMES if STAND_INS[name].ways])
async def test_connections_are_used_again(name: str) -> None:
    async with sending(name) as (provider, vendor):
        for number in range(5):
            await provider.send([vendor.delivery(number)])
        assert len(vendor.arrived()) == 5
        assert vendor.server.connections == 1


@pytest.mark.parametrize("name", [name for name in NAMES if providers()[name].channel is Channel.EMAIL])
@pytest.mark.parametrize(
    "break_", ["\r\nBcc: eve@example.com", "\nX-Evil: 1", "\r\n\r\nbody", "\x00", "\u2028Bcc: eve@example.com", "\x85x"]
)
async def test_no_text_adds_a_header(name: str, break_: str) -> None:
    async with sending(name) as (provider, vendor):
        nasty = vendor.delivery(1, subject=f"Hi{break_}", name=f"Ada{break_}")
        bad_address = vendor.delivery(2, to=f"ada@example.com{break_}")
        results = await provider.send([nasty, bad_address])
        assert isinstance(results[0], Sent)
        assert isinstance(results[1], Rejected)
        assert vendor.arrived() == [("ada1@example.com", "Hello")]
        if name == "smtp":
            [mail] = vendor.server.mails
            assert mail.parsed.get_all("Bcc") is None
            assert mail.parsed["X-Evil"] is None
            assert len(mail.parsed["To"].addresses) == 1
        else:
            [sent] = vendor.mails()
            assert "\n" not in sent["subject"] + sent["personalizations"][0]["to"][0]["name"]


@pytest.mark.parametrize("name", [name for name in NAMES if STAND_INS[name].ways])
async def test_check_accepts_good_credentials(name: str) -> None:
    async with sending(name) as (provider, _):
        sentence = await provider.check()
        assert sentence.endswith(".")


@pytest.mark.parametrize("name", [name for name in NAMES if STAND_INS[name].ways])
async def test_check_says_what_is_wrong(name: str) -> None:
    login = {"username": "somebody", "password": "wrong"} if name == "smtp" else {}
    async with sending(name, **login) as (provider, vendor):
        vendor.take_no_credentials()
        with pytest.raises(SettingsError, match=rf"providers\.{name}\."):
            await provider.check()
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert result.reason == "unauthorized"


def request_of(body: bytes, headers: dict[str, str], query: str = "") -> InboundRequest:
    return InboundRequest(url=f"https://notify.example.com/v1/receipts/x?{query}", headers=headers, query={}, body=body)


@of_every_provider
def test_forged_receipts_are_refused_and_nothing_else_happens(name: str) -> None:
    vendor = STAND_INS[name]()
    if isinstance(vendor, FcmVendor):
        vendor.accounts.port = 1
    if isinstance(vendor, HttpVendor | SmtpVendor):
        vendor.server.port = 1
    provider = build(name, vendor.settings(), tools_for(vendor.inbox))
    signatures = [
        "x-twilio-signature",
        "x-twilio-email-event-webhook-signature",
        "x-twilio-email-event-webhook-timestamp",
    ]

    @settings(max_examples=150, deadline=None)
    @given(
        body=st.binary(max_size=200) | st.sampled_from([b"[]", b"{}", b"MessageStatus=sent", b"a=%ff", b"&" * 500]),
        headers=st.dictionaries(st.sampled_from(signatures), st.text(max_size=60)),
        url=st.text(max_size=60) | st.sampled_from(["http://[", "http://a:b/", "https://h/p?delivery=1&tenant=\ud800"]),
    )
    def forge(body: bytes, headers: dict[str, str], url: str) -> None:
        with pytest.raises(BadReceipt):
            provider.receipts(InboundRequest(url=url, headers=headers, query={}, body=body))

    forge()
    assert id_of(1)


def test_no_provider_is_incomplete() -> None:
    for provider in providers().values():
        assert inspect.iscoroutinefunction(provider.send)
        assert provider.check is not Provider.check
        if STAND_INS[provider.kind].receipts:
            assert provider.receipts is not Provider.receipts
