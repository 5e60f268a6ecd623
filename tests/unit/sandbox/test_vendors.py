"""Bad requests get the vendors' own refusals, and never a 500."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyreqwest.client import Client

from support.sandbox import Caller
from tidings.sandbox.app import Options, Sandbox
from tidings.sandbox.credentials import Credentials
from tidings.sandbox.server import Handle
from tidings.sandbox.wire import Request

GOOD: dict[str, Any] = {
    "personalizations": [{"to": [{"email": "ana@example.com"}]}],
    "from": {"email": "shop@example.com"},
    "subject": "Hello",
    "content": [{"type": "text/plain", "value": "Hello"}],
}


@pytest.mark.parametrize(
    ("changed", "field", "text"),
    [
        ({"from": None}, "from.email", "must be provided"),
        ({"from": {"email": "shop"}}, "from.email", "valid address"),
        ({"from": []}, "from", "Expected: object, given: array"),
        ({"from": {"email": 5}}, "from.email", "Expected: string, given: integer"),
        ({"personalizations": []}, "personalizations", "at least one"),
        ({"personalizations": [{"to": []}]}, "personalizations.0.to", "at least one"),
        ({"personalizations": [{"to": [{"name": "Ana"}]}]}, "personalizations.0.to.0.email", "required"),
        ({"personalizations": [{"to": [{"email": "ana@"}]}]}, "personalizations.0.to.0.email", "valid address"),
        ({"personalizations": GOOD["personalizations"] * 1001}, "personalizations", "maximum is 1000"),
        (
            {"personalizations": [{"to": [{"email": "a@b.example"}], "cc": [{"email": "A@b.example"}]}]},
            "personalizations.0",
            "unique",
        ),
        ({"subject": ""}, "subject", "required"),
        ({"content": []}, "content", "required"),
        ({"content": [{"type": "text/plain", "value": ""}]}, "content.0.value", "at least one character"),
        ({"content": [{"type": "text", "value": "x"}]}, "content.0.type", "MIME"),
        ({"headers": {"Subject": "x"}}, "headers.Subject", "reserved"),
        ({"colour": "red"}, "colour", "Additional property"),
    ],
)
async def test_mail_send_names_the_field(caller: Caller, changed: dict[str, Any], field: str, text: str) -> None:
    answer = await caller.mail_send(GOOD | changed)
    assert answer.status == 400
    errors = (await answer.json())["errors"]
    assert field in [error["field"] for error in errors]
    assert any(text in error["message"] for error in errors)


async def test_mail_send_in_sandbox_mode_sends_nothing(caller: Caller, sandbox: Handle) -> None:
    answer = await caller.mail_send(GOOD | {"mail_settings": {"sandbox_mode": {"enable": True}}})
    assert answer.status == 200
    assert sandbox.sandbox.log.latest == 0


async def test_mail_send_counts_every_recipient(caller: Caller, sandbox: Handle) -> None:
    person = {
        "to": [{"email": "a@example.com"}, {"email": "b@example.com"}],
        "cc": [{"email": "c@example.com"}],
        "bcc": [{"email": "d@example.com"}],
    }
    assert (await caller.mail_send(GOOD | {"personalizations": [person]})).status == 202
    assert [one.to[0] for one in sandbox.sandbox.log.newest(10)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"To": ""}, 21604),
        ({"To": "0034600000001"}, 21211),
        ({"From": ""}, 21603),
        ({"From": "+34600000009"}, 21606),
        ({"From": "+15005550001"}, 21212),
        ({"From": "+15005550008"}, 21611),
        ({"From": "++"}, 21212),
        ({"To": "+15005550006"}, 21266),
        ({"Body": ""}, 21602),
        ({"Body": "x" * 1601}, 21617),
        ({"StatusCallback": "ftp://example.com"}, 21609),
        ({"From": "", "MessagingServiceSid": "MGx"}, 21701),
        ({"ValidityPeriod": "0"}, 21624),
        ({"ValidityPeriod": "36001"}, 21624),
        ({"ValidityPeriod": ""}, 21624),
        ({"ValidityPeriod": "1.5"}, 21624),
    ],
)
async def test_messages_refuses_with_a_code(caller: Caller, changed: dict[str, str], code: int) -> None:
    answer = await caller.messages({"To": "+34600000001", "From": "+15005550006", "Body": "Hello"} | changed)
    problem = await answer.json()
    assert (problem["code"], problem["status"]) == (code, answer.status)
    assert problem["more_info"] == f"https://www.twilio.com/docs/errors/{code}"


async def test_messages_takes_a_service_and_a_name(caller: Caller) -> None:
    service = await caller.messages({"To": "+34600000001", "MessagingServiceSid": f"MG{'0' * 32}", "Body": "Hello"})
    sent = await service.json()
    assert (service.status, sent["status"], sent["from"]) == (201, "accepted", None)
    named = await caller.messages({"To": "+34600000001", "From": "Corner Shop", "Body": "Hello"})
    assert (named.status, (await named.json())["from"]) == (201, "Corner Shop")


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"message": {"notification": {}}}, 400, "Recipient of the message is not set"),
        ({"message": {"token": "a", "topic": "b"}}, 400, "Only one"),
        ({"message": {"token": 5}}, 400, "TYPE_STRING"),
        ({"message": {"token": "a", "colour": 1}}, 400, "Unknown name"),
        ({"message": {"token": "a", "notification": {"titel": "x"}}}, 400, "Unknown name"),
        ({"message": {"token": "a", "notification": {"title": 1}}}, 400, "Invalid value"),
        ({"message": {"token": "a", "data": {"n": 12}}}, 400, "'message.data[0].value' (TYPE_STRING), 12"),
        ({"message": {"token": "a", "data": {"from": "x"}}}, 400, "Invalid data payload key"),
        ({"message": {"token": "a", "data": {"x": "y" * 5000}}}, 400, "invalid argument"),
        ({"message": {"token": "a", "android": "x"}}, 400, "Invalid value"),
        ({"message": {"token": "a", "android": {"ttl": 300}}}, 400, "message.android.ttl"),
        ({"message": {"token": "a", "android": {"ttl": "-1s"}}}, 400, "message.android.ttl"),
        ({"message": {"token": "a", "android": {"ttl": "2419201s"}}}, 400, "Invalid TTL duration"),
        ({"message": {"token": "a", "android": {"priority": "urgent"}}}, 400, "message.android.priority"),
        ({"message": {"token": "a", "apns": {"headers": {"apns-expiration": "soon"}}}}, 400, "apns-expiration"),
        ({"message": {"token": "a", "apns": {"headers": {"apns-priority": "7"}}}}, 400, "apns-priority"),
        ({"message": {"token": "a", "webpush": {"headers": {"TTL": 300}}}}, 400, "message.webpush.headers"),
        ({"message": []}, 400, "Invalid value"),
        ({}, 400, "not set"),
        ([], 400, "object"),
    ],
)
async def test_fcm_names_the_field(caller: Caller, body: object, status: int, part: str) -> None:
    answer = await caller.fcm_send(body)
    error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["status"]) == (status, status, "INVALID_ARGUMENT")
    assert part in error["message"]


async def test_how_long_it_is_kept_is_shown(caller: Caller, sandbox: Handle) -> None:
    android = {"ttl": "300s", "priority": "HIGH"}
    apns = {"headers": {"apns-expiration": "1790000300", "apns-priority": "10"}}
    message = {"token": "a", "android": android, "apns": apns, "webpush": {"headers": {"TTL": "300"}}}
    assert (await caller.fcm_send({"message": message})).status == 200
    fields = {"To": "+34600000001", "From": "+15005550006", "Body": "Hello", "ValidityPeriod": "120"}
    assert (await caller.messages(fields)).status == 201
    shown = {one.channel: (one.ttl_s, one.urgency) for one in sandbox.sandbox.log.newest(2)}
    assert shown == {"push": (300, "high"), "sms": (120, "")}


async def test_fcm_wants_its_own_token_and_project(caller: Caller, http: Client) -> None:
    path = f"{caller.url}/v1/projects/{caller.credentials.fcm_project_id}/messages:send"
    body = {"message": {"token": "a"}}
    for token in ("x", "ya29.99999999999.00", "ya29.1.00"):
        answer = await http.post(path).bearer_auth(token).body_json(body).build().send()
        assert (answer.status, (await answer.json())["error"]["status"]) == (401, "UNAUTHENTICATED")
    other = http.post(f"{caller.url}/v1/projects/other/messages:send").bearer_auth(await caller.access_token())
    answer = await other.body_json(body).build().send()
    assert (answer.status, (await answer.json())["error"]["status"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"iss": "stranger@example.com"}, "invalid_grant"),
        ({"aud": "https://example.com/other"}, "invalid_grant"),
        ({"exp": 1000}, "invalid_grant"),
        ({"scope": "https://www.googleapis.com/auth/drive"}, "invalid_scope"),
    ],
)
async def test_the_token_endpoint_refuses(caller: Caller, changed: dict[str, object], error: str) -> None:
    answer = await caller.grant(**changed)
    assert (answer.status, (await answer.json())["error"]) == (400, error)


async def test_the_token_endpoint_refuses_another_grant(caller: Caller, http: Client) -> None:
    answer = await http.post(f"{caller.url}/token").form([("grant_type", "password")]).build().send()
    assert (answer.status, (await answer.json())["error"]) == (400, "unsupported_grant_type")


async def test_a_body_over_the_limit_is_refused(caller: Caller, http: Client) -> None:
    sid = caller.credentials.twilio_account_sid
    answer = (
        await http.post(f"{caller.url}/2010-04-01/Accounts/{sid}/Messages.json").body_bytes(b"x" * 2**21).build().send()
    )
    assert answer.status == 413


async def test_credentials_can_be_checked(caller: Caller, http: Client) -> None:
    sid, token = caller.credentials.twilio_account_sid, caller.credentials.twilio_auth_token
    account = await http.get(f"{caller.url}/2010-04-01/Accounts/{sid}.json").basic_auth(sid, token).build().send()
    assert (account.status, (await account.json())["status"]) == (200, "active")
    scopes = http.get(f"{caller.url}/v3/scopes")
    assert (await scopes.build().send()).status == 401
    scopes = http.get(f"{caller.url}/v3/scopes").bearer_auth(caller.credentials.sendgrid_api_key)
    assert "mail.send" in (await (await scopes.build().send()).json())["scopes"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.text(max_size=8) | st.just("ana@example.com"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
KEYS = ["personalizations", "from", "subject", "content", "message", "token", "notification", "data", "to", "email"]


def test_no_body_is_answered_with_a_failure(credentials: Credentials) -> None:
    sandbox = Sandbox(credentials, Options())
    sandbox._fcm._oauth._known = {b"Bearer x": 2.0**40}
    key = f"Bearer {credentials.sendgrid_api_key}".encode()
    basic = sandbox._twilio._authorization

    @settings(max_examples=300, deadline=None)
    @given(body=st.binary(max_size=60) | st.dictionaries(st.sampled_from(KEYS), JSON).map(msgspec.json.encode))
    def check(body: bytes) -> None:
        mail = Request("POST", "/v3/mail/send", "", [(b"authorization", key)], body)
        assert sandbox._sendgrid.send(mail)[0].status in (200, 202, 400)
        push = Request("POST", sandbox._fcm.send_path, "", [(b"authorization", b"Bearer x")], body)
        assert sandbox._fcm.send(push)[0].status in (200, 400)
        sms = Request("POST", sandbox._twilio.messages_path, "", [(b"authorization", basic)], body)
        assert sandbox._twilio.answer(sms)[0].status in (201, 400)

    check()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1000,
        b'{"a":' * 1000,
        b'{"message":{"token":"\\ud800"}}',
        b'{"message":{"token":"a","data":{"x":1e999}}}',
        b'{"from":{"email":"\\u0000@example.com"}}',
        b"To=%00&From=%ff&Body=%d8%00",
    ],
)
async def test_hostile_bodies_are_refused(caller: Caller, http: Client, body: bytes) -> None:
    sid, token = caller.credentials.twilio_account_sid, caller.credentials.twilio_auth_token
    mail = http.post(f"{caller.url}/v3/mail/send").bearer_auth(caller.credentials.sendgrid_api_key)
    assert (await mail.body_bytes(body).build().send()).status == 400
    path = f"{caller.url}/v1/projects/{caller.credentials.fcm_project_id}/messages:send"
    push = http.post(path).bearer_auth(await caller.access_token())
    assert (await push.body_bytes(body).build().send()).status == 400
    sms = http.post(f"{caller.url}/2010-04-01/Accounts/{sid}/Messages.json").basic_auth(sid, token)
    assert (await sms.body_bytes(body).build().send()).status == 400
