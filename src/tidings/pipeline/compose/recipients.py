"""Who exists: asked when a request is accepted, so that a sender is told at once, and a user's successor gets nothing.

Concurrent requests share one question: while one is under way the next ones gather. When the store does not answer, it
is not known who exists. Then a request is taken unseen, and `route` looks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import TypeAlias

import structlog

from tidings.model.errors import Unavailable
from tidings.ports.clock import Clock
from tidings.ports.users import Users

WITHIN = 0.5
"""Seconds that a question may take; a request must not fail because the store is slow."""
AFTER_SILENCE = 1_000
"""Milliseconds in which nothing is asked after the store did not answer."""

Known: TypeAlias = Mapping[str, int] | None
"""The incarnations of the users that exist, of those that were asked for; None: the store does not answer."""

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
        """Those of the tenant's `user_ids` that exist."""
        if not user_ids:
            return {}
        self._waiting.setdefault(tenant, set()).update(user_ids)
        if self._next is None:
            self._next = asyncio.create_task(self._ask(self._last))
        found = (await asyncio.shield(self._next))[tenant]
        return None if found is None else {user_id: found[user_id] for user_id in user_ids if user_id in found}

    async def _ask(self, before: asyncio.Task[Mapping[str, Known]] | None) -> Mapping[str, Known]:
        """Ask for all that gathered until the question before this one was answered."""
        if before is not None:
            await asyncio.wait([before])
        asked, self._waiting = self._waiting, {}
        self._last, self._next = self._next, None
        return {tenant: await self._of(tenant, user_ids) for tenant, user_ids in asked.items()}

    async def _of(self, tenant: str, user_ids: Collection[str]) -> Known:
        if self._clock.elapsed() < self._silent_until:
            return None
        try:
            async with asyncio.timeout(WITHIN):
                return await self._users.known(tenant, sorted(user_ids))
        except (Unavailable, TimeoutError) as error:
            self._silent_until = self._clock.elapsed() + AFTER_SILENCE
            _log.warning("users cannot be looked up; requests are taken unseen", why=str(error) or "no answer in time")
            return None
