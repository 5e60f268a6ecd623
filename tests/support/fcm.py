"""A stand-in for Firebase Cloud Messaging, and for the server that gives it access tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from support.http_stand_in import HttpStandIn, Reply, Request
from support.vendors import HttpVendor, envelope
from tidings.model.notification import PushContent
from tidings.model.sending import PushDelivery


class FcmVendor(HttpVendor):
    name = "fcm"
    success = 200
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()

    def __init__(self) -> None:
        super().__init__()
        self.accounts = HttpStandIn(lambda _: Reply(200, b'{"access_token": "ya29.token", "expires_in": 3599}'))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.server.running(), self.accounts.running():
            yield

    def usual(self, request: Request) -> Reply:
        if request.headers.get("authorization") != "Bearer ya29.token":
            return Reply(401, b'{"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "No."}}')
        number = len(self.server.requests)
        return Reply(200, msgspec.json.encode({"name": f"projects/shop-1/messages/{number}"}))

    def account(self) -> dict[str, str]:
        return {
            "type": "service_account",
            "project_id": "shop-1",
            "private_key_id": "abc123",
            "private_key": self.pem,
            "client_email": "tidings@shop-1.iam.gserviceaccount.com",
            "client_id": "1234567890",
            "token_uri": f"http://127.0.0.1:{self.accounts.port}/token",
        }

    def settings(self, **more: Any) -> dict[str, Any]:
        return {"service_account": self.account(), "base_url": self.url, **more}

    def delivery(self, number: int, to: str | None = None, text: str = "Hello", **more: Any) -> PushDelivery:
        return PushDelivery(
            **envelope(number, more),
            to=to or f"device-{number}",
            content=PushContent(title=more.pop("subject", "Your order"), body=text, link=more.pop("link", None)),
            **more,
        )

    def arrived(self) -> list[tuple[str, str]]:
        messages = [msgspec.json.decode(request.body)["message"] for request in self.sent()]
        return [(message["token"], message["notification"]["body"]) for message in messages]

    def refuse_everything_with(self, code: int | str) -> None:
        name, _, case = str(code).partition(" ")
        self.server.always = Reply(*refusal(name, ["message.token"] if case == "token" else ()))

    def take_no_credentials(self) -> None:
        self.accounts.always = Reply(400, b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}')


def refusal(code: str, violations: Sequence[str] = (), text: str = "No.") -> tuple[int, bytes]:
    """An error in FCM's format."""
    status, canonical = {
        "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT"),
        "UNREGISTERED": (404, "NOT_FOUND"),
        "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED"),
        "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED"),
        "UNAVAILABLE": (503, "UNAVAILABLE"),
        "INTERNAL": (500, "INTERNAL"),
        "THIRD_PARTY_AUTH_ERROR": (401, "UNAUTHENTICATED"),
        "UNAUTHENTICATED": (401, ""),
        "RESOURCE_EXHAUSTED": (429, ""),
        "PERMISSION_DENIED": (403, ""),
        "NOT_FOUND": (404, ""),
    }[code]
    details: list[dict[str, Any]] = []
    if canonical:
        details.append({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
    if violations:
        fields = [{"field": name, "description": "No."} for name in violations]
        details.insert(0, {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": fields})
    error = {"code": status, "message": text, "status": canonical or code, "details": details}
    return status, msgspec.json.encode({"error": error})
