"""Looking up which users exist while a request is accepted: the sender learns at once of an unknown user.

The notification notes the user's incarnation, so that a later user with the same id never gets it. Concurrent requests
share one look-up: while one is under way, the next ones gather. If the store does not answer, requests are accepted
without the look-up, and `route` makes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import TypeAlias

import structlog

from tidings.model.errors import Unavailable
from tidings.ports.clock import Clock
from tidings.ports.users import Users

ANSWER_WITHIN_S = 0.5
"""How long a look-up may take: a request must not fail because the store is slow."""
SILENCE_MS = 1_000
"""How long no look-up is made after the store did not answer."""

Known: TypeAlias = Mapping[str, int] | None
"""The incarnations of the existing users among those looked up, by user id; None: the store did not answer."""

_log = structlog.get_logger("tidings.recipients")


class Recipients:
    """Looks users up for many concurrent callers."""

    def __init__(self, users: Users, clock: Clock) -> None:
        self._users = users
        self._clock = clock
        self._waiting: dict[str, set[str]] = {}
        self._next: asyncio.Task[Mapping[str, Known]] | None = None
        self._last: asyncio.Task[Mapping[str, Known]] | None = None
        self._silent_until = 0

    async def known(self, tenant: str, user_ids: Collection[str]) -> Known:
        """The incarnations of the existing users among the tenant's `user_ids`; None: the store did not answer."""
        if not user_ids:
            return {}
        self._waiting.setdefault(tenant, set()).update(user_ids)
        if self._next is None:
            self._next = asyncio.create_task(self._ask(self._last))
        found = (await asyncio.shield(self._next))[tenant]
        return None if found is None else {user_id: found[user_id] for user_id in user_ids if user_id in found}

    async def _ask(self, before: asyncio.Task[Mapping[str, Known]] | None) -> Mapping[str, Known]:
        """Wait for the look-up `before`, then look up all users that gathered meanwhile."""
        if before is not None:
            await asyncio.wait([before])
        asked, self._waiting = self._waiting, {}
        self._last, self._next = self._next, None
        return {tenant: await self._of(tenant, user_ids) for tenant, user_ids in asked.items()}

    async def _of(self, tenant: str, user_ids: Collection[str]) -> Known:
        if self._clock.elapsed() < self._silent_until:
            return None
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await self._users.known(tenant, sorted(user_ids))
        except (Unavailable, TimeoutError) as error:
            self._silent_until = self._clock.elapsed() + SILENCE_MS
            why = str(error) or "no answer in time"
            _log.warning("users cannot be looked up; requests are accepted without that", why=why)
            return None
