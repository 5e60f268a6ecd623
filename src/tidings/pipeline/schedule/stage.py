"""schedule: what was told to wait goes back into its queue when it is due."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import msgspec
import structlog

from tidings.model.errors import Unavailable
from tidings.pipeline.runtime.reader import REPEATED
from tidings.pipeline.runtime.setting_aside import set_aside
from tidings.pipeline.runtime.sharing import shared_out
from tidings.pipeline.schedule.waking import Lease, keep_moving
from tidings.policy.shares import ShareRules, Shares
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.objects import Objects
from tidings.ports.queue import Item, Queue
from tidings.ports.schedule import Schedule as ScheduleStore
from tidings.ports.schedule import Scheduled

BATCH = 1_000
LEASE = 30.0
STAGE = "schedule"
_log = structlog.get_logger("tidings.schedule")


class Schedule:
    """Moves due rows. A crash between put and settle puts a row again, marked as repeated.

    A row that no queue takes goes aside. What falls due together counts as what is sent together: it has its tenant's
    share of the lane.
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
        """Move what is due now; the number of rows."""
        lease = Lease(LEASE, self._clock)
        due = await self._store.due(self._clock.now(), BATCH, LEASE)
        if not due:
            return 0
        # Whoever stood still for too long leaves the rows to others, who mark what they put.
        lease.check()
        items = shared_out([_item(row) for row in due], self._shares, self._clock.elapsed())
        try:
            await self._queue.put(items)
        except Unavailable:
            raise
        except Exception:
            _log.exception("rows were refused; going on one by one", count=len(due))
            await self._store.settle(await self._one_by_one(due, items, lease))
        else:
            await self._store.settle([row.id for row in due])
        self._meter.batch(STAGE, "", len(due), 0.0)
        return len(due)

    async def _one_by_one(self, due: Sequence[Scheduled], items: Sequence[Item], lease: Lease) -> list[UUID]:
        """Put what can be put, and the rest aside; the rows that are over."""
        over: list[UUID] = []
        for row, item in zip(due, items, strict=True):
            lease.check()
            try:
                await self._queue.put([item])
            except Unavailable:
                raise
            except Exception as error:
                if not await set_aside(
                    self._aside, self._clock, self._meter, STAGE, item.topic, item.key, item.body, repr(error)
                ):
                    continue  # its lease brings it again
            over.append(row.id)
        return over


def _item(row: Scheduled) -> Item:
    if not row.again:
        return row.item
    return msgspec.structs.replace(row.item, headers={**row.item.headers, REPEATED: "1"})
