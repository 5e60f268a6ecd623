"""The audit: every notification is looked at once, a minute after it was accepted, and what is in flight again.

Each minute that is over is counted: what was accepted against what is recorded, and in which states. A minute of which
less is recorded is a gap; when everything that was queued has arrived and it is still open, something is missing. What
is in flight is watched until it rests, and swept when it is lost (sweep.py).

An id can be younger than its minute: an occurrence of a recurrence that is sent late, a request that is made again. So
a minute of which more is counted after it was looked at is looked at again, as a gap (accepted.py marks it).
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
from tidings.policy.stuck import STILL_FOR_MS, next_look
from tidings.ports.clock import Clock
from tidings.ports.meter import AuditMeter
from tidings.ports.objects import Objects
from tidings.ports.queue import Queue
from tidings.ports.renderer import Renderer
from tidings.ports.store import Directory, Shard

ROUND = "audit"
FIRST = 60
"""Minutes: how far back the first round ever begins."""
MOST_MINUTES = 60
"""Minutes that one round walks at most; after a long stop the next ones go on."""
ASIDE = "aside/"
MANY_ASIDE = 1_000
COUNT_MANY_EVERY = 10 * MINUTE_MS
"""Milliseconds between two counts of what is aside, when it is much."""
_BYTES = ".bin"

_log = structlog.get_logger("tidings.audit")


class _Open(Struct):
    """A gap that is followed through the queues."""

    gap: Gap
    passage: Passage


class Audit:
    """See the module. One process at a time makes a round `every` so many seconds; the others stand by."""

    def __init__(
        self,
        directory: Directory,
        shard: Shard,
        queue: Queue,
        renderer: Renderer,
        objects: Objects,
        clock: Clock,
        meter: AuditMeter,
        every: float,
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
        self._every = every
        self._clock = clock
        self._meter = meter
        self._open: dict[tuple[str, int], _Open] = {}
        self._counted, self._count_at = 0, 0
        self._check_at: dict[tuple[str, int], int] = {}

    async def once(self) -> bool:
        """Make one round; False when another process makes them. Raises Unavailable."""
        now = self._clock.now()
        position = await self._rounds.begin(ROUND, self._holder, ROUNDS_MISSED * self._every)
        if position is None:
            self._sweeper.forget()
            self._open.clear()
            self._meter.stand_by()
            return False
        if not await self._walk(position or now // MINUTE_MS - FIRST, now):
            return False
        swept = await self._sweeper.once(now)
        missing = await self._close_gaps(now)
        self._meter.swept(swept.requeued, swept.ended)
        self._meter.found(missing, {"backlog": swept.backlog, "aside": await self._aside(now)}, now)
        return True

    async def run(self, stopping: asyncio.Event) -> None:
        """Make a round now and then until `stopping` is set, then leave them to others."""
        await repeat(ROUND, self.once, self._every, stopping, self._clock, self._meter)
        await leave(self._rounds, ROUND, self._holder)

    async def _walk(self, position: int, now: int) -> bool:
        """Count the minutes that are over since `position`; False when another process took over."""
        end = min((now - STILL_FOR_MS) // MINUTE_MS, position + MOST_MINUTES)
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
        """Look again at each gap through which all that was queued has passed; what is missing for good, by tenant."""
        gaps = {(gap.tenant, gap.minute): gap for gap in await self._accounts.gaps()}
        for key in self._open.keys() - gaps.keys():
            del self._open[key]
        folded = await self._folded(gaps.values())
        for key, gap in gaps.items():
            if gap.minute // DAY_MINUTES in folded:
                continue  # its minutes are not counted apart any more: what is missing stays so
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
        """Those of the gaps' days of which only the whole is known."""
        days = {gap.minute // DAY_MINUTES for gap in gaps}
        return {one.day for one in await self._days.states(min(days), max(days)) if one.folded} if days else set()

    async def _again(self, gap: Gap) -> Gap:
        """The gap as it is now that nothing queued can close it."""
        counted = await self._accounts.accepted(gap.minute, gap.minute + 1, gap.tenant)
        if not counted and await self._folded([gap]):
            return gap
        states = await self._history.states(gap.minute, gap.minute + 1, gap.tenant, in_flight=True)
        # Of a late id this may be the first look.
        await self._watched.watch([(id, self._clock.now()) for one in states for id in one.ids])
        missing = sum(one.count for one in counted) - sum(one.count for one in states)
        found = Gap(gap.tenant, gap.minute, max(0, missing), confirmed=missing > 0)
        await self._accounts.mark_gaps([found])
        if missing > 0 and not gap.confirmed:
            _log.error(
                "accepted, and neither recorded nor queued", tenant=gap.tenant, minute=gap.minute, missing=missing
            )
        return found

    async def _aside(self, now: int) -> int:
        """How many items were put aside because they could not be read; if many, as of some minutes ago."""
        if now < self._count_at:
            return self._counted
        count = 0
        async for name in self._objects.list(ASIDE):
            count += name.endswith(_BYTES)
        self._counted, self._count_at = count, now + (COUNT_MANY_EVERY if count > MANY_ASIDE else 0)
        return count


def _passage(one: _Open) -> Passage:
    return one.passage
