"""Stand-ins for the vendors: scripted local servers that speak the vendors' wire formats and can misbehave.

`Vendor` is what tests/conformance/test_providers*.py need of each provider: how to make it, what to give it, how its
vendor says yes, no and nothing. A provider without one here fails the suite.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from urllib.parse import parse_qs
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support.http_stand_in import HttpStandIn, Misbehave, Reply, Request
from tidings.channels.tools import Tools
from tidings.model.errors import Unavailable
from tidings.model.history import InboxItem
from tidings.model.ids import delivery_id, new_id
from tidings.model.notification import EmailContent, InappContent, SmsContent
from tidings.model.sending import AnyDelivery, EmailDelivery, InappDelivery, SmsDelivery

NOW = 1_790_000_000_000
RECEIPTS = "https://notify.example.com/v1/receipts"


class StillClock:
    """A clock that always shows the same instant."""

    def now(self) -> int:
        return NOW

    def elapsed(self) -> int:
        return NOW

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class MemoryInbox:
    """Keeps items. `broken` makes it fail as a store fails."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, UUID], InboxItem] = {}
        self.broken = False

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        if self.broken:
            raise Unavailable("the database does not answer", retry_after_s=2.0)
        for item in items:
            self.items.setdefault((tenant, item.id), item)

    async def list(
        self, tenant: str, user_id: str, before: UUID | None, limit: int, *, archived: bool, unread_only: bool
    ) -> Sequence[InboxItem]:
        return [item for (owner, _), item in self.items.items() if (owner, item.user_id) == (tenant, user_id)]

    async def unread(self, tenant: str, user_id: str) -> int:
        return len(self.items)

    async def remove(self, tenant: str, user_id: str, before: int) -> int:
        return 0

    async def mark(self, tenant: str, user_id: str, ids: Sequence[UUID] | None, field: str, at: int | None) -> int:
        return 0


def tools_for(inbox: MemoryInbox | None = None) -> Tools:
    return Tools(receipts_url=RECEIPTS, clock=StillClock(), inbox=inbox)


def id_of(number: int) -> UUID:
    return delivery_id(new_id(NOW, 7, number), 1)


def envelope(number: int, more: dict[str, Any]) -> dict[str, Any]:
    """What deliveries on all channels have in common. Takes the tenant from `more`."""
    return {"id": id_of(number), "tenant": more.pop("tenant", "shop"), "idempotency_key": f"dlv-{number}.1"}


class Vendor(ABC):
    """One provider's stand-in. `ways` are the transport faults that it can show."""

    name: ClassVar[str]
    ways: ClassVar[frozenset[str]] = frozenset()
    receipts: ClassVar[bool] = False

    def __init__(self) -> None:
        self.inbox = MemoryInbox()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    def settings(self, **more: Any) -> dict[str, Any]:
        """The provider's section. `timeout` may be among `more`."""
        return dict(more)

    @abstractmethod
    def delivery(self, number: int, to: str | None = None, text: str = "Hello", **more: Any) -> AnyDelivery: ...

    @abstractmethod
    def arrived(self) -> list[tuple[str, str]]:
        """The recipients with their texts, in order of arrival."""

    @classmethod
    def settings_for(cls, code: int | str) -> dict[str, Any]:  # noqa: ARG003 - for those who need it
        """The settings with which this error of the provider's table can occur."""
        return {}

    def refuse_everything_with(self, code: int | str) -> None:
        """From now on answer with this error of the provider's table."""
        raise AssertionError(f"{self.name} has no error {code}")

    def misbehave(self, way: str) -> None:
        """From now on fail in this way."""
        raise AssertionError(f"{self.name} cannot {way}")

    def throttle(self, headers: Mapping[str, str]) -> None:
        raise AssertionError(f"{self.name} cannot throttle")

    def fail_with(self, status: int) -> None:
        raise AssertionError(f"{self.name} has no statuses")

    def take_no_credentials(self) -> None:
        raise AssertionError(f"{self.name} has no credentials")


HTTP_WAYS = frozenset({"hang", "cut", "not_http", "cut_body", "slow_body", "endless_body", "garbage_body"})


class HttpVendor(Vendor):
    """The common part of the stand-ins for HTTP vendors."""

    ways = HTTP_WAYS
    success: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.server = HttpStandIn(self.usual)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.server.running():
            yield

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @abstractmethod
    def usual(self, request: Request) -> Reply: ...

    def misbehave(self, way: str) -> None:
        if way == "garbage_body":
            self.server.always = Reply(200, b"<html>Welcome to the hotel's wireless network</html>")
        else:
            self.server.always = Misbehave(way, self.success)

    def throttle(self, headers: Mapping[str, str]) -> None:
        self.server.always = Reply(429, b"{}", headers)

    def fail_with(self, status: int) -> None:
        self.server.always = Reply(status, b"<html>went wrong</html>")

    def take_no_credentials(self) -> None:
        self.server.always = Reply(401, b"{}")

    def sent(self) -> list[Request]:
        return [request for request in self.server.requests if request.method == "POST"]


class TwilioVendor(HttpVendor):
    name = "twilio"
    receipts = True
    success = 201
    token = "0123456789abcdef0123456789abcdef"
    sid = "AC" + "0" * 32

    def usual(self, request: Request) -> Reply:
        login = "Basic " + b64encode(f"{self.sid}:{self.token}".encode()).decode()
        if request.headers.get("authorization") != login:
            return Reply(401, b'{"code": 20003, "message": "Authenticate", "status": 401}')
        if request.method == "GET":
            return Reply(200, msgspec.json.encode({"sid": self.sid, "status": "active"}))
        number = parse_qs(request.body.decode())["To"][0]
        return Reply(201, msgspec.json.encode({"sid": f"SM{number[1:]:0>32}", "status": "queued", "error_code": None}))

    def settings(self, **more: Any) -> dict[str, Any]:
        return {
            "account_sid": self.sid,
            "auth_token": self.token,
            "from_number": "+15005550006",
            "base_url": self.url,
            **more,
        }

    def delivery(self, number: int, to: str | None = None, text: str = "Hello", **more: Any) -> SmsDelivery:
        return SmsDelivery(
            **envelope(number, more),
            to=to or f"+1415555{number:04}",
            content=SmsContent(text),
            **more,
        )

    def arrived(self) -> list[tuple[str, str]]:
        forms = [
            parse_qs(request.body.decode(), keep_blank_values=True, strict_parsing=True) for request in self.sent()
        ]
        assert all(set(form) <= {"To", "From", "Body", "StatusCallback"} for form in forms)
        assert all(len(values) == 1 for form in forms for values in form.values())
        return [(form["To"][0], form["Body"][0]) for form in forms]

    @classmethod
    def settings_for(cls, code: int | str) -> dict[str, Any]:
        return {"from_number": "12345"} if str(code).endswith(" short code") else {}

    def refuse_everything_with(self, code: int | str) -> None:
        code = int(str(code).partition(" ")[0])
        status = {20003: 401, 20429: 429}.get(code, 400)
        body = {"code": code, "message": "No.", "more_info": "https://www.twilio.com/docs/errors", "status": status}
        self.server.always = Reply(status, msgspec.json.encode(body))


class SendgridVendor(HttpVendor):
    name = "sendgrid"
    receipts = True
    success = 202
    api_key = "SG.abcdefghijkl.mnopqrstuvwxyz"
    event_key = ec.generate_private_key(ec.SECP256R1())
    event_public_key = b64encode(
        event_key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).decode()

    def usual(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {self.api_key}":
            return Reply(
                401, b'{"errors": [{"message": "The provided authorization grant is invalid", "field": null}]}'
            )
        if request.method == "GET":
            return Reply(200, b'{"scopes": ["mail.send", "alerts.read"]}')
        return Reply(202, b"", {"X-Message-Id": f"message-{len(self.server.requests)}"})

    def settings(self, **more: Any) -> dict[str, Any]:
        return {
            "api_key": self.api_key,
            "from_address": "hello@shop.example",
            "from_name": "The Shop",
            "webhook_public_key": self.event_public_key,
            "base_url": self.url,
            **more,
        }

    def delivery(self, number: int, to: str | None = None, text: str = "Hello", **more: Any) -> EmailDelivery:
        return email_delivery(number, to, text, more)

    def mails(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(request.body) for request in self.sent()]

    def arrived(self) -> list[tuple[str, str]]:
        return [
            (recipient["to"][0]["email"], mail["content"][0]["value"])
            for mail in self.mails()
            for recipient in mail["personalizations"]
        ]

    def refuse_everything_with(self, code: int | str) -> None:
        status, _, case = str(code).partition(" ")
        field = "personalizations.0.to.0.email" if case == "recipient" else "subject"
        problem = {"message": "No.", "field": field, "help": "http://sendgrid.com/docs"}
        self.server.always = Reply(int(status), msgspec.json.encode({"errors": [problem]}))


def email_delivery(number: int, to: str | None, text: str, more: dict[str, Any]) -> EmailDelivery:
    content = EmailContent(subject=more.pop("subject", "Your order"), text=text, html=more.pop("html", "<p>Hello</p>"))
    return EmailDelivery(
        **envelope(number, more),
        to=to or f"ada{number}@example.com",
        content=content,
        **more,
    )


class InboxVendor(Vendor):
    name = "inbox"

    def delivery(self, number: int, to: str | None = None, text: str = "Hello", **more: Any) -> InappDelivery:
        return InappDelivery(
            **envelope(number, more),
            to=to or f"user-{number}",
            content=InappContent(title=more.pop("subject", "Your order"), body=text, link=more.pop("link", None)),
            **more,
        )

    def arrived(self) -> list[tuple[str, str]]:
        return [(item.user_id, item.body) for item in self.inbox.items.values()]
