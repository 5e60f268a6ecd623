"""SendGrid: grouping by content, refusals that name recipients, and rate limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from support.http_stand_in import Reply
from support.vendors import NOW, SendgridVendor, id_of, tools_for
from tidings.channels.email.sendgrid import Sendgrid
from tidings.channels.registry import build
from tidings.model.errors import SettingsError
from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.model.sending import About, EmailDelivery, Rejected, Retry, Sent
from tidings.policy.retry import about


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
        texts = {batch[int(recipient["to"][0]["email"][3])].content.text for recipient in mail["personalizations"]}
        assert texts == {mail["content"][0]["value"]}


async def test_one_address_twice_needs_two_requests(vendor: SendgridVendor, provider: Sendgrid) -> None:
    batch = [vendor.delivery(1, to="Ada@example.com"), vendor.delivery(2, to="ada@example.com")]
    assert all(isinstance(result, Sent) for result in await provider.send(batch))
    assert len(vendor.mails()) == 2


async def test_refused_recipients_do_not_spoil_the_others(vendor: SendgridVendor, provider: Sendgrid) -> None:
    def refuse_some(request: Any) -> Reply:
        mail = msgspec.json.decode(request.body)
        errors = [
            {"message": "Does not contain a valid address.", "field": f"personalizations.{place}.to.0.email"}
            for place, recipient in enumerate(mail["personalizations"])
            if recipient["to"][0]["email"] in {"ada3@example.com", "ada5@example.com"}
        ]
        return Reply(400, msgspec.json.encode({"errors": errors})) if errors else Reply(202)

    vendor.server.usual = refuse_some
    results = await provider.send(newsletter(vendor, 8))
    refused = Rejected("invalid_address", suppress=True, detail="Does not contain a valid address.")
    assert results == [refused if place in (3, 5) else Sent() for place in range(8)]
    assert len(vendor.mails()) == 2


async def test_a_vendor_that_refuses_one_at_a_time_is_not_asked_for_ever(
    vendor: SendgridVendor, provider: Sendgrid
) -> None:
    body = b'{"errors": [{"message": "No.", "field": "personalizations.0.to.0.email"}]}'
    vendor.server.always = Reply(400, body)
    results = await provider.send(newsletter(vendor, 10))
    assert [type(result) for result in results] == [Rejected] * 3 + [Retry] * 7
    assert len(vendor.mails()) == 3


async def test_only_a_bad_address_is_suppressed(vendor: SendgridVendor, provider: Sendgrid) -> None:
    body = b'{"errors": [{"message": "Too long.", "field": "personalizations.0.custom_args"}]}'
    vendor.server.always = Reply(400, body)
    assert await provider.send(newsletter(vendor, 1)) == [Rejected("refused", detail="Too long.")]


async def test_content_that_is_refused_is_refused_for_all(vendor: SendgridVendor, provider: Sendgrid) -> None:
    vendor.server.always = Reply(400, b'{"errors": [{"message": "The subject is required.", "field": "subject"}]}')
    results = await provider.send(newsletter(vendor, 3))
    assert results == [Rejected("refused", detail="subject: The subject is required.")] * 3
    assert len(vendor.mails()) == 1


async def test_a_refusal_without_a_field_is_told_by_its_message_alone(
    vendor: SendgridVendor, provider: Sendgrid
) -> None:
    vendor.server.always = Reply(400, b'{"errors": [{"message": "No.", "field": null}, {"message": "Never."}]}')
    assert await provider.send(newsletter(vendor, 1)) == [Rejected("refused", detail="No.; Never.")]


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
    vendor.server.script = [Reply(429, named, {"X-RateLimit-Reset": str(NOW // 1000 + 42)})]
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
    vendor.server.always = Reply(200, scopes)
    with pytest.raises(SettingsError, match=words):
        await provider.check()
