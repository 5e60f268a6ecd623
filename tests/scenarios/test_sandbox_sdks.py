"""The vendors' own SDKs, unmodified, work against the sandbox."""

from __future__ import annotations

import asyncio
import json
import smtplib
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import firebase_admin
import pytest
import sendgrid
from firebase_admin import messaging
from firebase_admin.exceptions import InvalidArgumentError, UnavailableError
from python_http_client.exceptions import BadRequestsError, TooManyRequestsError, UnauthorizedError  # type: ignore[import-untyped]
from sendgrid.helpers.eventwebhook import EventWebhook
from sendgrid.helpers.mail import Content, CustomArg, From, Mail, Personalization, Substitution, To
from twilio.base.exceptions import TwilioRestException
from twilio.request_validator import RequestValidator
from twilio.rest import Client as TwilioClient

from support import eventually, unique
from support.sandbox import Listener
from tidings.sandbox.credentials import Credentials, service_account
from tidings.sandbox.server import Handle

pytestmark = [
    # A dependency of firebase-admin warns about old versions of Python.
    pytest.mark.filterwarnings("ignore::FutureWarning:google.*"),
    # The SDK prefers `fid` to `token`; the HTTP API takes both, and so does the sandbox.
    pytest.mark.filterwarnings("ignore:Message.token is deprecated:DeprecationWarning"),
]


def twilio_client(credentials: Credentials, sandbox: Handle, token: str | None = None) -> Any:
    client = TwilioClient(credentials.twilio_account_sid, token or credentials.twilio_auth_token)
    client.api.base_url = sandbox.url
    return client


def mail_to(address: str, **arguments: str) -> Mail:
    mail = Mail(
        From("shop@example.com", "A shop"),
        To(address, "Ana"),
        "Your order",
        "It is on its way.",
        "<h1>It is on its way.</h1>",
    )
    for name, value in arguments.items():
        mail.custom_arg = CustomArg(name, value)
    return mail


@pytest.fixture
def fcm(credentials: Credentials, sandbox: Handle) -> Iterator[firebase_admin.App]:
    account = firebase_admin.credentials.Certificate(service_account(credentials, sandbox.url))
    app = firebase_admin.initialize_app(account, name=unique("app"))
    service = messaging._get_messaging_service(app)
    service._fcm_url = f"{sandbox.url}/v1/projects/{credentials.fcm_project_id}/messages:send"
    # By default the SDK retries four times before it raises.
    service._client.session.adapters["http://"].max_retries = 0
    yield app
    service._client.close()
    firebase_admin.delete_app(app)


async def test_twilio_sends_and_reads_back(credentials: Credentials, sandbox: Handle, listener: Listener) -> None:
    client = twilio_client(credentials, sandbox)
    url = f"{listener.url}/v1/receipts/twilio?delivery=dlv_1&attempt=1"
    text = "Su pedido está en camino 🚚"
    sent = await asyncio.to_thread(
        client.messages.create,
        to="+34600000001",
        from_=credentials.twilio_from_number,
        body=text,
        status_callback=url,
    )
    assert sent.sid.startswith("SM")
    assert len(sent.sid) == 34
    assert (sent.status, sent.price, sent.num_segments) == ("queued", None, "1")
    assert sent.date_created is not None

    await eventually(lambda: len(listener.posted) == 2)
    validator = RequestValidator(credentials.twilio_auth_token)
    forms = [{name: values[0] for name, values in parse_qs(post.body.decode()).items()} for post in listener.posted]
    for post, form in zip(listener.posted, forms, strict=True):
        assert post.url == url
        assert validator.validate(post.url, form, post.headers["x-twilio-signature"])
    assert [form["MessageStatus"] for form in forms] == ["sent", "delivered"]
    assert forms[0]["MessageSid"] == sent.sid

    read = await asyncio.to_thread(client.messages(sent.sid).fetch)
    assert (read.status, read.body, read.error_code) == ("delivered", text, None)
    assert [message.sid for message in await asyncio.to_thread(client.messages.list, limit=5)] == [sent.sid]


async def test_twilio_reports_an_undelivered_message(
    credentials: Credentials, sandbox: Handle, listener: Listener
) -> None:
    client = twilio_client(credentials, sandbox)
    sender = credentials.twilio_from_number
    url = f"{listener.url}/status"
    sent = await asyncio.to_thread(
        client.messages.create, to="+15005553003", from_=sender, body="hello", status_callback=url
    )
    await eventually(lambda: len(listener.posted) == 2)
    assert parse_qs(listener.posted[1].body.decode())["ErrorCode"] == ["30003"]
    read = await asyncio.to_thread(client.messages(sent.sid).fetch)
    assert (read.status, read.error_code) == ("undelivered", 30003)


@pytest.mark.parametrize(
    ("to", "code", "status"),
    [
        ("+15005550001", 21211, 400),
        ("+15005550002", 21612, 400),
        ("+15005550003", 21408, 400),
        ("+15005550004", 21610, 400),
        ("+15005550009", 21614, 400),
        ("+15005550429", 20429, 429),
        ("+15005550500", 20500, 500),
        ("not a number", 21211, 400),
    ],
)
async def test_twilio_refuses(credentials: Credentials, sandbox: Handle, to: str, code: int, status: int) -> None:
    client = twilio_client(credentials, sandbox)
    with pytest.raises(TwilioRestException) as refused:
        await asyncio.to_thread(client.messages.create, to=to, from_=credentials.twilio_from_number, body="hello")
    assert (refused.value.code, refused.value.status) == (code, status)


async def test_twilio_refuses_a_wrong_token_and_an_unknown_sid(credentials: Credentials, sandbox: Handle) -> None:
    stranger = twilio_client(credentials, sandbox, token="0" * 32)
    with pytest.raises(TwilioRestException) as refused:
        await asyncio.to_thread(stranger.messages.create, to="+34600000001", from_="+15005550006", body="hello")
    assert (refused.value.code, refused.value.status) == (20003, 401)
    with pytest.raises(TwilioRestException) as unknown:
        await asyncio.to_thread(twilio_client(credentials, sandbox).messages(f"SM{'0' * 32}").fetch)
    assert (unknown.value.code, unknown.value.status) == (20404, 404)


async def test_sendgrid_sends_and_signs_its_events(
    credentials: Credentials, sandbox: Handle, listener: Listener
) -> None:
    client = sendgrid.SendGridAPIClient(credentials.sendgrid_api_key, host=sandbox.url)
    answer = await asyncio.to_thread(client.send, mail_to("ana@example.com", tidings_delivery="dlv_1"))
    assert answer.status_code == 202
    reference = answer.headers["X-Message-Id"]

    webhook = EventWebhook(credentials.event_public_key)
    events: list[dict[str, Any]] = []
    await eventually(lambda: sum(len(json.loads(post.body)) for post in listener.posted) == 2)
    for post in listener.posted:
        assert post.url == f"{listener.url}/v1/receipts/sendgrid"
        signature = post.headers["x-twilio-email-event-webhook-signature"]
        stamp = post.headers["x-twilio-email-event-webhook-timestamp"]
        assert webhook.verify_signature(post.body.decode(), signature, stamp)
        assert not webhook.verify_signature(post.body.decode() + " ", signature, stamp)
        events += json.loads(post.body)
    assert [event["event"] for event in events] == ["processed", "delivered"]
    assert all(event["tidings_delivery"] == "dlv_1" for event in events)
    assert all(event["sg_message_id"].startswith(f"{reference}.") for event in events)
    assert len({event["sg_event_id"] for event in events}) == 2


async def test_sendgrid_takes_many_personalizations_at_once(credentials: Credentials, sandbox: Handle) -> None:
    client = sendgrid.SendGridAPIClient(credentials.sendgrid_api_key, host=sandbox.url)
    mail = Mail(From("shop@example.com"), subject="Hello -name-")
    mail.content = Content("text/plain", "Dear -name-")
    for number in range(300):
        personalization = Personalization()
        personalization.add_to(To(f"person{number}@example.com"))
        personalization.add_substitution(Substitution("-name-", f"Person {number}"))
        mail.add_personalization(personalization)
    answer = await asyncio.to_thread(client.send, mail)
    assert answer.status_code == 202
    assert sandbox.sandbox.log.counts["sendgrid", "taken"] == 300


async def test_sendgrid_refuses_with_its_own_errors(credentials: Credentials, sandbox: Handle) -> None:
    client = sendgrid.SendGridAPIClient(credentials.sendgrid_api_key, host=sandbox.url)
    with pytest.raises(BadRequestsError) as refused:
        await asyncio.to_thread(client.send, mail_to("no-address"))
    (error,) = refused.value.to_dict["errors"]
    assert error["field"] == "personalizations.0.to.0.email"
    assert error["help"].startswith("http://sendgrid.com/docs/")
    with pytest.raises(TooManyRequestsError) as throttled:
        await asyncio.to_thread(client.send, mail_to("throttled+1@example.com"))
    assert int(throttled.value.headers["X-RateLimit-Reset"]) > time.time() - 5
    assert throttled.value.headers["X-RateLimit-Remaining"] == "0"
    stranger = sendgrid.SendGridAPIClient("SG.wrong", host=sandbox.url)
    with pytest.raises(UnauthorizedError):
        await asyncio.to_thread(stranger.send, mail_to("ana@example.com"))


async def test_firebase_sends(sandbox: Handle, credentials: Credentials, fcm: firebase_admin.App) -> None:
    note = messaging.Message(
        token="token-1",
        notification=messaging.Notification("注文を発送しました", "明日届きます"),
        data={"tidings_delivery": "dlv_9", "link": "https://example.com/orders/9"},
    )
    name = await asyncio.to_thread(messaging.send, note, app=fcm)
    assert name.startswith(f"projects/{credentials.fcm_project_id}/messages/")
    (arrival,) = sandbox.sandbox.log.newest(1)
    assert (arrival.channel, arrival.to, arrival.delivery) == ("push", "token-1", "dlv_9")
    by_installation = messaging.Message(fid="installation-1", notification=messaging.Notification("Hello", "there"))
    await asyncio.to_thread(messaging.send, by_installation, app=fcm)
    assert sandbox.sandbox.log.newest(1)[0].to == "installation-1"
    tried = await asyncio.to_thread(messaging.send, note, dry_run=True, app=fcm)
    assert tried.endswith("fake_message_id")
    assert sandbox.sandbox.log.counts["fcm", "taken"] == 2


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        ("unregistered-1", messaging.UnregisteredError),
        ("quota-1", messaging.QuotaExceededError),
        ("mismatch-1", messaging.SenderIdMismatchError),
        ("thirdparty-1", messaging.ThirdPartyAuthError),
        ("invalid-1", InvalidArgumentError),
    ],
)
async def test_firebase_is_refused(fcm: firebase_admin.App, token: str, kind: type[Exception]) -> None:
    note = messaging.Message(token=token, notification=messaging.Notification("Hello", "there"))
    with pytest.raises(kind):
        await asyncio.to_thread(messaging.send, note, app=fcm)


async def test_firebase_sees_an_outage(fcm: firebase_admin.App) -> None:
    note = messaging.Message(token="unavailable-1", notification=messaging.Notification("Hello", "there"))
    with pytest.raises(UnavailableError):
        await asyncio.to_thread(messaging.send, note, app=fcm)


def _mail(to: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Shop <shop@example.com>", f"أحمد <{to}>", "تم شحن طلبك"
    mail["Message-ID"] = "<key-1@example.com>"
    mail["X-Tidings-Delivery"] = "dlv_5"
    mail.set_content("طلبك في الطريق.")
    mail.add_alternative("<p dir=rtl>طلبك في الطريق.</p>", subtype="html")
    return mail


async def test_smtplib_sends(sandbox: Handle, credentials: Credentials, tmp_path: Path) -> None:
    def send() -> None:
        with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=10) as client:
            client.login(credentials.smtp_username, credentials.smtp_password)
            client.send_message(_mail("ahmed@example.com"))

    await asyncio.to_thread(send)
    (arrival,) = sandbox.sandbox.log.newest(1)
    assert (arrival.to, arrival.delivery, arrival.key) == ("ahmed@example.com", "dlv_5", "<key-1@example.com>")
    line = json.loads((tmp_path / "arrivals.jsonl").read_text().splitlines()[-1])
    assert (line["vendor"], line["to"], line["delivery"]) == ("smtp", "ahmed@example.com", "dlv_5")


@pytest.mark.parametrize(("to", "code"), [("bounce@example.com", 550), ("defer+3@example.com", 451)])
async def test_smtplib_is_refused(sandbox: Handle, to: str, code: int) -> None:
    def send() -> None:
        with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=10) as client:
            client.send_message(_mail(to))

    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        await asyncio.to_thread(send)
    assert refused.value.recipients[to][0] == code


async def test_smtplib_with_a_wrong_password(sandbox: Handle) -> None:
    def log_in() -> None:
        with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, timeout=10) as client:
            client.login("tidings", "wrong")

    with pytest.raises(smtplib.SMTPAuthenticationError):
        await asyncio.to_thread(log_in)
