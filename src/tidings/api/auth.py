"""Who calls: API keys in `Authorization: Bearer tk_…` (RFC 6750), and what their scopes permit."""

from __future__ import annotations

import asyncio

from tidings.api.keys import PREFIX, digest_of
from tidings.api.problems import Refused
from tidings.model.tenant import ApiKey, Scope
from tidings.ports.clock import Clock
from tidings.ports.store import Tenants

TTL = 1_000
"""Milliseconds that an answer of the store is believed: a revoked key stops working within that time."""

MOST_REMEMBERED = 10_000
_LONGEST_HEADER = 512
_SCHEME = b"bearer "
_CHALLENGE = b'Bearer realm="tidings"'


class Keyring:
    """Finds the API key of a request, asking the store at most once a second for each.

    Unknown secrets are remembered for as long, so that a loop of bad requests does not reach the store.
    """

    def __init__(self, tenants: Tenants, clock: Clock) -> None:
        self._tenants = tenants
        self._clock = clock
        self._known: dict[bytes, tuple[int, ApiKey | None]] = {}
        self._asked: dict[bytes, asyncio.Task[ApiKey | None]] = {}

    async def key(self, authorization: bytes | None) -> ApiKey:
        """The valid key in the header's value.

        Raises:
            Refused: 401, with the challenge that RFC 6750 section 3 asks for.
            Unavailable: the store does not answer.
        """
        digest = _digest(authorization)
        known = self._known.get(digest)
        if known is not None and self._clock.elapsed() - known[0] < TTL:
            key = known[1]
        else:
            key = await self._ask(digest)
        if key is None:
            detail = "this API key is not known; copy it again, or make one: tidings key create"
            raise _unauthorized("invalid_key", detail)
        if key.revoked_at is not None:
            raise _unauthorized("revoked_key", f"the API key {key.prefix}… was revoked; use another one")
        return key

    async def _ask(self, digest: bytes) -> ApiKey | None:
        """Concurrent requests with one key share one question, and a caller that leaves does not end it."""
        asking = self._asked.get(digest)
        if asking is None:
            asking = asyncio.create_task(self._look_up(digest))
            self._asked[digest] = asking
            asking.add_done_callback(lambda asked: self._settle(digest, asked))
        return await asyncio.shield(asking)

    def _settle(self, digest: bytes, asked: asyncio.Task[ApiKey | None]) -> None:
        self._asked.pop(digest, None)
        if not asked.cancelled():
            asked.exception()  # read, so that asyncio does not warn when everyone who asked has left

    async def _look_up(self, digest: bytes) -> ApiKey | None:
        # The age counts from before the question: what the store saw is at least that old.
        asked_at = self._clock.elapsed()
        key = await self._tenants.key(digest)
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        self._known[digest] = (asked_at, key)
        return key


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
    return digest_of(authorization[len(_SCHEME) :].strip())


def _unauthorized(code: str, detail: str) -> Refused:
    return Refused(401, code, detail, headers=[(b"www-authenticate", _CHALLENGE + b', error="invalid_token"')])
