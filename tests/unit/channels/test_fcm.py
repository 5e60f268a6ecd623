"""FCM: the request, the lifetime of the access token, and which INVALID_ARGUMENT is about the token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import msgspec
import pytest

from support.fcm import FcmVendor, refusal
from support.http_stand_in import Misbehave, Reply, Request
from support.vendors import NOW, StillClock, id_of, tools_for
from tidings.channels.push.fcm import Fcm
from tidings.channels.registry import build
from tidings.channels.tools import Tools
from tidings.model.errors import SettingsError
from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.model.sending import Rejected, Retry, Sent
from tidings.model.vocabulary import Priority


class MovingClock(StillClock):
    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> int:
        return self.time


@pytest.fixture
async def vendor() -> AsyncIterator[FcmVendor]:
    stand_in = FcmVendor()
    async with stand_in.running():
        yield stand_in


@pytest.fixture
def clock() -> MovingClock:
    return MovingClock()


@pytest.fixture
async def provider(vendor: FcmVendor, clock: MovingClock) -> AsyncIterator[Fcm]:
    made = build("fcm", vendor.settings(), Tools("", clock, None))
    assert isinstance(made, Fcm)
    yield made
    await made.close()


def body_of(request: Request) -> Any:
    return msgspec.json.decode(request.body)


async def test_the_request_body(vendor: FcmVendor, provider: Fcm) -> None:
    [result] = await provider.send([vendor.delivery(1, link="https://shop.example/1")])
    assert result == Sent("projects/shop-1/messages/1")
    [request] = vendor.server.requests
    assert request.path == "/v1/projects/shop-1/messages:send"
    assert body_of(request) == {
        "message": {
            "token": "device-1",
            "notification": {"title": "Your order", "body": "Hello"},
            "data": {"delivery_id": to_text(DELIVERY_PREFIX, id_of(1)), "link": "https://shop.example/1"},
            "webpush": {"fcm_options": {"link": "https://shop.example/1"}},
        }
    }


async def test_a_link_that_is_not_https_is_only_in_the_data(vendor: FcmVendor, provider: Fcm) -> None:
    await provider.send([vendor.delivery(1, link="shop://orders/1")])
    assert "webpush" not in body_of(vendor.server.requests[0])["message"]


_28_DAYS = 28 * 86_400


@pytest.mark.parametrize(
    ("left_ms", "seconds", "until_s"),
    [
        (300_000, 300, NOW // 1000 + 300),
        (1_999, 1, NOW // 1000 + 1),
        (999, 0, NOW // 1000),
        (-5_000, 0, NOW // 1000 - 5),
        (_28_DAYS * 1000, _28_DAYS, NOW // 1000 + _28_DAYS),
        (_28_DAYS * 1000 + 1_000, _28_DAYS, NOW // 1000 + _28_DAYS),
        (10**15, _28_DAYS, NOW // 1000 + _28_DAYS),
    ],
)
async def test_a_push_is_kept_until_it_expires(
    vendor: FcmVendor, provider: Fcm, left_ms: int, seconds: int, until_s: int
) -> None:
    await provider.send([vendor.delivery(1, expires_at=NOW + left_ms, link="https://shop.example/1")])
    sent = body_of(vendor.server.requests[0])["message"]
    assert sent["android"] == {"ttl": f"{seconds}s"}
    assert sent["apns"] == {"headers": {"apns-expiration": str(until_s)}}
    assert sent["webpush"] == {
        "headers": {"TTL": str(seconds)},
        "fcm_options": {"link": "https://shop.example/1"},
    }


async def test_the_time_left_is_computed_when_the_request_is_sent(
    vendor: FcmVendor, provider: Fcm, clock: MovingClock
) -> None:
    delivery = vendor.delivery(1, expires_at=NOW + 300_000)
    clock.time += 100_000
    await provider.send([delivery])
    assert body_of(vendor.server.requests[0])["message"]["android"] == {"ttl": "200s"}


@pytest.mark.parametrize(
    ("priority", "android", "apple", "web"),
    [(Priority.CRITICAL, "high", "10", "high"), (Priority.BULK, "normal", "5", "low")],
)
async def test_the_priority_sets_the_urgency(
    vendor: FcmVendor, provider: Fcm, priority: Priority, android: str, apple: str, web: str
) -> None:
    await provider.send([vendor.delivery(1, priority=priority), vendor.delivery(2)])
    sent, usual = sorted(
        (body_of(request)["message"] for request in vendor.server.requests), key=lambda message: message["token"]
    )
    assert sent["android"] == {"priority": android}
    assert sent["apns"] == {"headers": {"apns-priority": apple}}
    assert sent["webpush"] == {"headers": {"Urgency": web}}
    assert set(usual) == {"token", "notification", "data"}


async def test_a_bad_key_for_apple_keeps_the_access_token(vendor: FcmVendor, provider: Fcm) -> None:
    await provider.send([vendor.delivery(1)])
    vendor.server.script.append(Reply(*refusal("THIRD_PARTY_AUTH_ERROR")))
    [refused] = await provider.send([vendor.delivery(1)])
    assert isinstance(refused, Retry)
    assert refused.reason == "third_party_auth"
    await provider.send([vendor.delivery(1)])
    assert len(vendor.accounts.requests) == 1


async def test_a_401_without_a_code_is_about_the_access_token(vendor: FcmVendor, provider: Fcm) -> None:
    await provider.send([vendor.delivery(1)])
    vendor.server.script.append(Reply(401, b"<html>no</html>"))
    [refused] = await provider.send([vendor.delivery(1)])
    assert isinstance(refused, Retry)
    assert refused.reason == "unauthorized"
    await provider.send([vendor.delivery(1)])
    assert len(vendor.accounts.requests) == 2


async def test_the_assertion_has_the_claims_that_google_asks_for(vendor: FcmVendor, provider: Fcm) -> None:
    await provider.check()
    [request] = vendor.accounts.requests
    form = parse_qs(request.body.decode(), strict_parsing=True)
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    audience = vendor.account()["token_uri"]
    claims = jwt.decode(
        form["assertion"][0],
        vendor.key.public_key(),
        algorithms=["RS256"],
        audience=audience,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims == {
        "iss": "tidings@shop-1.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": audience,
        "iat": NOW // 1000 - 10,
        "exp": NOW // 1000 - 10 + 3600,
    }
    assert jwt.get_unverified_header(form["assertion"][0])["kid"] == "abc123"


async def test_all_sends_share_one_token_until_it_is_old(vendor: FcmVendor, provider: Fcm, clock: MovingClock) -> None:
    await asyncio.gather(*[provider.send([vendor.delivery(number)]) for number in range(20)])
    assert len(vendor.accounts.requests) == 1
    clock.time += 3_200_000
    await provider.send([vendor.delivery(1)])
    assert len(vendor.accounts.requests) == 1
    clock.time += 200_000
    await provider.send([vendor.delivery(1)])
    assert len(vendor.accounts.requests) == 2


async def test_a_refused_token_is_replaced(vendor: FcmVendor, provider: Fcm) -> None:
    await provider.send([vendor.delivery(1)])
    vendor.server.script.append(Reply(*refusal("UNAUTHENTICATED")))
    [refused] = await provider.send([vendor.delivery(1)])
    assert isinstance(refused, Retry)
    [again] = await provider.send([vendor.delivery(1)])
    assert isinstance(again, Sent)
    assert len(vendor.accounts.requests) == 2


@pytest.mark.parametrize(
    "said",
    [
        Reply(500, b"oops"),
        Reply(200, b"<html>"),
        Reply(200, b'{"access_token": "new\\nline", "expires_in": 1}'),
        Reply(200, b'{"access_token": "\xc3\xa9"}'),
        Misbehave("cut"),
        Misbehave("not_http"),
    ],
)
async def test_without_a_token_nothing_was_sent(vendor: FcmVendor, provider: Fcm, said: Reply | Misbehave) -> None:
    vendor.accounts.always = said
    results = await provider.send([vendor.delivery(1), vendor.delivery(2)])
    for result in results:
        assert isinstance(result, Retry)
        assert result.reason == "no_access_token"
    assert vendor.server.requests == []


@pytest.mark.parametrize(
    ("violations", "text", "expected"),
    [
        (["message.token"], "Request contains an invalid argument.", Rejected("invalid_token", suppress=True)),
        (["message.data[0].value"], "Invalid value at 'message.data[0].value'", Rejected("invalid_payload")),
        (
            [],
            "The registration token is not a valid FCM registration token",
            Rejected("invalid_token", suppress=True),
        ),
        ([], "Message too big", Rejected("invalid_payload")),
    ],
)
async def test_invalid_argument_is_about_the_token_or_the_payload(
    vendor: FcmVendor, provider: Fcm, violations: list[str], text: str, expected: Rejected
) -> None:
    vendor.server.always = Reply(*refusal("INVALID_ARGUMENT", violations, text))
    [result] = await provider.send([vendor.delivery(1)])
    assert isinstance(result, Rejected)
    assert (result.reason, result.suppress) == (expected.reason, expected.suppress)
    assert text in result.detail


async def test_quota_without_retry_after_waits_a_minute(vendor: FcmVendor, provider: Fcm) -> None:
    vendor.server.always = Reply(*refusal("QUOTA_EXCEEDED"))
    [result] = await provider.send([vendor.delivery(1)])
    assert isinstance(result, Retry)
    assert result.after_s == 60.0


async def test_the_account_may_come_as_a_file_or_as_text(vendor: FcmVendor, tmp_path: Path) -> None:
    text = msgspec.json.encode(vendor.account()).decode()
    file = tmp_path / "account.json"
    file.write_text(text)
    for account in ({"service_account_file": str(file)}, {"service_account": text}):
        made = build("fcm", {"base_url": vendor.url, **account}, tools_for())
        assert "shop-1" in await made.check()
        await made.close()


def test_a_bad_service_account_is_refused_in_plain_words(tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    file.write_text('{"type": "authorized_user"}')
    account = FcmVendor().account() | {"private_key": "secret stuff"}
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "exactly one of service_account_file and service_account"),
        ({"service_account_file": str(tmp_path / "none.json")}, "cannot be read: No such file"),
        ({"service_account_file": str(file)}, "is not the JSON file of a service account"),
        ({"service_account": "{"}, r"providers\.fcm\.service_account cannot be used: it is text, but not JSON"),
        ({"service_account": account}, r"providers\.fcm\.service_account\.private_key cannot be used: it is not a pri"),
    ]
    for section, words in cases:
        with pytest.raises(SettingsError, match=words) as caught:
            build("fcm", section, tools_for())
        assert "secret stuff" not in str(caught.value)
