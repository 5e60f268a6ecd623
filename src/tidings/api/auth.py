"""Authentication: API keys in `Authorization: Bearer tk_…` (RFC 6750), and what their scopes permit."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

from tidings.api.keys import PREFIX, digest_of, looks_like_one
from tidings.api.problems import Refused
from tidings.model.tenant import ApiKey, Scope
from tidings.ports.clock import Clock
from tidings.ports.tenants import Tenants

V = TypeVar("V")
TTL_MS = 1_000
"""How long an answer of the store is used: a revoked key stops working within this time."""

MOST_REMEMBERED = 10_000
"""Keys, and as many unknown secrets, that a process remembers."""
LOOKED_UP_AT_ONCE = 500
"""Keys in one query."""
_LONGEST_HEADER_BYTES = 512
_SCHEME = b"bearer "
_CHALLENGE = b'Bearer realm="tidings"'


class Keyring:
    """Finds the API key of a request, asking the store at most once a second for each key.

    Unknown secrets are remembered too, apart from the keys, so that they never displace one. A secret that does not
    have the shape of a key is refused without a query. One query is under way at a time. The next one looks up all keys
    that were asked for meanwhile, known ones first. So thousands of wrong keys cost a few queries, and no right key
    waits behind them.
    """

    def __init__(self, tenants: Tenants, clock: Clock) -> None:
        self._tenants = tenants
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[int, ApiKey]] = OrderedDict()  # by digest: when it was looked up, the key
        self._unknown: OrderedDict[bytes, int] = OrderedDict()  # by digest: when it was looked up
        self._lookups: dict[bytes, asyncio.Future[ApiKey | None]] = {}
        self._waiting: list[bytes] = []
        self._looking_up: asyncio.Task[None] | None = None

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
        if known is not None and now - known[0] < TTL_MS:
            return known[1]
        unknown_since = self._unknown.get(digest)
        if unknown_since is not None and now - unknown_since < TTL_MS:
            return None
        return await self._look_up(digest)

    async def _look_up(self, digest: bytes) -> ApiKey | None:
        """The key in the store. Concurrent requests share one lookup, and a caller that leaves does not end it."""
        answer = self._lookups.get(digest)
        if answer is None:
            answer = self._lookups[digest] = asyncio.get_running_loop().create_future()
            self._waiting.insert(0 if digest in self._known else len(self._waiting), digest)
            if self._looking_up is None:
                self._looking_up = asyncio.create_task(self._look_up_all())
        return await asyncio.shield(answer)

    async def _look_up_all(self) -> None:
        try:
            while self._waiting:
                digests, self._waiting = self._waiting[:LOOKED_UP_AT_ONCE], self._waiting[LOOKED_UP_AT_ONCE:]
                await self._query(digests)
        finally:
            self._looking_up = None

    async def _query(self, digests: Sequence[bytes]) -> None:
        # The age of an answer counts from before the query: its snapshot may be that old.
        asked_at = self._clock.elapsed()
        answers = {digest: self._lookups[digest] for digest in digests}
        try:
            keys = await self._tenants.known(digests)
        except BaseException as error:
            for answer in answers.values():
                answer.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                answer.exception()  # read, so that asyncio does not warn when every caller has left
            if not isinstance(error, Exception):
                raise
        else:
            for digest, answer in answers.items():
                key = keys.get(digest)
                self._remember(digest, asked_at, key)
                answer.set_result(key)
        finally:
            for digest in digests:
                del self._lookups[digest]

    def _remember(self, digest: bytes, asked_at: int, key: ApiKey | None) -> None:
        if key is None:
            self._known.pop(digest, None)
            _put(self._unknown, digest, asked_at)
        else:
            self._unknown.pop(digest, None)
            _put(self._known, digest, (asked_at, key))


def _put(remembered: OrderedDict[bytes, V], digest: bytes, value: V) -> None:
    """Remember the value, and forget the oldest one when there are too many."""
    remembered[digest] = value
    remembered.move_to_end(digest)
    if len(remembered) > MOST_REMEMBERED:
        remembered.popitem(last=False)


def require(key: ApiKey, scope: Scope) -> None:
    """Raises Refused (403) unless the key has the scope."""
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
    if len(authorization) > _LONGEST_HEADER_BYTES or authorization[: len(_SCHEME)].lower() != _SCHEME:
        raise _unauthorized("invalid_key", f"the header must read: Authorization: Bearer {PREFIX}…")
    secret = authorization[len(_SCHEME) :].strip()
    if not looks_like_one(secret):
        raise _no_such_key()
    return digest_of(secret)


def _no_such_key() -> Refused:
    return _unauthorized("invalid_key", "this API key is not known; copy it again, or make one: tidings key create")


def _unauthorized(code: str, detail: str) -> Refused:
    return Refused(401, code, detail, headers=[(b"www-authenticate", _CHALLENGE + b', error="invalid_token"')])
