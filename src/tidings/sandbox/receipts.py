"""Sends receipts: what vendors report later, signed in their own way, from a bounded queue.

- SendGrid's Event Webhook: batches of events as a JSON array, with ECDSA over timestamp and body
  (https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features).
- Twilio: a form POST to the StatusCallback URL for each change of status, with HMAC-SHA1 over the URL and the sorted
  parameters (https://www.twilio.com/docs/usage/security#validating-requests).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from heapq import heappop, heappush
from typing import Any
from urllib.parse import urlencode

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct
from pyreqwest.client import ClientBuilder

from tidings.sandbox.arrivals import Arrival, ArrivalLog
from tidings.sandbox.credentials import Credentials
from tidings.sandbox.faults import Fault, Kind
from tidings.sandbox.magic import Step

TICK_S = 0.025
"""Due receipts leave at most so often, so that they form batches."""

MAX_WAITING = 200_000
BATCH = 1000
POSTERS = 32
ATTEMPTS = 9
FIRST_RETRY_S = 0.25
MAX_RETRY_S = 16.0
_TIMEOUT = timedelta(seconds=10)
_FINAL = frozenset({"delivered", "bounce", "dropped", "failed", "undelivered"})


class _Planned(Struct, gc=False):
    arrival: Arrival
    steps: Sequence[Step]
    fault: Fault | None
    position: int = 0


class _Post(Struct):
    vendor: str
    url: str
    headers: dict[str, str]
    body: bytes
    attempt: int = 1


class Receipts:
    """Plays what happens to arrivals after they were taken, and sends the receipts.

    `events_url` gets SendGrid's events; None: they are not sent. `counts` has `posted`, `retried`, `given_up` and
    `dropped` (the queue was full).
    """

    def __init__(self, credentials: Credentials, events_url: str | None, log: ArrivalLog) -> None:
        self._credentials = credentials
        self._events_url = events_url
        self._log = log
        key = load_pem_private_key(credentials.event_private_key.encode(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the event key of the sandbox is not an elliptic-curve key")
        self._event_key = key
        self._token = credentials.twilio_auth_token.encode()
        self._due: list[tuple[float, int, _Planned | _Post]] = []
        self._ordinal = 0
        self._ready: asyncio.Queue[_Post] = asyncio.Queue()
        self._wake = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """Start sending receipts, in the running loop."""
        client = ClientBuilder().timeout(_TIMEOUT).connect_timeout(_TIMEOUT).no_proxy().build()
        self._client = client
        self._running = [asyncio.create_task(self._tick())]
        self._running += [asyncio.create_task(self._post()) for _ in range(POSTERS)]

    async def stop(self) -> None:
        """Stop; receipts that were not sent are dropped."""
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._client.close()

    @property
    def waiting(self) -> int:
        """How many receipts wait to be sent."""
        return len(self._due) + self._ready.qsize()

    def plan(self, arrival: Arrival, steps: Sequence[Step], fault: Fault | None = None) -> None:
        """Play `steps` for `arrival`. `fault` may lose, repeat or delay the receipts."""
        if not steps:
            return
        if self.waiting >= MAX_WAITING:
            self.counts["dropped"] += 1
            return
        delay_s = steps[0].after_s
        if fault is not None and fault.kind is Kind.RECEIPT_LATE:
            delay_s += fault.duration_s
        self._push(delay_s, _Planned(arrival, steps, fault))

    def _push(self, delay_s: float, entry: _Planned | _Post) -> None:
        self._ordinal += 1
        heappush(self._due, (time.monotonic() + delay_s, self._ordinal, entry))
        self._wake.set()

    async def _tick(self) -> None:
        while True:
            if not self._due:
                self._wake.clear()
                await self._wake.wait()
            await asyncio.sleep(max(TICK_S, min(self._due[0][0] - time.monotonic(), 0.2)))
            self._advance(time.monotonic())

    def _advance(self, now: float) -> None:
        events: list[dict[str, Any]] = []
        due = self._due
        while due and due[0][0] <= now:
            entry = heappop(due)[2]
            if isinstance(entry, _Post):
                self._ready.put_nowait(entry)
            else:
                self._play(entry, events)
        for start in range(0, len(events), BATCH):
            self._ready.put_nowait(self._batch(events[start : start + BATCH]))

    def _play(self, planned: _Planned, events: list[dict[str, Any]]) -> None:
        arrival, step = planned.arrival, planned.steps[planned.position]
        kind = planned.fault.kind if planned.fault else None
        if arrival.status not in _FINAL or step.event in _FINAL:
            self._log.set_status(arrival, step.event, step.detail.get("reason") or step.detail.get("ErrorCode", ""))
        if kind is not Kind.RECEIPT_LOST:
            for _ in range(2 if kind is Kind.RECEIPT_TWICE else 1):
                self._report(arrival, step, events)
        if planned.position + 1 < len(planned.steps):
            planned.position += 1
            self._push(planned.steps[planned.position].after_s, planned)

    def _report(self, arrival: Arrival, step: Step, events: list[dict[str, Any]]) -> None:
        if arrival.vendor == "twilio":
            url = arrival.tags.get(STATUS_URL)
            if url:
                self._ready.put_nowait(self._status_change(arrival, step, url))
        elif self._events_url is not None:
            events.append(_event(arrival, step))

    def _batch(self, events: list[dict[str, Any]]) -> _Post:
        body = msgspec.json.encode(events)
        stamp = str(int(time.time()))
        signature = self._event_key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "SendGrid Event API",
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
        }
        return _Post("sendgrid", self._events_url or "", headers, body)

    def _status_change(self, arrival: Arrival, step: Step, url: str) -> _Post:
        sid = self._credentials.twilio_account_sid
        fields = {
            "AccountSid": sid,
            "ApiVersion": "2010-04-01",
            "From": arrival.sender,
            "MessageSid": arrival.reference,
            "MessageStatus": step.event,
            "SmsSid": arrival.reference,
            "SmsStatus": step.event,
            "To": arrival.to,
            **step.detail,
        }
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": "TwilioProxy/1.1",
            "X-Twilio-Signature": signature_of(self._token, url, fields),
        }
        return _Post("twilio", url, headers, urlencode(fields).encode())

    async def _post(self) -> None:
        while True:
            post = await self._ready.get()
            status = await self._try(post)
            if 200 <= status < 300:
                self.counts["posted"] += 1
            elif post.attempt < ATTEMPTS and (post.vendor == "sendgrid" or status >= 500):
                self.counts["retried"] += 1
                delay_s = min(FIRST_RETRY_S * 2 ** (post.attempt - 1), MAX_RETRY_S)
                post.attempt += 1
                self._push(delay_s, post)
            else:
                self.counts["given_up"] += 1

    async def _try(self, post: _Post) -> int:
        """The status of the receiver's answer; 599 if it did not answer."""
        try:
            request = self._client.post(post.url).headers(post.headers).body_bytes(post.body).build()
            return (await request.send()).status
        except Exception as error:
            self._log_failure(error)
            return 599

    def _log_failure(self, error: Exception) -> None:
        self.counts[f"unreachable: {type(error).__name__}"] += 1


STATUS_URL = "StatusCallback"
"""The tag of a text message that holds the URL for its status changes."""


def signature_of(token: bytes, url: str, fields: Mapping[str, str]) -> str:
    """The X-Twilio-Signature of a form POST."""
    signed = url + "".join(name + fields[name] for name in sorted(fields))
    return base64.b64encode(hmac.new(token, signed.encode(), hashlib.sha1).digest()).decode()


def _event(arrival: Arrival, step: Step) -> dict[str, Any]:
    event: dict[str, Any] = dict(arrival.tags)
    event.update(step.detail)
    event["email"] = arrival.to
    event["event"] = step.event
    event["timestamp"] = int(time.time())
    event["sg_event_id"] = secrets.token_urlsafe(16)
    event["sg_message_id"] = f"{arrival.reference}.recvd-sandbox-{arrival.seq}-0"
    event["smtp-id"] = f"<{arrival.reference}@sandbox>"
    return event
