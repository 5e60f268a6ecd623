"""What the store needs now and then: partitions for the days to come, and an end for what is kept for a time only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import structlog

from tidings.model.accounting import MINUTE_MS
from tidings.pipeline.rounds.rounds import repeat
from tidings.policy.idempotency import KEPT_MS
from tidings.policy.keeping import Keeping
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.objects import Objects
from tidings.ports.store import Directory, Shard

EVERY = 3600.0
"""Seconds between two rounds."""
KEEP_COUNTS = 400 * 24 * 60
"""Minutes for which the counts of what was accepted are kept."""
BATCH = 5_000
"""Rows that one statement deletes at most: its locks are short, and what it makes the standbys do is little."""
MOST_BATCHES = 2_000
"""Batches of one kind in one round; the next round goes on."""
ROUND = "house"
TRIMMED = "inbox"
"""The round whose position is the minute up to which inboxes were trimmed."""
LEASE = 900.0
SLICE = 5
"""Minutes: the users who got an item within so long are looked at together."""
ASIDE = "aside/"

_log = structlog.get_logger("tidings.house")


class Housekeeping:
    """One worker at a time sweeps; every worker makes sure of the partitions."""

    def __init__(
        self, directory: Directory, shard: Shard, objects: Objects, clock: Clock, meter: Meter, keeping: Keeping
    ) -> None:
        self._directory = directory
        self._shard = shard
        self._objects = objects
        self._clock = clock
        self._meter = meter
        self._keeping = keeping
        self._holder = uuid4()

    async def run(self, stopping: asyncio.Event) -> None:
        """Make a round every `EVERY` seconds until `stopping` is set."""
        await repeat(ROUND, self.once, EVERY, stopping, self._clock, self._meter)

    async def once(self) -> None:
        """Make one round. Raises Unavailable."""
        directory, shard, now, keep = self._directory, self._shard, self._clock.now(), self._keeping
        await shard.history.maintain(now)
        if await directory.rounds.begin(ROUND, self._holder, LEASE) is None:
            return
        swept = {
            "idempotency keys": await self._sweep(lambda: directory.idempotency.sweep(KEPT_MS, BATCH)),
            "caps": await shard.caps.sweep(now),
            "accepted counts": await directory.accounts.forget(now // MINUTE_MS - KEEP_COUNTS),
            "gaps": await self._until(keep.gaps_ms, lambda at: directory.accounts.sweep_gaps(at // MINUTE_MS, BATCH)),
            "cancellations": await self._until(keep.cancellations_ms, lambda at: shard.cancellations.sweep(at, BATCH)),
            "replays": await self._until(keep.replays_ms, lambda at: directory.replays.sweep(at, BATCH)),
            "inbox items": await self._until(keep.inbox_ms, lambda at: shard.inbox.sweep(at, BATCH)),
            "inbox items beyond the newest": await self._trim(now),
            "items aside": await self._sweep_aside(keep.before(keep.aside_ms, now)),
        }
        if any(swept.values()):
            _log.info("swept", **{name.replace(" ", "_"): count for name, count in swept.items() if count})
        await directory.rounds.release(ROUND, self._holder)

    async def _until(self, age: int, sweep: Callable[[int], Awaitable[int]]) -> int:
        before = self._keeping.before(age, self._clock.now())
        return await self._sweep(lambda: sweep(before)) if before else 0

    async def _sweep(self, sweep: Callable[[], Awaitable[int]]) -> int:
        """Sweep batch by batch while there is more, and this worker still has the round."""
        total = 0
        for _ in range(MOST_BATCHES):
            deleted = await sweep()
            total += deleted
            if deleted < BATCH or await self._directory.rounds.begin(ROUND, self._holder, LEASE) is None:
                break
        return total

    async def _trim(self, now: int) -> int:
        """Delete what is beyond each user's newest items, of the users who got one since the last time."""
        if not self._keeping.inbox_items:
            return 0
        rounds, end = self._directory.rounds, now // MINUTE_MS
        position = await rounds.begin(TRIMMED, self._holder, LEASE)
        if position is None:
            return 0
        total = 0
        for minute in range(position or end - 2 * int(EVERY) // 60, end, SLICE):
            since, until = minute * MINUTE_MS, min(end, minute + SLICE) * MINUTE_MS
            total += await self._sweep(
                lambda since=since, until=until: self._shard.inbox.trim(  # type: ignore[misc]
                    since, until, self._keeping.inbox_items, BATCH
                )
            )
            if not await rounds.advance(TRIMMED, self._holder, min(end, minute + SLICE)):
                break
        await rounds.release(TRIMMED, self._holder)
        return total

    async def _sweep_aside(self, before: int) -> int:
        """Delete what was put aside before this instant, which its name tells."""
        total = 0
        async for name in self._objects.list(ASIDE):
            at = name.rpartition("/")[2].partition("-")[0]
            if before and at.isdecimal() and int(at) < before:
                await self._objects.delete(name)
                total += 1
                if total >= BATCH:
                    break
        return total
