"""A running sandbox, and a server that gets its receipts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import uvicorn
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.response import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tidings.sandbox.credentials import Credentials, load_or_create, service_account
from tidings.sandbox.server import Handle, serve
from tidings.sandbox.wire import Receive, Scope, Send


class Posted:
    """A POST request that the listener got."""

    def __init__(self, url: str, headers: dict[str, str], body: bytes) -> None:
        self.url = url
        self.headers = headers
        self.body = body


class Listener:
    """An HTTP server that keeps POST requests. It answers with the statuses in `answers`, then with 204."""

    def __init__(self) -> None:
        self.posted: list[Posted] = []
        self.answers: list[int] = []
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.posted.append(Posted(f"{self.url}{scope['path']}{query}", headers, body))
        status = self.answers.pop(0) if self.answers else 204
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """A running Listener."""
    listener = Listener()
    config = uvicorn.Config(listener, lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpToolsProtocol(config, state, {}, loop), "127.0.0.1", 0)
    listener.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield listener
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


class Caller:
    """A client of all vendors of a sandbox, with valid credentials. The methods return the status."""

    def __init__(self, sandbox: Handle, credentials: Credentials, http: Client) -> None:
        self.url = sandbox.url
        self.credentials = credentials
        self._http = http
        self._token = ""

    async def email(
        self, to: str, subject: str, text: str, html: str, name: str = "", marks: dict[str, str] | None = None
    ) -> int:
        parts = (("text/plain", text), ("text/html", html))
        person = {"to": [{"email": to, "name": name}], "custom_args": marks or {}}
        body = {
            "personalizations": [person],
            "from": {"email": "shop@example.com", "name": "Corner Shop"},
            "subject": subject,
            "content": [{"type": kind, "value": value} for kind, value in parts if value],
        }
        return (await self.mail_send(body)).status

    async def mail_send(self, body: object) -> Response:
        request = self._http.post(f"{self.url}/v3/mail/send").bearer_auth(self.credentials.sendgrid_api_key)
        return await request.body_json(body).build().send()

    async def sms(self, to: str, text: str, status_url: str = "", sender: str = "") -> int:
        fields = {"To": to, "From": sender or self.credentials.twilio_from_number, "Body": text}
        return (await self.messages(fields | ({"StatusCallback": status_url} if status_url else {}))).status

    async def messages(self, fields: dict[str, str]) -> Response:
        sid = self.credentials.twilio_account_sid
        request = self._http.post(f"{self.url}/2010-04-01/Accounts/{sid}/Messages.json")
        request = request.basic_auth(sid, self.credentials.twilio_auth_token)
        return await request.form(list(fields.items())).build().send()

    async def push(self, token: str, title: str, body: str, link: str = "") -> int:
        content: dict[str, object] = {"token": token, "notification": {"title": title, "body": body}}
        if link:
            content["data"] = {"link": link}
        return (await self.fcm_send({"message": content})).status

    async def fcm_send(self, body: object) -> Response:
        path = f"/v1/projects/{self.credentials.fcm_project_id}/messages:send"
        request = self._http.post(f"{self.url}{path}").bearer_auth(await self.access_token())
        return await request.body_json(body).build().send()

    async def access_token(self) -> str:
        if not self._token:
            granted = await (await self.grant()).json()
            self._token = granted["access_token"]
        return self._token

    async def grant(self, **changed: object) -> Response:
        account = service_account(self.credentials, self.url)
        now = int(time.time())
        scope = "https://www.googleapis.com/auth/firebase.messaging"
        claims = {"iss": account["client_email"], "aud": account["token_uri"], "scope": scope, "iat": now}
        assertion = jwt.encode(claims | {"exp": now + 3600} | changed, account["private_key"], algorithm="RS256")
        fields = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)]
        return await self._http.post(account["token_uri"]).form(fields).build().send()

    async def inapp(self, id: str, user_id: str, title: str, body: str, link: str | None = None) -> int:
        item = {"id": id, "user_id": user_id, "title": title, "body": body, "link": link}
        return (await self._http.post(f"{self.url}/_sandbox/inapp").body_json([item]).build().send()).status

    async def fault(self, **fault: object) -> Response:
        return await self._http.post(f"{self.url}/_sandbox/faults").body_json(fault).build().send()

    async def get(self, path: str) -> Any:
        return await (await self._http.get(f"{self.url}{path}").build().send()).json()


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return load_or_create(tmp_path_factory.mktemp("credentials"))


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with listening() as one:
        yield one


@pytest.fixture
async def sandbox(credentials: Credentials, listener: Listener, tmp_path: Path) -> AsyncIterator[Handle]:
    handle = await serve("127.0.0.1", 0, 0, credentials, f"{listener.url}/v1/receipts", tmp_path / "arrivals.jsonl")
    try:
        yield handle
    finally:
        await handle.stop()


@pytest.fixture
async def http() -> AsyncIterator[Client]:
    client = ClientBuilder().no_proxy().build()
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def caller(sandbox: Handle, credentials: Credentials, http: Client) -> Caller:
    return Caller(sandbox, credentials, http)
