"""The audit: look at every notification once, a minute after it was accepted, and again while it is in flight.

For each minute that is over, the audit compares the number accepted with the number recorded. If less is recorded, the
minute is a gap. If the gap is still open when everything that was queued has arrived, something is missing. Watch
notifications in flight until they rest, and sweep those that are lost (sweep.py).

A notification can be accepted after the minute in its id: a late occurrence of a recurrence, or a repeated request. So
a minute whose accepted count grows after the audit looked at it is marked as a gap (accepted.py), and looked at again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from uuid import uuid4

import structlog
from msgspec import Struct

from tidings.model import topics
from tidings.model.accounting import MINUTE_MS, Gap
from tidings.model.days import DAY_MINUTES
from tidings.pipeline.rounds.passage import Passage, arrived
from tidings.pipeline.rounds.rounds import ROUNDS_MISSED, leave, repeat
from tidings.pipeline.rounds.sweep import Sweeper
from tidings.pipeline.runtime.setting_aside import ASIDE
from tidings.policy.stuck import STUCK_AFTER_MS, next_look
from tidings.ports.clock import Clock
from tidings.ports.meter import AuditMeter
from tidings.ports.objects import Objects
from tidings.ports.queue import Queue
from tidings.ports.renderer import Renderer
from tidings.ports.store import Directory, Shard

ROUND = "audit"
FIRST_MINUTES = 60
"""How far back the very first round begins."""
MOST_MINUTES = 60
"""How many minutes one round looks at, at most. After a long stop the next rounds go on."""
MANY_ASIDE = 1_000
COUNT_MANY_EVERY_MS = 10 * MINUTE_MS
"""Time between two counts of the objects aside, if there are many."""
_BYTES = ".bin"

_log = structlog.get_logger("tidings.audit")


class _Open(Struct):
    """A gap, with the progress of the items that may still close it."""

    gap: Gap
    passage: Passage


class Audit:
    """See the module. One process at a time makes a round every `every_s` seconds; the others stand by."""

    def __init__(
        self,
        directory: Directory,
        shard: Shard,
        queue: Queue,
        renderer: Renderer,
        objects: Objects,
        clock: Clock,
        meter: AuditMeter,
        every_s: float,
    ) -> None:
        self._history = shard.history
        self._accounts = directory.accounts
        self._days = shard.days
        self._watched = shard.watched
        self._rounds = directory.rounds
        self._sweeper = Sweeper(shard, renderer, queue)
        self._queue = queue
        self._objects = objects
        self._holder = uuid4()
        self._every_s = every_s
        self._clock = clock
        self._meter = meter
        self._open: dict[tuple[str, int], _Open] = {}
        self._counted, self._count_at = 0, 0
        self._check_at: dict[tuple[str, int], int] = {}

    async def once(self) -> bool:
        """Make one round; False if another process makes the rounds. Raises Unavailable."""
        now = self._clock.now()
        position = await self._rounds.begin(ROUND, self._holder, ROUNDS_MISSED * self._every_s)
        if position is None:
            self._sweeper.forget()
            self._open.clear()
            self._meter.stand_by()
            return False
        if not await self._walk(position or now // MINUTE_MS - FIRST_MINUTES, now):
            return False
        swept = await self._sweeper.once(now)
        missing = await self._close_gaps(now)
        self._meter.swept(swept.requeued, swept.ended)
        self._meter.found(missing, {"backlog": swept.backlog, "aside": await self._aside(now)}, now)
        return True

    async def run(self, stopping: asyncio.Event) -> None:
        """Make rounds until `stopping` is set, then leave them to other processes."""
        await repeat(ROUND, self.once, self._every_s, stopping, self._clock, self._meter)
        await leave(self._rounds, ROUND, self._holder)

    async def _walk(self, position: int, now: int) -> bool:
        """Look at the minutes that are over, from `position` on; False if another process took over."""
        end = min((now - STUCK_AFTER_MS) // MINUTE_MS, position + MOST_MINUTES)
        for minute in range(position, end):
            accepted = Counter({one.tenant: one.count for one in await self._accounts.accepted(minute, minute + 1)})
            recorded: Counter[str] = Counter()
            for one in await self._history.states(minute, minute + 1, in_flight=True):
                recorded[one.tenant] += one.count
                self._meter.looked(one.tenant, one.state, one.count)
                await self._watched.watch([(id, now) for id in one.ids])
            for tenant in accepted.keys() | recorded.keys():
                self._meter.accepted_in(tenant, max(accepted[tenant], recorded[tenant]))
            await self._accounts.mark_gaps(
                [Gap(tenant, minute, missing) for tenant, missing in (accepted - recorded).items()]
            )
            if not await self._rounds.advance(ROUND, self._holder, minute + 1):
                return False
        return True

    async def _close_gaps(self, now: int) -> dict[str, int]:
        """Check the gaps that no queued item can close any more; the number missing for good, by tenant."""
        gaps = {(gap.tenant, gap.minute): gap for gap in await self._accounts.gaps()}
        for key in self._open.keys() - gaps.keys():
            del self._open[key]
        folded = await self._folded(gaps.values())
        for key, gap in gaps.items():
            if gap.minute // DAY_MINUTES in folded:
                continue  # only the whole day is counted now, so the gap stays as it is
            if key not in self._open and self._check_at.get(key, 0) <= now:
                self._open[key] = _Open(gap, Passage(topics.REQUESTS))
        for one in await arrived(self._queue, list(self._open.values()), _passage):
            key = (one.gap.tenant, one.gap.minute)
            del self._open[key]
            gaps[key] = await self._again(one.gap)
            self._check_at[key] = next_look(now, one.gap.minute * MINUTE_MS, ())
        for key in self._check_at.keys() - gaps.keys():
            del self._check_at[key]
        missing: Counter[str] = Counter()
        for gap in gaps.values():
            missing[gap.tenant] += gap.missing if gap.confirmed else 0
        return dict(missing)

    async def _folded(self, gaps: Collection[Gap]) -> set[int]:
        """The days of these gaps that are folded: only the count of the whole day is known."""
        days = {gap.minute // DAY_MINUTES for gap in gaps}
        return {one.day for one in await self._days.states(min(days), max(days)) if one.folded} if days else set()

    async def _again(self, gap: Gap) -> Gap:
        """The gap, counted anew, now that no queued item can close it."""
        counted = await self._accounts.accepted(gap.minute, gap.minute + 1, gap.tenant)
        if not counted and await self._folded([gap]):
            return gap
        states = await self._history.states(gap.minute, gap.minute + 1, gap.tenant, in_flight=True)
        # A late id was not there at the first look, so nothing may watch it yet.
        await self._watched.watch([(id, self._clock.now()) for one in states for id in one.ids])
        missing = sum(one.count for one in counted) - sum(one.count for one in states)
        counted_anew = Gap(gap.tenant, gap.minute, max(0, missing), confirmed=missing > 0)
        await self._accounts.mark_gaps([counted_anew])
        if missing > 0 and not gap.confirmed:
            _log.error(
                "accepted, and neither recorded nor queued", tenant=gap.tenant, minute=gap.minute, missing=missing
            )
        return counted_anew

    async def _aside(self, now: int) -> int:
        """How many items are aside. If there are many, the number may be ten minutes old."""
        if now < self._count_at:
            return self._counted
        count = 0
        async for name in self._objects.list(ASIDE):
            count += name.endswith(_BYTES)
        self._counted, self._count_at = count, now + (COUNT_MANY_EVERY_MS if count > MANY_ASIDE else 0)
        return count


def _passage(one: _Open) -> Passage:
    return one.passage
