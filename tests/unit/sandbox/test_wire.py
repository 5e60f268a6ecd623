"""Faults on the wire, over real connections."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from urllib.parse import urlencode

import aiosmtplib
import pytest
from pyreqwest.client import Client
from pyreqwest.exceptions import JSONDecodeError, RequestTimeoutError
from pyreqwest.response import Response

from support import eventually
from support.sandbox import Caller
from tidings.sandbox.server import Handle

MAIL = {
    "personalizations": [{"to": [{"email": "ana@example.com"}]}],
    "from": {"email": "shop@example.com"},
    "subject": "Hello",
    "content": [{"type": "text/plain", "value": "Hello"}],
}
SMS = {"To": "+34600000001", "From": "+15005550006", "Body": "Hello"}
PUSH = {"message": {"token": "t", "notification": {"title": "a", "body": "b"}}}


def taken(sandbox: Handle, vendor: str) -> int:
    return sandbox.sandbox.log.counts[vendor, "taken"]


async def send(caller: Caller, vendor: str) -> Response:
    if vendor == "sendgrid":
        return await caller.mail_send(MAIL)
    if vendor == "twilio":
        return await caller.messages(SMS)
    return await caller.fcm_send(PUSH)


async def raw_sms(caller: Caller, sandbox: Handle) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request for a text message on a connection of its own, without reading the answer."""
    sid, token = caller.credentials.twilio_account_sid, caller.credentials.twilio_auth_token
    body = urlencode(SMS).encode()
    head = (
        f"POST /2010-04-01/Accounts/{sid}/Messages.json HTTP/1.1\r\nHost: sandbox\r\n"
        f"Authorization: Basic {base64.b64encode(f'{sid}:{token}'.encode()).decode()}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("vendor", ["sendgrid", "twilio", "fcm"])
async def test_a_status_with_retry_after(caller: Caller, sandbox: Handle, vendor: str) -> None:
    await caller.access_token()
    answer = await caller.fault(vendor=vendor, kind="status", status=429, retry_after=1.2, count=1)
    assert answer.status == 201
    refused, accepted = await send(caller, vendor), await send(caller, vendor)
    assert (refused.status, refused.headers["retry-after"]) == (429, "2")
    assert accepted.status < 300
    assert taken(sandbox, vendor) == 1
    assert sandbox.sandbox.log.counts[vendor, "refused"] == 1


@pytest.mark.parametrize(("asked", "count"), [({}, 0), ({"taken": True}, 1)])
async def test_a_reset(caller: Caller, sandbox: Handle, asked: dict[str, bool], count: int) -> None:
    await caller.fault(vendor="twilio", kind="reset", **asked)
    reader, writer = await raw_sms(caller, sandbox)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert taken(sandbox, "twilio") == count


async def test_a_hang_ends_in_a_cut(caller: Caller, sandbox: Handle) -> None:
    await caller.fault(vendor="twilio", kind="hang", seconds=0.2, taken=True)
    reader, writer = await raw_sms(caller, sandbox)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert taken(sandbox, "twilio") == 1


async def test_a_client_that_gives_up_on_a_hang(caller: Caller, sandbox: Handle, http: Client) -> None:
    await caller.fault(vendor="sendgrid", kind="hang")
    request = http.post(f"{sandbox.url}/v3/mail/send").bearer_auth(caller.credentials.sendgrid_api_key)
    with pytest.raises(RequestTimeoutError):
        await request.body_json(MAIL).timeout(timedelta(seconds=0.3)).build().send()
    assert taken(sandbox, "sendgrid") == 0


async def test_latency(caller: Caller, sandbox: Handle) -> None:
    await caller.fault(vendor="twilio", kind="latency", seconds=0.3)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await caller.messages(SMS)).status == 201
    assert loop.time() - began >= 0.29
    assert taken(sandbox, "twilio") == 1


async def test_a_slow_body_comes_whole(caller: Caller, sandbox: Handle) -> None:
    await caller.fault(vendor="twilio", kind="slow_body", seconds=0.5)
    reader, writer = await raw_sms(caller, sandbox)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    first = await reader.read(length)
    assert 0 < len(first) < length
    assert (first + await reader.readexactly(length - len(first))).startswith(b'{"account_sid"')
    writer.close()


@pytest.mark.parametrize(("vendor", "status"), [("sendgrid", 202), ("twilio", 201), ("fcm", 200)])
async def test_garbage(caller: Caller, sandbox: Handle, vendor: str, status: int) -> None:
    await caller.access_token()
    await caller.fault(vendor=vendor, kind="garbage")
    answer = await send(caller, vendor)
    assert answer.status == status
    assert "x-message-id" not in answer.headers
    with pytest.raises(JSONDecodeError):
        await answer.json()
    assert taken(sandbox, vendor) == 1


async def test_bounces_and_unregistered_tokens(caller: Caller, sandbox: Handle) -> None:
    await caller.fault(vendor="sendgrid", kind="bounce", recipient="ana@")
    await caller.fault(vendor="twilio", kind="bounce", code=30007)
    await caller.fault(vendor="fcm", kind="unregistered")
    assert await caller.email("ana@example.com", "Hello", "Hello", "") == 202
    assert await caller.email("bo@example.com", "Hello", "Hello", "") == 202
    assert await caller.sms("+34600000001", "Hello") == 201
    answer = await caller.fcm_send(PUSH)
    assert answer.status == 404
    assert (await answer.json())["error"]["details"][0]["errorCode"] == "UNREGISTERED"

    def states() -> dict[str, str]:
        return {arrival.to: f"{arrival.status} {arrival.error}" for arrival in sandbox.sandbox.log.newest(10)}

    await eventually(lambda: states()["+34600000001"] == "undelivered 30007")
    await eventually(lambda: states()["ana@example.com"].startswith("bounce 550"))
    await eventually(lambda: states()["bo@example.com"] == "delivered ")
    assert states()["t"] == "refused UNREGISTERED"


async def test_the_token_endpoint_can_fail(caller: Caller) -> None:
    await caller.fault(vendor="oauth", kind="status", status=503, count=1)
    assert (await caller.grant()).status == 503
    assert (await caller.grant()).status == 200


async def test_smtp_announces_what_it_can(sandbox: Handle) -> None:
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=sandbox.smtp_port) as connection:
        await connection.ehlo()
        assert {"pipelining", "8bitmime", "smtputf8", "size"} <= set(connection.esmtp_extensions)


async def test_smtp_faults(caller: Caller, sandbox: Handle) -> None:
    async def mail() -> None:
        await aiosmtplib.send(
            "Subject: Hello\r\n\r\nHello\r\n",
            sender="shop@example.com",
            recipients=["ana@example.com"],
            hostname="127.0.0.1",
            port=sandbox.smtp_port,
        )

    await caller.fault(vendor="smtp", kind="status", status=421, count=1)
    with pytest.raises(aiosmtplib.SMTPDataError) as refused:
        await mail()
    assert refused.value.code == 421
    await caller.fault(vendor="smtp", kind="reset", count=1, taken=True)
    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await mail()
    assert taken(sandbox, "smtp") == 1
    await caller.fault(vendor="smtp", kind="garbage", count=1)
    with pytest.raises(aiosmtplib.SMTPException):
        await mail()
    await caller.fault(vendor="smtp", kind="bounce", count=1)
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused):
        await mail()
    await mail()
    assert taken(sandbox, "smtp") == 3


async def test_smtp_addresses_that_are_not_utf8(sandbox: Handle) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.smtp_port)

    async def say(line: bytes) -> bytes:
        writer.write(line + b"\r\n")
        answer = await reader.readuntil(b"\r\n")
        while answer[3:4] == b"-":
            answer = await reader.readuntil(b"\r\n")
        return answer[:3]

    await reader.readuntil(b"\r\n")
    assert await say(b"EHLO me") == b"250"
    assert await say(b"MAIL FROM:<shop@example.com> SMTPUTF8") == b"250"
    assert await say(b"RCPT TO:<\xff@example.com>") in (b"553", b"500")
    assert await say("RCPT TO:<æ@example.com>".encode()) == b"250"
    assert await say(b"QUIT") == b"221"
    writer.close()
