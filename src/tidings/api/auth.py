"""Who calls: API keys in `Authorization: Bearer tk_…` (RFC 6750), and what their scopes permit."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

from tidings.api.keys import PREFIX, digest_of, looks_like_one
from tidings.api.problems import Refused
from tidings.model.tenant import ApiKey, Scope
from tidings.ports.clock import Clock
from tidings.ports.store import Tenants

V = TypeVar("V")
TTL = 1_000
"""Milliseconds that an answer of the store is believed: a revoked key stops working within that time."""

MOST_REMEMBERED = 10_000
ASKED_AT_ONCE = 500
"""Keys in one question to the store."""
_LONGEST_HEADER = 512
_SCHEME = b"bearer "
_CHALLENGE = b'Bearer realm="tidings"'


class Keyring:
    """Finds the API key of a request, asking the store at most once a second for each.

    Unknown secrets are remembered for as long, apart from the keys, which they never displace. One question is
    under way at a time, for all who came meanwhile, those first who were known before: thousands of wrong keys cost a
    few questions, and no right one waits behind them. What no key looks like is not asked for at all.
    """

    def __init__(self, tenants: Tenants, clock: Clock) -> None:
        self._tenants = tenants
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[int, ApiKey]] = OrderedDict()
        self._unknown: OrderedDict[bytes, int] = OrderedDict()
        self._asked: dict[bytes, asyncio.Future[ApiKey | None]] = {}
        self._waiting: list[bytes] = []
        self._asking: asyncio.Task[None] | None = None

    async def key(self, authorization: bytes | None) -> ApiKey:
        """The valid key in the header's value.

        Raises:
            Refused: 401, with the challenge that RFC 6750 section 3 asks for.
            Unavailable: the store does not answer.
        """
        digest = _digest(authorization)
        key = await self._find(digest)
        if key is None:
            raise _no_such_key()
        if key.revoked_at is not None:
            raise _unauthorized("revoked_key", f"the API key {key.prefix}… was revoked; use another one")
        return key

    async def _find(self, digest: bytes) -> ApiKey | None:
        now = self._clock.elapsed()
        known = self._known.get(digest)
        if known is not None and now - known[0] < TTL:
            return known[1]
        asked_at = self._unknown.get(digest)
        if asked_at is not None and now - asked_at < TTL:
            return None
        return await self._ask(digest)

    async def _ask(self, digest: bytes) -> ApiKey | None:
        """Concurrent requests share one question, and a caller that leaves does not end it."""
        answer = self._asked.get(digest)
        if answer is None:
            answer = self._asked[digest] = asyncio.get_running_loop().create_future()
            self._waiting.insert(0 if digest in self._known else len(self._waiting), digest)
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask_for_all())
        return await asyncio.shield(answer)

    async def _ask_for_all(self) -> None:
        try:
            while self._waiting:
                digests, self._waiting = self._waiting[:ASKED_AT_ONCE], self._waiting[ASKED_AT_ONCE:]
                await self._ask_for(digests)
        finally:
            self._asking = None

    async def _ask_for(self, digests: Sequence[bytes]) -> None:
        # The age counts from before the question: what the store saw is at least that old.
        asked_at = self._clock.elapsed()
        answers = {digest: self._asked[digest] for digest in digests}
        try:
            found = await self._tenants.known(digests)
        except BaseException as error:
            for answer in answers.values():
                answer.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                answer.exception()  # read, so that asyncio does not warn when everyone who asked has left
            if not isinstance(error, Exception):
                raise
        else:
            for digest, answer in answers.items():
                key = found.get(digest)
                self._remember(digest, asked_at, key)
                answer.set_result(key)
        finally:
            for digest in digests:
                del self._asked[digest]

    def _remember(self, digest: bytes, asked_at: int, key: ApiKey | None) -> None:
        if key is None:
            self._known.pop(digest, None)
            _put(self._unknown, digest, asked_at)
        else:
            self._unknown.pop(digest, None)
            _put(self._known, digest, (asked_at, key))


def _put(remembered: OrderedDict[bytes, V], digest: bytes, value: V) -> None:
    """Remember it, instead of what was learnt longest ago when there is too much."""
    remembered[digest] = value
    remembered.move_to_end(digest)
    if len(remembered) > MOST_REMEMBERED:
        remembered.popitem(last=False)


def require(key: ApiKey, scope: Scope) -> None:
    """Raises Refused (403) when the key may not do this."""
    if scope not in key.scopes:
        raise Refused(
            403,
            "missing_scope",
            f"this needs an API key with the scope {scope.value!r}; {key.prefix}… has {', '.join(key.scopes)}",
            headers=[(b"www-authenticate", _CHALLENGE + b', error="insufficient_scope", scope="%b"' % scope.encode())],
        )


def _digest(authorization: bytes | None) -> bytes:
    if authorization is None:
        raise Refused(
            401,
            "missing_key",
            f"send your API key in the header: Authorization: Bearer {PREFIX}…",
            headers=[(b"www-authenticate", _CHALLENGE)],
        )
    if len(authorization) > _LONGEST_HEADER or authorization[: len(_SCHEME)].lower() != _SCHEME:
        raise _unauthorized("invalid_key", f"the header must read: Authorization: Bearer {PREFIX}…")
    secret = authorization[len(_SCHEME) :].strip()
    if not looks_like_one(secret):
        raise _no_such_key()
    return digest_of(secret)


def _no_such_key() -> Refused:
    return _unauthorized("invalid_key", "this API key is not known; copy it again, or make one: tidings key create")


def _unauthorized(code: str, detail: str) -> Refused:
    return Refused(401, code, detail, headers=[(b"www-authenticate", _CHALLENGE + b', error="invalid_token"')])
