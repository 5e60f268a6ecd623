"""The sandbox's own routes under `/_sandbox/`: faults, arrivals, counts, magic addresses, and the viewer's page.

- `POST /_sandbox/faults` sets a fault (see faults.Fault), `GET` lists them, `DELETE /_sandbox/faults[/{id}]` ends them.
- `GET /_sandbox/arrivals?since=&channel=&to=&limit=` returns the arrivals after number `since`; with `before=` instead,
  the newest ones before that number (0: the newest of all). Both are in order, oldest first. `DELETE` clears the log.
- `GET /_sandbox/counts`, `GET /_sandbox/magic`, `GET /_sandbox/events` (server-sent events).
- `POST /_sandbox/inapp` takes in-app items, because no vendor sees them.

Bodies must be `application/json`: this keeps other websites in the same browser from setting faults.
"""

from __future__ import annotations

import asyncio
import secrets
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

import msgspec

from tidings.model.errors import Invalid
from tidings.sandbox.arrivals import REFUSED, Arrival, ArrivalLog, Parts, total
from tidings.sandbox.faults import KINDS, Fault, Faults, Vendor
from tidings.sandbox.looks import html_page, look
from tidings.sandbox.magic import table
from tidings.sandbox.mirror import InappItem
from tidings.sandbox.receipts import Receipts
from tidings.sandbox.wire import UNREADABLE, Answer, Headers, Receive, Request, Send, json_answer, send_answer

MAX_BODY = 4 * 1024 * 1024
PREFIX = "/_sandbox/"
_MAX_PAGE = 100_000
_BACKLOG = 60
"""How many arrivals of each channel a new viewer gets at once."""
_BURST = 40
"""How many arrivals of each channel one message to a viewer may have."""
_PACE_S = 0.15
_HEARTBEAT_S = 15.0
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MAIL_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:{images}; font-src data:; form-action 'none'; "
    "frame-ancestors 'self'; sandbox allow-same-origin allow-popups allow-popups-to-escape-sandbox"
)
_SAFE: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_FILES = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/_sandbox/viewer.css": ("viewer.css", b"text/css; charset=utf-8"),
    "/_sandbox/viewer.js": ("viewer.js", b"text/javascript; charset=utf-8"),
    "/_sandbox/cards.js": ("cards.js", b"text/javascript; charset=utf-8"),
}


class Control:
    """The sandbox's own routes."""

    def __init__(self, log: ArrivalLog, faults: Faults, receipts: Receipts, hint: str, timeline: str) -> None:
        self._log = log
        self._faults = faults
        self._receipts = receipts
        self._instance = secrets.token_hex(4)
        self._hint = hint
        self._timeline = timeline
        self._pages = {path: _page(name, kind) for path, (name, kind) in _FILES.items()}
        self.closing = False

    async def answer(self, request: Request) -> Answer:
        """The answer of every route but the event stream."""
        method, path = request.method, request.path
        if method in ("GET", "HEAD") and path in self._pages:
            return self._pages[path]
        try:
            if method == "GET":
                return self._read(path, {name: values[-1] for name, values in parse_qs(request.query).items()})
            if method in ("POST", "DELETE"):
                return self._write(request)
        except Invalid as error:
            return _problem(422, error.detail, error.path)
        return _problem(405, f"{method} is not for {path}")

    def _read(self, path: str, query: dict[str, str]) -> Answer:
        match path:
            case "/_sandbox/arrivals":
                return self._arrivals(query)
            case "/_sandbox/counts":
                return json_answer(200, self._counts())
            case "/_sandbox/faults":
                return json_answer(200, {"faults": self._faults.all(), "kinds": KINDS, "vendors": list(Vendor)})
            case "/_sandbox/magic":
                return json_answer(200, {"magic": table(), "hint": self._hint, "timeline": self._timeline})
            case "/healthz":
                return json_answer(200, {"status": "ok"})
        if path.startswith("/_sandbox/mail/"):
            arrival = self._log.by_seq(_whole(path.removeprefix("/_sandbox/mail/"), "the number of an arrival"))
            if arrival is not None and arrival.channel == "email":
                return _mail(arrival, images="images" in query)
        return _problem(404, f"there is nothing at {path}")

    def _write(self, request: Request) -> Answer:
        method, path = request.method, request.path
        if method == "DELETE":
            if path == "/_sandbox/arrivals":
                self._log.clear()
                self._instance = secrets.token_hex(4)
                self._log.wake()
                return Answer(204, b"", ())
            if path == "/_sandbox/faults" or path.startswith("/_sandbox/faults/"):
                id = path.removeprefix("/_sandbox/faults").lstrip("/")
                if not self._faults.remove(id or None) and id:
                    return _problem(404, f"there is no fault {id}")
                self._log.wake()
                return Answer(204, b"", ())
        if method == "POST" and path in ("/_sandbox/faults", "/_sandbox/inapp"):
            if request.header(b"content-type").split(b";")[0].strip() != b"application/json":
                return _problem(415, "send this as Content-Type: application/json")
            return self._add_fault(request.body) if path == "/_sandbox/faults" else self._add_inapp(request.body)
        return _problem(404, f"there is nothing at {path}")

    def _add_fault(self, body: bytes) -> Answer:
        fault = self._faults.add(_decode(body, Fault))
        self._log.wake()
        return json_answer(201, fault)

    def _add_inapp(self, body: bytes) -> Answer:
        items = _decode(body, list[InappItem])
        self._log.add(
            [
                Arrival(
                    seq=0,
                    at=0,
                    channel="inapp",
                    vendor="inbox",
                    to=item.user_id,
                    sender="",
                    body=Parts(title=item.title, text=item.body, link=item.link or ""),
                    status="delivered",
                    reference=item.id,
                    delivery=item.id,
                    bytes=len(item.title) + len(item.body),
                )
                for item in {item.id: item for item in items}.values()
                if self._log.by_reference(item.id) is None
            ]
        )
        return json_answer(202, {"taken": len(items)})

    def _arrivals(self, query: dict[str, str]) -> Answer:
        since = _whole(query.get("since", "0"), "`since`")
        limit = min(max(1, _whole(query.get("limit", "100"), "`limit`")), _MAX_PAGE)
        channel, recipient = query.get("channel", ""), query.get("to", "")
        if "before" in query:
            before = _whole(query["before"], "`before`")
            arrivals = self._log.newest(limit, channel, recipient, before or None)
        else:
            arrivals = self._log.since(since, limit, channel, recipient)
        return json_answer(
            200,
            {
                "arrivals": [look(arrival) for arrival in arrivals],
                "oldest": self._log.oldest,
                "latest": self._log.latest,
            },
        )

    def _counts(self) -> dict[str, Any]:
        vendors = ("sendgrid", "smtp", "twilio", "fcm", "inbox")
        counts = total(self._log.counts, vendors)
        channels = {"email": ("sendgrid", "smtp"), "sms": ("twilio",), "push": ("fcm",), "inapp": ("inbox",)}
        return {
            "vendors": counts,
            "channels": {
                channel: {kind: sum(counts[name][kind] for name in names) for kind in ("taken", REFUSED)}
                for channel, names in channels.items()
            },
            "receipts": {**self._receipts.counts, "waiting": self._receipts.waiting},
        }

    async def stream(self, request: Request, receive: Receive, send: Send) -> None:
        """Serve `GET /_sandbox/events`: server-sent events, from the one in Last-Event-ID on."""
        headers = [(b"content-type", b"text/event-stream"), *_SAFE]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        watcher = self._log.watch()
        gone = asyncio.create_task(_until_gone(receive, watcher.event))
        try:
            instance, last = "", 0
            known, _, number = request.header(b"last-event-id").decode("latin-1").partition("-")
            if known == self._instance and number.isdigit():
                instance, last = known, int(number)
            faults = -1
            while not (gone.done() or self.closing):
                watcher.event.clear()
                frames: list[bytes] = []
                if instance != self._instance:
                    instance, last = self._instance, 0
                    frames.append(_frame("hello", {"instance": instance, "burst": _BURST}))
                    limit = _BACKLOG
                else:
                    limit = _BURST
                if faults != self._faults.version:
                    faults = self._faults.version
                    frames.append(_frame("faults", self._faults.all()))
                last = self._news(last, limit, watcher.take_changes(), frames)
                await send({"type": "http.response.body", "body": b"".join(frames) or b": \n\n", "more_body": True})
                await asyncio.sleep(_PACE_S)
                await _wait(watcher.event, _HEARTBEAT_S)
        finally:
            self._log.unwatch(watcher)
            gone.cancel()
        await send({"type": "http.response.body", "body": b""})

    def _news(self, last: int, limit: int, changed: dict[int, tuple[str, str]], frames: list[bytes]) -> int:
        """Append to `frames` what is new after arrival number `last`; returns the latest number."""
        latest = self._log.latest
        fresh = self._log.newest_of_each(limit, last) if latest > last else []
        if fresh or not last:
            identity = f"{self._instance}-{latest}"
            frames.append(_frame("arrivals", [look(arrival) for arrival in fresh], identity))
        if changed:
            newest = sorted(changed)[-500:]
            frames.append(_frame("status", {str(seq): changed[seq] for seq in newest}))
        frames.append(_frame("counts", self._counts()["channels"]))
        return latest


async def serve_control(control: Control, request: Request, receive: Receive, send: Send) -> None:
    """Answer a request to one of the sandbox's own routes."""
    if request.path == "/_sandbox/events" and request.method == "GET":
        await control.stream(request, receive, send)
    else:
        await send_answer(send, await control.answer(request))


def _page(name: str, kind: bytes) -> Answer:
    body = files("tidings.sandbox").joinpath("viewer", name).read_bytes()
    headers = ((b"content-type", kind), (b"content-security-policy", _PAGE_POLICY.encode()), *_SAFE)
    return Answer(200, body, headers)


def _mail(arrival: Arrival, *, images: bool) -> Answer:
    policy = _MAIL_POLICY.format(images=" http: https:" if images else "")
    headers = (
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        *_SAFE,
    )
    return Answer(200, html_page(arrival).encode("utf-8", "replace"), headers)


def _problem(status: int, detail: str, path: str = "") -> Answer:
    value = {"status": status, "detail": detail} | ({"path": path} if path else {})
    return Answer(status, msgspec.json.encode(value), ((b"content-type", b"application/problem+json"),))


def _decode(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE as error:
        raise Invalid("body_invalid", f"this body cannot be read: {error}") from error


def _whole(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Invalid("number_invalid", f"{what} is a whole number, not {text[:40]!r}")
    return int(text)


def _frame(event: str, value: object, id: str = "") -> bytes:
    head = f"id: {id}\n" if id else ""
    return f"{head}event: {event}\ndata: ".encode() + msgspec.json.encode(value) + b"\n\n"


async def _until_gone(receive: Receive, event: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    event.set()


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
