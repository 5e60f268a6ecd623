"""The promises of ports/provider.py, for every provider in the registry, against stand-ins for the vendors."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fcm import FcmVendor
from support.providers import (
    NAMES,
    STAND_INS,
    of_every_provider,
    of_every_vendor,
    sending,
)
from support.smtp import SmtpVendor
from support.vendors import HttpVendor, id_of, tools_for
from tidings.channels.registry import build, config_of, providers
from tidings.channels.settings import NetworkProviderConfig
from tidings.model.errors import BadReceipt, SettingsError
from tidings.model.sending import InboundRequest, Rejected, Retry, Sent
from tidings.model.vocabulary import Channel
from tidings.ports.provider import Provider


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
        assert sorted(vendor.arrived()) == sorted((delivery.to, f"number {n % 7}") for n, delivery in enumerate(batch))


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
        assert sorted(vendor.arrived()) == sorted(
            (delivery.to, text) for delivery, text in zip(batch, texts, strict=True)
        )


@of_every_provider
async def test_broken_unicode_is_one_deliverys_fault(name: str) -> None:
    async with sending(name) as (provider, vendor):
        results = await provider.send([vendor.delivery(1), vendor.delivery(2, text="\ud800"), vendor.delivery(3)])
        assert isinstance(results[0], Sent)
        assert isinstance(results[2], Sent)
        if provider.channel is not Channel.INAPP:
            assert isinstance(results[1], Rejected)


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


@of_every_vendor
async def test_check_accepts_good_credentials(name: str) -> None:
    async with sending(name) as (provider, _):
        sentence = await provider.check()
        assert sentence.endswith(".")


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
