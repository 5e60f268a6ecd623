"""Housekeeping: create partitions for the coming days, and delete expired rows and objects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import structlog

from tidings.model.accounting import MINUTE_MS
from tidings.pipeline.rounds.rounds import repeat
from tidings.pipeline.runtime.setting_aside import ASIDE
from tidings.policy.idempotency import KEPT_MS
from tidings.policy.keeping import Keeping
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.objects import Objects
from tidings.ports.store import Directory, Shard

EVERY_S = 3600.0
"""Seconds between two rounds."""
KEEP_COUNTS_MINUTES = 400 * 24 * 60
"""How long the accepted counts are kept."""
BATCH = 5_000
"""Most rows that one statement deletes, so that its locks are short and its load on the standbys is small."""
MOST_BATCHES = 2_000
"""Most batches of one kind in one round; the next round goes on."""
ROUND = "house"
TRIMMED = "inbox"
"""The round whose position is the minute up to which inboxes were trimmed."""
LEASE_S = 900.0
SLICE_MINUTES = 5
"""The inboxes of users who got an item within one such slice are trimmed together."""

_log = structlog.get_logger("tidings.house")


class Housekeeping:
    """Every worker creates partitions; one worker at a time deletes."""

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
        """Make a round every `EVERY_S` seconds until `stopping` is set."""
        await repeat(ROUND, self.once, EVERY_S, stopping, self._clock, self._meter)

    async def once(self) -> None:
        """Make one round. Raises Unavailable."""
        directory, shard, now, keep = self._directory, self._shard, self._clock.now(), self._keeping
        await shard.history.maintain(now)
        if await directory.rounds.begin(ROUND, self._holder, LEASE_S) is None:
            return
        pruned = {
            "idempotency keys": await self._prune(lambda: directory.idempotency.prune(KEPT_MS, BATCH)),
            "caps": await shard.caps.prune(now),
            "accepted counts": await self._prune(
                lambda: directory.accounts.prune_counts(now // MINUTE_MS - KEEP_COUNTS_MINUTES, BATCH)
            ),
            "gaps": await self._until(keep.gaps_ms, lambda at: directory.accounts.prune_gaps(at // MINUTE_MS, BATCH)),
            "cancellations": await self._until(keep.cancellations_ms, lambda at: shard.cancellations.prune(at, BATCH)),
            "replays": await self._until(keep.replays_ms, lambda at: directory.replays.prune(at, BATCH)),
            "inbox items": await self._until(keep.inbox_ms, lambda at: shard.inbox.prune(at, BATCH)),
            "inbox items beyond the newest": await self._trim(now),
            "items aside": await self._prune_aside(keep.before(keep.aside_ms, now)),
        }
        if any(pruned.values()):
            _log.info("pruned", **{name.replace(" ", "_"): count for name, count in pruned.items() if count})
        await directory.rounds.release(ROUND, self._holder)

    async def _until(self, age_ms: int, prune: Callable[[int], Awaitable[int]]) -> int:
        """Delete rows older than `age_ms`; the number of rows."""
        before = self._keeping.before(age_ms, self._clock.now())
        return await self._prune(lambda: prune(before)) if before else 0

    async def _prune(self, prune: Callable[[], Awaitable[int]]) -> int:
        """Delete batch by batch while there is more and this worker still holds the round; the number of rows."""
        total = 0
        for _ in range(MOST_BATCHES):
            deleted = await prune()
            total += deleted
            if deleted < BATCH or await self._directory.rounds.begin(ROUND, self._holder, LEASE_S) is None:
                break
        return total

    async def _trim(self, now: int) -> int:
        """Delete all but the newest items, for each user who got an item since the last round; the number of items."""
        if not self._keeping.inbox_items:
            return 0
        rounds, end = self._directory.rounds, now // MINUTE_MS
        position = await rounds.begin(TRIMMED, self._holder, LEASE_S)
        if position is None:
            return 0
        total = 0
        for minute in range(position or end - 2 * int(EVERY_S) // 60, end, SLICE_MINUTES):
            since, until = minute * MINUTE_MS, min(end, minute + SLICE_MINUTES) * MINUTE_MS
            total += await self._prune(
                lambda since=since, until=until: self._shard.inbox.trim(  # type: ignore[misc]
                    since, until, self._keeping.inbox_items, BATCH
                )
            )
            if not await rounds.advance(TRIMMED, self._holder, min(end, minute + SLICE_MINUTES)):
                break
        await rounds.release(TRIMMED, self._holder)
        return total

    async def _prune_aside(self, before: int) -> int:
        """Delete objects that were put aside before `before`, by the time in their names; the number of objects."""
        total = 0
        async for name in self._objects.list(ASIDE):
            at = name.rpartition("/")[2].partition("-")[0]
            if before and at.isdecimal() and int(at) < before:
                await self._objects.delete(name)
                total += 1
                if total >= BATCH:
                    break
        return total
