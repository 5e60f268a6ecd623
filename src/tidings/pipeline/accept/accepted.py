"""Counting the accepted notifications, apart from the history: the audit compares the two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Self
from uuid import UUID

import structlog

from tidings.model.accounting import MINUTE_MS, AcceptedCount, Gap
from tidings.model.errors import Unavailable
from tidings.model.ids import instant_of
from tidings.pipeline.runtime.setbacks import Setbacks
from tidings.policy.stuck import STUCK_AFTER_MS
from tidings.ports.accounts import Accounts
from tidings.ports.clock import Clock

WRITE_EVERY_S = 1.0
"""Pause between two writes. A killed process loses the counts of this time at most; it never counts too much."""
NEW_COUNTER_AFTER_MS = 3_600_000
"""Age at which a new counter replaces the old one, so that the sums in memory do not grow for ever."""

_log = structlog.get_logger("tidings.accepted")


class AcceptedCounter:
    """Counts what this process has accepted, by tenant and minute of the id.

    It writes whole sums, so that writing one twice changes nothing. It counts only durable notifications: if accepted
    exceeds recorded after the queues have drained, something was lost.
    """

    def __init__(self, accounts: Accounts, clock: Clock, new_counter: Callable[[], UUID]) -> None:
        self._accounts = accounts
        self._clock = clock
        self._new_counter = new_counter
        self._counter = new_counter()
        self._begun = clock.now()
        self._counts: dict[tuple[str, int], int] = {}
        self._changed: set[tuple[str, int]] = set()
        self._revisited: set[tuple[str, int]] = set()

    def add(self, tenant: str, ids: Iterable[UUID]) -> None:
        """Count notifications of a tenant that are durable now."""
        for id in ids:
            key = (tenant, instant_of(id) // MINUTE_MS)
            self._counts[key] = self._counts.get(key, 0) + 1
            self._changed.add(key)

    def revisit(self, tenant: str, ids: Iterable[UUID]) -> None:
        """Have the audit look again at notifications that may have been counted before; do not count them."""
        self._revisited |= {(tenant, instant_of(id) // MINUTE_MS) for id in ids}

    async def write(self) -> None:
        """Write the sums that have changed. After an error, such as Unavailable, the next call writes them, too."""
        changed, self._changed = self._changed, set()
        revisited, self._revisited = self._revisited, set()
        try:
            if changed:
                counts = [
                    AcceptedCount(tenant, minute, self._counts[tenant, minute]) for tenant, minute in sorted(changed)
                ]
                await self._count(counts)
            if changed or revisited:
                await self._mark(changed | revisited)
        except BaseException:
            self._changed |= changed
            self._revisited |= revisited
            raise
        if not self._changed and self._clock.now() - self._begun >= NEW_COUNTER_AFTER_MS:
            self._counter, self._begun, self._counts = self._new_counter(), self._clock.now(), {}

    async def _mark(self, again: Collection[tuple[str, int]]) -> None:
        """Mark those minutes as gaps that the audit may have looked at already, so that it looks again."""
        looked_at = (self._clock.now() - STUCK_AFTER_MS) // MINUTE_MS
        late = sorted(key for key in again if key[1] < looked_at)
        await self._accounts.mark_gaps(
            [Gap(tenant, minute, max(1, self._counts.get((tenant, minute), 0))) for tenant, minute in late]
        )

    async def _count(self, counts: Sequence[AcceptedCount]) -> None:
        """Write sums; if one is refused, write the others and raise its error."""
        try:
            await self._accounts.count(self._counter, counts)
        except Unavailable:
            raise
        except Exception:
            if len(counts) == 1:
                raise
            _log.exception("sums were refused; going on one by one", count=len(counts))
        else:
            return
        refused: Exception | None = None
        for count in counts:
            try:
                await self._accounts.count(self._counter, [count])
            except Unavailable:
                raise
            except Exception as error:
                refused = error
        if refused is not None:
            raise refused

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Write every `WRITE_EVERY_S` seconds within the context, and the rest at its end."""
        writing = asyncio.create_task(self._keep_writing())
        try:
            yield self
        finally:
            writing.cancel()
            await asyncio.wait([writing])
            try:
                await self.write()
            except Exception as error:  # do not hide the error that ends the context
                _log.error("the last second's count is lost", why=repr(error))

    async def _keep_writing(self) -> None:
        setbacks = Setbacks(_log, None, "accepted")
        rest_s = WRITE_EVERY_S
        while True:
            await asyncio.sleep(rest_s)
            try:
                await self.write()
                setbacks.over()
                rest_s = WRITE_EVERY_S
            except Exception as error:
                rest_s = max(WRITE_EVERY_S, setbacks.note(error))
