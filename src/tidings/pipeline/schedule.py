"""schedule: what was told to wait goes back into its queue when it is due."""

from __future__ import annotations

import asyncio

import msgspec

from tidings.pipeline.sharing import shared_out
from tidings.pipeline.stage import REPEATED
from tidings.pipeline.waking import keep_moving
from tidings.policy.shares import ShareRules, Shares
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.queue import Queue
from tidings.ports.schedule import Schedule as ScheduleStore

BATCH = 1_000
LEASE = 30.0


class Schedule:
    """Moves due rows. A crash between put and settle puts a row again, marked as repeated.

    What falls due together counts as what is sent together: it has its tenant's share of the lane.
    """

    def __init__(
        self, store: ScheduleStore, queue: Queue, clock: Clock, meter: Meter, shares: Shares | None = None
    ) -> None:
        self._store = store
        self._queue = queue
        self._shares = shares or Shares(ShareRules())
        self._clock = clock
        self._meter = meter

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set."""
        await keep_moving("schedule", self.once, self._store.next_due, BATCH, self._clock, self._meter, stopping)

    async def once(self) -> int:
        """Move what is due now; the number of rows."""
        due = await self._store.due(self._clock.now(), BATCH, LEASE)
        if not due:
            return 0
        items = [
            msgspec.structs.replace(row.item, headers={**row.item.headers, REPEATED: "1"}) if row.again else row.item
            for row in due
        ]
        await self._queue.put(shared_out(items, self._shares, self._clock.elapsed()))
        await self._store.settle([row.id for row in due])
        self._meter.batch("schedule", "", len(due), 0.0)
        return len(due)
