"""The two hot routes, straight on ASGI: `POST /v1/notifications` and `POST /v1/notifications/batch`.

They cost little more than the server itself: no framework, one dictionary of headers, an answer written by hand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from starlette.types import Receive

from tidings.api import bodies, problems
from tidings.api.auth import require
from tidings.api.limits import Visit
from tidings.api.services import Accepts, Answered, Limits
from tidings.model.errors import Invalid
from tidings.model.ids import NOTIFICATION_PREFIX, to_text
from tidings.model.tenant import Scope
from tidings.policy.idempotency import check_key

SINGLE = "/v1/notifications"
BATCH = "/v1/notifications/batch"

Headers = list[tuple[bytes, bytes]]

Handler = Callable[[Visit, dict[bytes, bytes], Receive], Awaitable[tuple[bytes, Headers]]]

_JSON = (b"content-type", b"application/json")
_REPLAYED = (b"idempotency-replayed", b"true")


class BatchItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of one item of a batch: its `id`, or its `error`. An error does not affect the other items."""

    id: str | None = None
    error: problems.Problem | None = None


class Results(msgspec.Struct, frozen=True):
    """The answer to a batch: for each item, in order, its id or its problem."""

    results: list[BatchItem]


class Links(msgspec.Struct, frozen=True):
    """Where to read and cancel the notification."""

    self: str
    cancel: str


class Acceptance(msgspec.Struct, frozen=True):
    """The answer to a single notification, given when it is durable."""

    id: str
    links: Links


class Hot:
    """Answers the hot routes."""

    def __init__(
        self, accept: Accepts, limits: Limits, body_memory: bodies.BodyMemory, count: Callable[[str, int], None]
    ) -> None:
        self._accept = accept
        self.count = count
        self._limits = limits
        self._body_memory = body_memory
        self._encode = msgspec.json.Encoder().encode

    async def single(self, visit: Visit, headers: dict[bytes, bytes], receive: Receive) -> tuple[bytes, Headers]:
        """The body and headers of a 202. Raises TidingsError for every refusal."""
        await visit.spend(requests=1, notifications=1)
        body, key = await self._read(visit, headers, receive, self._limits.max_body_bytes)
        answer = await self._accept.accept(visit.caller.tenant, body, key)
        result = answer.results[0]
        if isinstance(result, Invalid):
            raise result
        self.count("accepted", 1)
        id = to_text(NOTIFICATION_PREFIX, result).encode()
        # This is the JSON of `Acceptance`, written by hand in a tenth of the time; an id (base32) needs no escapes.
        location = b"/v1/notifications/" + id
        # The line feed at the end is for people who paste curl into a terminal.
        text = b'{"id":"%b","links":{"self":"%b","cancel":"%b/cancel"}}\n' % (id, location, location)
        return text, [_JSON, (b"location", location), *_replayed(answer)]

    async def batch(self, visit: Visit, headers: dict[bytes, bytes], receive: Receive) -> tuple[bytes, Headers]:
        """The body and headers of a 202. Raises TidingsError when the whole batch is refused."""
        await visit.spend(requests=1)
        body, key = await self._read(visit, headers, receive, self._limits.max_batch_bytes)
        answer = await self._accept.accept_batch(visit.caller.tenant, body, key, visit.admit)
        items = [_item(result) for result in answer.results]
        accepted = sum(item.error is None for item in items)
        self.count("accepted", accepted)
        if accepted < len(items):
            self.count("refused", len(items) - accepted)
        return self._encode(Results(items)), [_JSON, *_replayed(answer)]

    async def _read(
        self, visit: Visit, headers: dict[bytes, bytes], receive: Receive, limit_bytes: int
    ) -> tuple[bytes, str | None]:
        """The request's body and its idempotency key."""
        require(visit.caller, Scope.SEND)
        bodies.check_type(headers)
        key = _idempotency_key(headers.get(b"idempotency-key"))
        body = await bodies.read(receive, headers, limit_bytes, self._body_memory)
        bodies.check_encoding(body)
        return body, key


def refuse_parameters(query: bytes) -> None:
    """Raises Refused (400) if the query string has a parameter: the hot routes take none."""
    for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        raise problems.unknown_parameter(name, ())


def _item(result: UUID | Invalid) -> BatchItem:
    if isinstance(result, Invalid):
        return BatchItem(error=problems.of_item(result))
    return BatchItem(id=to_text(NOTIFICATION_PREFIX, result))


def _replayed(answer: Answered) -> Headers:
    return [_REPLAYED] if answer.replayed else []


def _idempotency_key(value: bytes | None) -> str | None:
    return None if value is None else check_key(value.decode("latin-1"))
