"""The front of the API, on bare ASGI: request ids, keys, limits, bodies, the hot routes, and the answer to every error.

FastAPI runs behind it and sees only requests whose key is valid and whose body is complete, within its limit, and valid
JSON.
"""

from __future__ import annotations

import itertools
import re
import secrets

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidings.api import bodies, hot, paths, problems
from tidings.api.auth import Keyring
from tidings.api.limits import Limiter, Visit
from tidings.api.problems import Refused
from tidings.api.receipts import Receipts, provider_of
from tidings.api.services import Limits
from tidings.api.vitals import Vitals
from tidings.model.errors import BadReceipt, Overloaded, TidingsError

REQUEST_ID = "tidings.request_id"
CALLER = "tidings.caller"
BODY = "tidings.body"

_RESOURCES = "/v1/"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~\-]{1,128}")
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
_PROBLEM = (b"content-type", problems.MEDIA_TYPE.encode())
_log = structlog.get_logger("tidings.api")


class Front:
    """The ASGI app that the server runs. FastAPI (`resources`) answers all but the hot routes and vendors' receipts."""

    def __init__(
        self,
        resources: ASGIApp,
        hot_routes: hot.Hot,
        receipts: Receipts,
        keyring: Keyring,
        limiter: Limiter,
        limits: Limits,
        body_memory: bodies.BodyMemory,
        vitals: Vitals,
    ) -> None:
        self._resources = resources
        self._receipts = receipts
        self._vitals = vitals
        self._count = hot_routes.count
        self._hot = {hot.SINGLE: hot_routes.single, hot.BATCH: hot_routes.batch}
        self._keyring = keyring
        self._limiter = limiter
        self._limits = limits
        self._body_memory = body_memory
        self._request_id_prefix = b"req_" + secrets.token_hex(6).encode()
        self._request_numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI prescribes."""
        if scope["type"] != "http":
            await self._resources(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = headers.get(b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = b"%b%08x" % (self._request_id_prefix, next(self._request_numbers))
        visit, handler = Visit(), None
        try:
            if b"%" in scope["raw_path"]:
                scope["path"] = paths.path_for_matching(scope["raw_path"])
            handler = self._hot.get(scope["path"]) if scope["method"] == "POST" else None
            if handler is not None:
                if scope["query_string"]:
                    hot.refuse_parameters(scope["query_string"])
                body, own_headers = await self._vitals.guard(self._hot_route(handler, visit, headers, receive))
                await _send(send, 202, body, own_headers + visit.headers, request_id)
            elif (provider := provider_of(scope["method"], scope["path"])) is not None:
                await self._vitals.guard(self._receipts.take(provider, scope, headers, receive))
                await _send(send, 204, b"", [], request_id)
            elif scope["path"].startswith(_RESOURCES):
                await self._vitals.guard(self._resource(scope, headers, visit, request_id, receive, send))
            else:
                await self._resource(scope, headers, visit, request_id, receive, send)
        except bodies.ClientLeft:
            return
        except TidingsError as error:
            refused = problems.refusal(error)
            if handler is not None:
                self._count("unavailable" if refused.status >= 500 else "refused", 1)
            await self._refuse(send, refused, visit, request_id, error, scope)
        except Exception as error:
            await self._refuse(send, problems.internal(), visit, request_id, error, scope)

    async def _hot_route(
        self, handler: hot.Handler, visit: Visit, headers: dict[bytes, bytes], receive: Receive
    ) -> tuple[bytes, hot.Headers]:
        self._limiter.enter(visit, await self._keyring.key(headers.get(b"authorization")))
        return await handler(visit, headers, receive)

    async def _resource(
        self,
        scope: Scope,
        headers: dict[bytes, bytes],
        visit: Visit,
        request_id: bytes,
        receive: Receive,
        send: Send,
    ) -> None:
        path: str = scope["path"]
        scope[REQUEST_ID] = request_id.decode()
        body = b""
        if path.startswith(_RESOURCES):
            self._limiter.enter(visit, await self._keyring.key(headers.get(b"authorization")))
            scope[CALLER] = visit.caller
            await visit.spend(requests=1)
            paths.refuse_nul(path, scope["query_string"])
            paths.check_query(scope["query_string"])
            body = await bodies.read(receive, headers, self._limits.max_body_bytes, self._body_memory)
            if body and scope["method"] not in _WITHOUT_BODY:
                bodies.check_type(headers)
                scope[BODY] = bodies.decode(body)
                # FastAPI reads a body as JSON only if this header says so; `check_type` permits a body without it.
                scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
                scope["headers"].append((b"content-type", b"application/json"))
        answer = _Answer(send, [(b"x-request-id", request_id), *visit.headers])
        try:
            await self._resources(scope, _replay(body, receive), answer.send)
        except Exception as error:
            # FastAPI answers unforeseen errors itself (see app.py) and raises them again, so that they can be logged.
            if not answer.started:
                raise
            log_refusal(scope, problems.internal(), error)

    async def _refuse(
        self, send: Send, refused: Refused, visit: Visit, request_id: bytes, error: Exception, scope: Scope
    ) -> None:
        scope[REQUEST_ID] = request_id.decode()
        log_refusal(scope, refused, error)
        body = problems.encode(refused, scope[REQUEST_ID])
        await _send(send, refused.status, body, [_PROBLEM, *refused.headers, *visit.headers], request_id)


def log_refusal(scope: Scope, refused: Refused, error: Exception) -> None:
    """Log an error answer: the caller's own faults at debug level, without what the caller sent."""
    if isinstance(error, Overloaded):
        return  # admission logs how many it refused; a line for each would add to the load
    if isinstance(error, BadReceipt):
        _log.warning("a receipt was refused", request_id=scope[REQUEST_ID], path=scope["path"], why=str(error))
    elif refused.status == 503:
        _log.warning("unavailable", request_id=scope[REQUEST_ID], path=_path_without_ids(scope), error=str(error))
    elif refused.status >= 500:
        _log.error(
            "unforeseen error",
            request_id=scope[REQUEST_ID],
            method=scope["method"],
            path=_path_without_ids(scope),
            exc_info=error,
        )
    else:
        _log.debug(
            "a request was refused",
            request_id=scope[REQUEST_ID],
            method=scope["method"],
            path=_path_without_ids(scope),
            status=refused.status,
            code=refused.code,
        )


def _path_without_ids(scope: Scope) -> str:
    """The path without ids, which may name a person: the route's template, or the first two segments."""
    route = scope.get("route")
    if route is not None:
        return str(route.path)
    first = scope["path"].split("/")[:3]
    return "/".join(first) + ("/…" if scope["path"].count("/") > 2 else "")


class _Answer:
    """Passes FastAPI's answer on with headers of ours: the request id, and the state of the caller's limits."""

    def __init__(self, send: Send, headers: hot.Headers) -> None:
        self._send = send
        self._headers = headers
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        await self._send(message)


async def _send(send: Send, status: int, body: bytes, headers: hot.Headers, request_id: bytes) -> None:
    headers = [*headers, (b"x-request-id", request_id)]
    if status != 204:  # RFC 9110 section 8.6: no length where there is no content
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read already, then further messages of the connection."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
