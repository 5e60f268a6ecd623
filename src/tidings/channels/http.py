"""Calls a vendor over HTTP, on connections that are reused, and turns each way in which a call ends into a result.

What counts is whether the vendor can have taken the request.

- No (`Retry`): there never was a connection, the request could not be written whole (RFC 9112 section 8: an incomplete
  one is not acted on), or the vendor refused its HTTP/2 stream (RFC 9113 section 8.7).
- Perhaps (`Uncertain`): the request went out, and no answer came. Some gateways say so with a status: 504, and
  Cloudflare with 520 and 524
  (https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/).
- A 502 counts as no: gateways answer so when the server behind them is not there; Cloudflare also with 521 to 523, 525,
  526 and 530. Nothing was offered, as without a connection or after a refused login.
- Every other answer is the vendor's own.

A 429 without a header that says how long says nothing about the account: the vendor may mean the recipient.

Facts: RFC 9110 sections 10.2.3 (Retry-After), 15.5.9 (408: the request did not arrive whole) and 15.6.5 (504).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TypeAlias

from msgspec import Struct
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.http import HeaderMap
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from tidings.channels.errors import ACCOUNT_WAIT_S
from tidings.channels.settings import HttpProviderConfig, is_loopback
from tidings.channels.trust import certificates
from tidings.model.sending import About, Rejected, Retry, SendResult, Uncertain
from tidings.ports.clock import Clock

USER_AGENT = f"tidings/{version('tidings')}"

MOST_READ_BYTES = 64 * 1024
"""The longest answer that is read; the vendors' own have a few kilobytes at most."""
_LONGEST_DETAIL = 300
_WHOLE_NUMBERS = re.compile(r"[0-9]+(\s*,\s*[0-9]+)*")

# reqwest's message for a failure before there was a connection. pyreqwest's exception classes do not tell: it raises
# ConnectError and ConnectTimeoutError also when only the answer is missing.
_NEVER_CONNECTED = "client error (Connect)"
_NOT_WRITTEN = "error writing a body to connection"
_REFUSED_STREAM = "refused stream before processing any application logic"

_GATEWAY_UNSURE = frozenset({504, 520, 524})
"""Statuses of gateways that do not know whether the server behind them took the request."""
_NOBODY_BEHIND = frozenset({502, 521, 522, 523, 525, 526, 530})
"""Statuses of gateways that reached no server to hand the request to."""


class Answer(Struct, frozen=True):
    """A vendor's answer. `body` is empty if it is longer than `MOST_READ_BYTES` or broke off."""

    status: int
    headers: HeaderMap
    body: bytes

    def header(self, name: str) -> str:
        """The header's first value; empty when it is absent or not ASCII."""
        return _header(self.headers, name)

    def values(self, name: str) -> list[str]:
        """The header's values; none when it is absent or not ASCII."""
        try:
            return self.headers.getall(name)
        except (KeyError, ValueError):
            return []


Reply: TypeAlias = Answer | Retry | Uncertain


class HttpClient:
    """A client for one vendor's API. It can be made without a running loop; `close` frees the connections."""

    def __init__(
        self,
        url: str,
        config: HttpProviderConfig,
        headers: Mapping[str, str],
        *,
        http2: bool = False,
        prior_knowledge: bool = False,
    ) -> None:
        """A client that calls paths below `url`, with `headers` on every request.

        `http2` offers HTTP/2 in the TLS handshake; `prior_knowledge` speaks it from the first byte, also without TLS.
        """
        builder = (
            ClientBuilder()
            .user_agent(USER_AGENT)
            .default_headers(dict(headers))
            .connect_timeout(timedelta(seconds=config.connect_timeout))
            .timeout(timedelta(seconds=config.timeout))
            .pool_max_idle_per_host(config.concurrency)
            .follow_redirects(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
        )
        for certificate in () if config.ca_file is None else certificates(config.ca_file):
            builder = builder.add_root_certificate_der(certificate)
        if is_loopback(url):
            builder = builder.no_proxy()
        if prior_knowledge:
            builder = builder.http2_prior_knowledge()
        elif http2:
            builder = builder.http2(True)
        self._url = url
        self._client: Client = builder.build()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """POST `body` and return the reply. Nothing that the network or the vendor does raises."""
        request = self._client.post(self._url + path).body_bytes(body)
        if headers is not None:
            request = request.headers(dict(headers))
        return await _exchange(request.build_streamed())

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """GET `path` and return the reply. Nothing that the network or the vendor does raises."""
        request = self._client.get(self._url + path)
        if headers is not None:
            request = request.headers(dict(headers))
        return await _exchange(request.build_streamed())

    async def close(self) -> None:
        """Free the connections."""
        await self._client.close()


def _header(headers: HeaderMap, name: str) -> str:
    try:
        return (headers.get(name) or "").strip()
    except ValueError:
        return ""


async def _exchange(request: StreamRequest) -> Reply:
    answered: Response | None = None
    try:
        async with request as response:
            answered = response
            return Answer(response.status, response.headers, await _read(response))
    except PyreqwestError as error:
        if answered is not None:
            return Answer(answered.status, answered.headers, b"")
        return _unanswered(error)


async def _read(response: Response) -> bytes:
    length = _header(response.headers, "content-length")
    if length.isdigit() and len(length) < len(str(MOST_READ_BYTES)):
        return bytes(await response.bytes())
    chunks: list[bytes] = []
    room = MOST_READ_BYTES
    reader = response.body_reader
    while (chunk := await reader.read_chunk()) is not None:
        room -= len(chunk)
        if room < 0:
            return b""
        chunks.append(bytes(chunk))
    return b"".join(chunks)


def _unanswered(error: PyreqwestError) -> Retry | Uncertain:
    details = getattr(error, "details", None) or {}
    messages = [cause["message"] for cause in details.get("causes") or ()]
    said = messages[-1] if messages else error.message
    if _NEVER_CONNECTED in messages:
        return Retry("unreachable", detail=brief(f"no connection: {said}"), about=About.UNOFFERED)
    if _NOT_WRITTEN in messages or any(_REFUSED_STREAM in message for message in messages):
        return Retry("connection_lost", detail=brief(f"the request was not taken whole: {said}"))
    return Uncertain("no_answer", detail=brief(f"the request went out and no answer came: {said}"))


def brief(text: str) -> str:
    """The vendor's words on one line, short enough for a timeline."""
    return " ".join(text.split())[:_LONGEST_DETAIL].encode("utf-8", "replace").decode()


def retry_after_s(answer: Answer, clock: Clock) -> float | None:
    """The seconds that `Retry-After` asks for, at least 0; None when it is absent or cannot be read.

    Of several values the longest. This is the vendor's wish; policy decides how much of it is granted.
    """
    readable = [_seconds(text.strip(), clock) for text in answer.values("retry-after")]
    return max((seconds for seconds in readable if seconds is not None), default=None)


def _seconds(text: str, clock: Clock) -> float | None:
    """The seconds in one value of Retry-After; of several that a proxy joined, the largest."""
    if _WHOLE_NUMBERS.fullmatch(text):
        return max(float(number.strip()[:18]) for number in text.split(","))
    try:
        then = parsedate_to_datetime(text)
        # A date without a zone is in UTC, not in this machine's timezone.
        then = then.replace(tzinfo=then.tzinfo or UTC)
        return max(0.0, then.timestamp() - clock.now() / 1000)
    except (ValueError, OverflowError, TypeError):
        return None


def throttled(asked_s: float | None, detail: str) -> Retry:
    """The result for a 429. `asked_s` comes from headers, which are about the account; None: there were none."""
    return Retry("throttled", asked_s, detail, None if asked_s is None else About.ACCOUNT)


def by_status(answer: Answer, clock: Clock, detail: str = "") -> SendResult:
    """The result that follows from the HTTP status alone: the answer is no success and in no error table."""
    status = answer.status
    detail = brief(detail) or f"HTTP status {status}"
    if status == 429:
        return throttled(retry_after_s(answer, clock), detail)
    if status == 401:
        return Retry("unauthorized", ACCOUNT_WAIT_S, detail, About.UNOFFERED)
    if status in _GATEWAY_UNSURE:
        return Uncertain("gateway_timeout", detail)
    if status in _NOBODY_BEHIND:
        return Retry("provider_error", retry_after_s(answer, clock), detail, About.UNOFFERED)
    if status == 408 or status >= 500:
        return Retry("provider_error", retry_after_s(answer, clock), detail)
    if status >= 300:
        return Rejected(f"http_{status}", fallback=True, detail=detail)
    return Uncertain("unreadable_answer", detail)
