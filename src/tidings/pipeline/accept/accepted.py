"""Counting what was answered with 202, apart from the history: what the accounts are held against."""

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
from tidings.policy.stuck import STILL_FOR_MS
from tidings.ports.accounts import Accounts
from tidings.ports.clock import Clock

WRITE_EVERY = 1.0
"""Seconds. A process that is killed has counted this much too little at most, never too much."""
TURN_AFTER = 3_600_000
"""Milliseconds after which a counter makes place for a new one, so that it does not grow."""

_log = structlog.get_logger("tidings.accepted")


class AcceptedCounter:
    """What this process has accepted, by tenant and minute of the id.

    It keeps sums and writes them whole, so that writing one twice changes nothing. What it counts is durable already,
    so that more counted than recorded, for longer than a queue holds it, is a loss.
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
        """These were made durable for the tenant."""
        for id in ids:
            key = (tenant, instant_of(id) // MINUTE_MS)
            self._counts[key] = self._counts.get(key, 0) + 1
            self._changed.add(key)

    def revisit(self, tenant: str, ids: Iterable[UUID]) -> None:
        """These may have been made durable, and counted, before: they are not counted, but looked at."""
        self._revisited |= {(tenant, instant_of(id) // MINUTE_MS) for id in ids}

    async def write(self) -> None:
        """Keep what has changed. Raises Unavailable; then the next one writes it, too."""
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
        if not self._changed and self._clock.now() - self._begun >= TURN_AFTER:
            self._counter, self._begun, self._counts = self._new_counter(), self._clock.now(), {}

    async def _mark(self, again: Collection[tuple[str, int]]) -> None:
        """Have the audit look again at the minutes that it may have looked at before these were put."""
        looked_at = (self._clock.now() - STILL_FOR_MS) // MINUTE_MS
        late = sorted(key for key in again if key[1] < looked_at)
        await self._accounts.mark_gaps(
            [Gap(tenant, minute, max(1, self._counts.get((tenant, minute), 0))) for tenant, minute in late]
        )

    async def _count(self, counts: Sequence[AcceptedCount]) -> None:
        """Write sums; one that is refused stays unwritten, and the others do not."""
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
        """Write every second for as long as the context lasts, and what is left at its end."""
        writing = asyncio.create_task(self._keep_writing())
        try:
            yield self
        finally:
            writing.cancel()
            await asyncio.wait([writing])
            try:
                await self.write()
            except Exception as error:  # whatever ends the context is more important
                _log.error("the last second's count is lost", why=repr(error))

    async def _keep_writing(self) -> None:
        setbacks = Setbacks(_log, None, "accepted")
        rest = WRITE_EVERY
        while True:
            await asyncio.sleep(rest)
            try:
                await self.write()
                setbacks.over()
                rest = WRITE_EVERY
            except Exception as error:
                rest = max(WRITE_EVERY, setbacks.note(error))
