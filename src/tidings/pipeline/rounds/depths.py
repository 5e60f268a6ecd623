"""How much waits in each queue, counted by one process for all."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from tidings.model import topics
from tidings.pipeline.rounds.rounds import ROUNDS_MISSED, leave, repeat
from tidings.ports.accounts import Rounds
from tidings.ports.clock import Clock
from tidings.ports.meter import DepthMeter
from tidings.ports.queue import Queue

EVERY_S = 10.0
ROUND = "depths"


class Depths:
    """One process at a time counts, every EVERY_S seconds; the others stand by."""

    def __init__(self, queue: Queue, rounds: Rounds, clock: Clock, meter: DepthMeter) -> None:
        self._queue = queue
        self._rounds = rounds
        self._clock = clock
        self._meter = meter
        self._holder = uuid4()

    async def once(self) -> bool:
        """Count once; False when another process does. Raises Unavailable."""
        if await self._rounds.begin(ROUND, self._holder, ROUNDS_MISSED * EVERY_S) is None:
            self._meter.waiting(None)
            return False
        depths = {
            topic: sum([await self._queue.depth(topic, group) for group in groups])
            for topic, groups in topics.subscriptions().items()
        }
        self._meter.waiting(depths)
        return True

    async def run(self, stopping: asyncio.Event) -> None:
        """Count now and then until `stopping` is set, then leave it to others."""
        await repeat(ROUND, self.once, EVERY_S, stopping, self._clock, self._meter)
        await leave(self._rounds, ROUND, self._holder)
