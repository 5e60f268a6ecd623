"""The sandbox as one ASGI app: the vendors' routes at the vendors' own paths, and the sandbox's routes beside them."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from tidings.sandbox import fcm, sendgrid, twilio
from tidings.sandbox.arrivals import ArrivalLog
from tidings.sandbox.control import MAX_BODY as MAX_CONTROL_BODY
from tidings.sandbox.control import Control, serve_control
from tidings.sandbox.credentials import Credentials
from tidings.sandbox.faults import Fault, Faults
from tidings.sandbox.gate import Gate
from tidings.sandbox.receipts import Receipts
from tidings.sandbox.smtp import SmtpSink
from tidings.sandbox.wire import (
    Answer,
    ClosedEarly,
    Receive,
    Request,
    Scope,
    Send,
    TooLarge,
    json_answer,
    play,
    read_body,
    send_answer,
)


class Options(Struct, frozen=True):
    """How a sandbox behaves.

    - `receipts_url`: where receipts go, without the provider's name (`http://127.0.0.1:8400/v1/receipts`); None: email
      events are not sent.
    - `log_path`: an append-only file of arrivals. `capacity` and `max_bytes` bound the arrivals in memory.
    - `hint`: a command that the empty page shows. `timeline`: a command for the timeline of the notification `{id}`.
    - `seed`: makes the probabilities of faults repeatable.
    - `host`: the address on which the sandbox listens. `allowed_hosts`: its other names (see gate.py).
    """

    receipts_url: str | None = None
    log_path: Path | None = None
    capacity: int = 10_000
    max_bytes: int = 64_000_000
    hint: str = ""
    timeline: str = ""
    seed: int | None = None
    host: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()


class Sandbox:
    """The ASGI app. Call `start` and `stop` in the loop that serves it; `smtp` holds the hooks of the SMTP server.

    Faults that cut a connection need a server with the extension wire.RESET; server.serve runs such a server.
    """

    def __init__(self, credentials: Credentials, options: Options) -> None:
        self.log = ArrivalLog(options.capacity, options.max_bytes, options.log_path)
        self.faults = Faults(options.seed)
        events = f"{options.receipts_url.rstrip('/')}/sendgrid" if options.receipts_url else None
        self.receipts = Receipts(credentials, events, self.log)
        self._oauth = fcm.Oauth(credentials, self.faults)
        self._sendgrid = sendgrid.SendGrid(credentials, self.log, self.faults, self.receipts)
        self._twilio = twilio.Twilio(credentials, self.log, self.faults, self.receipts)
        self._fcm = fcm.Fcm(credentials, self._oauth, self.log, self.faults)
        self._gate = Gate(options.host, options.allowed_hosts, credentials)
        self._control = Control(self.log, self.faults, self.receipts, options.hint, options.timeline)
        self.smtp = SmtpSink(credentials, self.log, self.faults)

    def start(self) -> None:
        """Start sending receipts."""
        self.receipts.start()

    def close_streams(self) -> None:
        """End the viewers' event streams, so that the server can stop."""
        self._control.closing = True
        self.log.wake()

    async def stop(self) -> None:
        """Stop sending receipts and close the file of arrivals."""
        await self.receipts.stop()
        self.log.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request (ASGI 3)."""
        if scope["type"] != "http":
            raise RuntimeError(f"the sandbox speaks HTTP, not {scope['type']}")
        path: str = scope["path"]
        try:
            await self._serve(path, scope, receive, send)
        except TooLarge:
            too_large = json_answer(413, {"code": 413, "message": "Request Entity Too Large", "status": 413})
            await send_answer(send, self._sendgrid.too_large() if path.startswith("/v3/") else too_large)
        except ClosedEarly:
            return

    async def _serve(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        fault: Fault | None = None
        answer: Answer
        method = scope["method"]
        if path == "/v3/mail/send" and method == "POST":
            answer, fault = self._sendgrid.send(await _request(scope, receive, sendgrid.MAX_BODY))
        elif path.startswith(f"/{twilio.VERSION}/"):
            answer, fault = self._twilio.answer(await _request(scope, receive, twilio.MAX_BODY))
        elif path.startswith("/v1/projects/") and path.endswith("/messages:send") and method == "POST":
            answer, fault = self._fcm.send(await _request(scope, receive, fcm.MAX_BODY))
        elif path == fcm.TOKEN_PATH and method == "POST":
            answer, fault = self._oauth.grant(await _request(scope, receive, fcm.MAX_BODY))
        elif path == "/v3/scopes" and method == "GET":
            answer = self._sendgrid.scopes(await _request(scope, receive, sendgrid.MAX_BODY))
        else:
            request = await _request(scope, receive, MAX_CONTROL_BODY)
            refusal = self._gate.refusal(request)
            if refusal is not None:
                await send_answer(send, refusal)
                return
            await serve_control(self._control, request, receive, send)
            return
        if fault is None:
            await send_answer(send, answer)
        else:
            await play(fault, answer, scope, receive, send)


def create_app(credentials: Credentials, options: Options) -> Sandbox:
    """A sandbox with these credentials, for an ASGI server to serve."""
    return Sandbox(credentials, options)


async def _request(scope: Scope, receive: Receive, limit: int) -> Request:
    body = await read_body(receive, limit)
    return Request(scope["method"], scope["path"], scope["query_string"].decode("latin-1"), scope["headers"], body)
