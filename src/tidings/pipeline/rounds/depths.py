"""How much waits in each queue and how old the oldest of it is, looked at by one process for all.

Queues do not say when an item was put. But if not everything that was in a queue at an earlier look is done, something
has waited since then. So the age is that of the earliest such look: exact to the time between two looks, never too old.
"""

from __future__ import annotations

import asyncio
from uuid import uuid4

from msgspec import Struct

from tidings.model import topics
from tidings.pipeline.rounds.rounds import ROUNDS_MISSED, leave, repeat
from tidings.ports.accounts import Rounds
from tidings.ports.clock import Clock
from tidings.ports.meter import DepthMeter
from tidings.ports.queue import Extent, Queue

EVERY_S = 10.0
ROUND = "depths"
MOST_LOOKS = 100
"""Most looks that are remembered of a queue. With more, every second one is forgotten: an old age may be less exact."""


class _Look(Struct, frozen=True, gc=False):
    """The extent of a queue at `at`, in milliseconds of a clock that only goes forward."""

    at: int
    extent: Extent


class Depths:
    """Looks at every queue each `EVERY_S` seconds, in one process at a time; the others stand by."""

    def __init__(self, queue: Queue, rounds: Rounds, clock: Clock, meter: DepthMeter) -> None:
        self._queue = queue
        self._rounds = rounds
        self._clock = clock
        self._meter = meter
        self._holder = uuid4()
        self._looks: dict[tuple[str, str], list[_Look]] = {}

    async def once(self) -> bool:
        """Look once; False if another process makes the rounds. Raises Unavailable."""
        if await self._rounds.begin(ROUND, self._holder, ROUNDS_MISSED * EVERY_S) is None:
            self._looks.clear()
            self._meter.waiting(None)
            return False
        looked: dict[str, tuple[int, float]] = {}
        queues = [(topic, group) for topic, groups in topics.subscriptions().items() for group in groups]
        for (topic, group), depth in zip(queues, await self._queue.depths(queues), strict=True):
            all_groups, oldest_s = looked.get(topic, (0, 0.0))
            looked[topic] = all_groups + depth, max(oldest_s, await self._age_s(topic, group, depth))
        self._meter.waiting(looked)
        return True

    async def _age_s(self, topic: str, group: str, depth: int) -> float:
        """How many seconds the oldest of `depth` items has waited at least."""
        if not depth:
            self._looks.pop((topic, group), None)
            return 0.0
        now, extent = self._clock.elapsed(), await self._queue.extent(topic, group)
        known = self._looks.get((topic, group), [])
        looks = [look for look in known if not extent.covers(look.extent)]
        if len(looks) >= MOST_LOOKS:
            del looks[1::2]
        looks.append(_Look(now, extent))
        self._looks[topic, group] = looks
        return (now - looks[0].at) / 1000

    async def run(self, stopping: asyncio.Event) -> None:
        """Make rounds until `stopping` is set, then leave them to other processes."""
        await repeat(ROUND, self.once, EVERY_S, stopping, self._clock, self._meter)
        await leave(self._rounds, ROUND, self._holder)
