"""The depths of the queues, counted by one process for all."""

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
    """Counts the items of every queue each `EVERY_S` seconds, in one process at a time; the others stand by."""

    def __init__(self, queue: Queue, rounds: Rounds, clock: Clock, meter: DepthMeter) -> None:
        self._queue = queue
        self._rounds = rounds
        self._clock = clock
        self._meter = meter
        self._holder = uuid4()

    async def once(self) -> bool:
        """Count once; False if another process makes the rounds. Raises Unavailable."""
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
        """Make rounds until `stopping` is set, then leave them to other processes."""
        await repeat(ROUND, self.once, EVERY_S, stopping, self._clock, self._meter)
        await leave(self._rounds, ROUND, self._holder)
