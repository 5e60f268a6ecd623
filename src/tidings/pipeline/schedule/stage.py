"""schedule: put the items of the schedule's rows back into their queues when they are due."""

from __future__ import annotations

import asyncio
from uuid import UUID

import structlog

from tidings.pipeline.runtime.setting_aside import set_aside
from tidings.pipeline.schedule.putting import as_copy, put_each
from tidings.pipeline.schedule.waking import Lease, keep_moving
from tidings.policy.shares import ShareRules, Shares
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.objects import Objects
from tidings.ports.queue import Item, Queue
from tidings.ports.schedule import Schedule as ScheduleStore
from tidings.ports.schedule import Scheduled

BATCH = 1_000
LEASE_S = 30.0
STAGE = "schedule"
_log = structlog.get_logger("tidings.schedule")


class Schedule:
    """Moves due rows into their queues. After a crash between put and settle the item is put again, marked as repeated.

    An item that its queue refuses goes aside. Due items count against their tenant's share of the lane, like items that
    the tenant sends at that moment.
    """

    def __init__(
        self,
        store: ScheduleStore,
        queue: Queue,
        aside: Objects,
        clock: Clock,
        meter: Meter,
        shares: Shares | None = None,
    ) -> None:
        self._store = store
        self._queue = queue
        self._aside = aside
        self._shares = shares or Shares(ShareRules())
        self._clock = clock
        self._meter = meter

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set."""
        await keep_moving("schedule", self.once, self._store.next_due, BATCH, self._clock, self._meter, stopping)

    async def once(self) -> int:
        """Move the rows that are due now; their number."""
        lease = Lease(LEASE_S, self._clock)
        due = await self._store.due(self._clock.now(), BATCH, LEASE_S)
        if not due:
            return 0
        # After a long standstill leave the rows to other processes. They will mark the items as repeated.
        lease.check()
        items = [_item(row) for row in due]
        over: list[UUID] = []
        for row, why in zip(due, await put_each(items, self._queue, self._shares, self._clock, lease), strict=True):
            # A row whose item cannot be put anywhere is due again when its lease ends.
            if why is None or await self._set_aside(row, why):
                over.append(row.id)
        await self._store.settle(over)
        self._meter.batch(STAGE, "", len(due), 0.0)
        return len(due)

    async def _set_aside(self, row: Scheduled, why: str) -> bool:
        item = row.item
        return await set_aside(self._aside, self._clock, self._meter, STAGE, item.topic, item.key, item.body, why)


def _item(row: Scheduled) -> Item:
    return as_copy(row.item) if row.repeated else row.item
