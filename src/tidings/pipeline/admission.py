"""Admission: how much there is to do, looked at while requests come, and who is turned away for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import structlog

from tidings.model import topics
from tidings.model.errors import Overloaded
from tidings.model.vocabulary import Channel, Priority
from tidings.pipeline.group_commit import GroupCommit
from tidings.pipeline.setbacks import Setbacks
from tidings.policy.admission import AdmissionRules, Load, refusal
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue

LOOK_EVERY = 1.0
"""Seconds between two looks at the queues."""
SOONEST, LATEST = 4.0, 10.0
"""Seconds after which those who are turned away are asked to come again; spread, so that they do not come together."""
_IDLE_AFTER = 5_000
_LANES = {topics.deliveries(channel, lane): lane for channel in Channel for lane in Priority}
_log = structlog.get_logger("tidings.admission")

Held: TypeAlias = Callable[[int], Awaitable[Mapping[str, int]]]
"""What waits for providers, by topic, counted up to so many."""


async def nothing_held(_most: int) -> Mapping[str, int]:
    """Nothing waits for a provider."""
    return {}


class Admission:
    """Lets notifications in, or raises Overloaded.

    `critical` and `others` are where they wait for their commit. `randomness` gives numbers from 0 to 1. `held` tells
    what waits for providers, by topic: it is in no queue, and all of it comes back.
    """

    def __init__(
        self,
        queue: Queue,
        critical: GroupCommit,
        others: GroupCommit,
        clock: Clock,
        rules: AdmissionRules,
        randomness: Callable[[], float],
        held: Held = nothing_held,
    ) -> None:
        self._queue = queue
        self._critical = critical
        self._others = others
        self._clock = clock
        self._rules = rules
        self._randomness = randomness
        self._held = held
        self._backlog = dict.fromkeys(Priority, 0)
        self._let_in = dict.fromkeys(Priority, 0)
        self._asked_at = -_IDLE_AFTER
        self._turned_away: Counter[tuple[Priority, str]] = Counter()

    def admit(self, priority: Priority) -> None:
        """Let notifications of this lane in. Raises Overloaded when there is too much to do already."""
        self._asked_at = self._clock.elapsed()
        why = refusal(priority, self._load(), self._rules)
        if why is not None:
            self._turned_away[priority, why] += 1
            retry_after = SOONEST + (LATEST - SOONEST) * self._randomness()
            raise Overloaded(f"{why}; {priority.value} is turned away for now", retry_after)

    def count(self, priority: Priority, number: int) -> None:
        """So many of this lane were let in. They wait, as far as is known, until the next look at the queues."""
        self._backlog[priority] += number
        self._let_in[priority] += number

    def is_open(self) -> bool:
        """Whether everybody is let in: bulk is the first to be turned away."""
        return refusal(Priority.BULK, self._load(), self._rules) is None

    async def watch(self, stopping: asyncio.Event) -> None:
        """Look at the queues for as long as requests come, until `stopping` is set: an idle process asks nothing."""
        setbacks, rest = Setbacks(_log, None, "admission"), LOOK_EVERY
        while not stopping.is_set():
            if self._clock.elapsed() - self._asked_at < _IDLE_AFTER:
                try:
                    await self._look()
                    rest = LOOK_EVERY
                    setbacks.over()
                except Exception as error:
                    rest = max(LOOK_EVERY, setbacks.note(error))
            self._tell()
            await self._clock.sleep(rest)

    def _load(self) -> Load:
        critical, others = self._critical, self._others
        return Load(critical.held + others.held, others.lag, self._backlog)

    async def _look(self) -> None:
        before = dict(self._let_in)
        depths = {priority: await self._depth(priority) for priority in Priority}
        for topic, count in (await self._held(2 * self._rules.backlog)).items():
            if topic in _LANES:
                depths[_LANES[topic]] += count
        self._backlog = {lane: depth + self._let_in[lane] - before[lane] for lane, depth in depths.items()}

    def _tell(self) -> None:
        """Log who was turned away since the last look: a line for each refusal would be a load of its own."""
        for (lane, why), count in self._turned_away.items():
            _log.warning("overloaded", lane=lane.value, turned_away=count, why=why, backlog=self._backlog)
        self._turned_away.clear()

    async def _depth(self, priority: Priority) -> int:
        # In the order in which items move: one that moves meanwhile counts twice rather than not at all.
        depth = await self._queue.depth(topics.requests(priority), topics.ROUTE)
        for channel in Channel:
            depth += await self._queue.depth(topics.deliveries(channel, priority), topics.DELIVER)
        return depth
