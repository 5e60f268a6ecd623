"""Admission: how much there is to do, looked at while requests come, and who is turned away for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import structlog

from tidings.model import topics
from tidings.model.errors import Overloaded
from tidings.model.vocabulary import Channel, Lane, Priority
from tidings.pipeline.accept.group_commit import GroupCommit
from tidings.pipeline.runtime.setbacks import Setbacks
from tidings.policy.admission import AdmissionRules, Load, refusal
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue

LOOK_EVERY = 1.0
"""Seconds between two looks at the queues."""
SOONEST, LATEST = 4.0, 10.0
"""Seconds after which those who are turned away are asked to come again; spread, so that they do not come together."""
_IDLE_AFTER = 5_000
_log = structlog.get_logger("tidings.admission")

Held: TypeAlias = Callable[[int], Awaitable[Mapping[str, int]]]
"""What waits for providers, by topic, counted up to so many."""


async def nothing_held(_most: int) -> Mapping[str, int]:
    """Nothing waits for a provider."""
    return {}


class Commits:
    """Where notifications wait for their commit: no lane for a less urgent one, and no share for the surplus."""

    def __init__(self, queue: Queue, within: float = 0.9) -> None:
        self.critical, self.critical_surplus = GroupCommit(queue, within), GroupCommit(queue, within)
        self.others, self.others_surplus = GroupCommit(queue, within), GroupCommit(queue, within)

    @property
    def held(self) -> int:
        """Items that are not known to be durable yet."""
        return sum(one.held for one in (self.critical, self.critical_surplus, self.others, self.others_surplus))

    def of(self, lane: Lane) -> GroupCommit:
        """That of a lane."""
        if lane.priority is Priority.CRITICAL:
            return self.critical_surplus if lane.is_surplus else self.critical
        return self.others_surplus if lane.is_surplus else self.others


class Admission:
    """Lets notifications in, or raises Overloaded.

    `randomness` gives numbers from 0 to 1. `held` tells what waits for providers, by topic: it is in no queue, and all
    of it comes back.
    """

    def __init__(
        self,
        queue: Queue,
        commits: Commits,
        clock: Clock,
        rules: AdmissionRules,
        randomness: Callable[[], float],
        held: Held = nothing_held,
    ) -> None:
        self._queue = queue
        self._commits = commits
        self._clock = clock
        self._rules = rules
        self._randomness = randomness
        self._held = held
        self._backlog = dict.fromkeys(Lane, 0)
        self._let_in = dict.fromkeys(Lane, 0)
        self._asked_at = -_IDLE_AFTER
        self._turned_away: Counter[tuple[Lane, str]] = Counter()

    def admit(self, lane: Lane) -> None:
        """Let notifications of this lane in. Raises Overloaded when there is too much to do already."""
        self._asked_at = self._clock.elapsed()
        why = self._refusal(lane)
        if why is not None:
            self._turned_away[lane, why] += 1
            retry_after = SOONEST + (LATEST - SOONEST) * self._randomness()
            raise Overloaded(f"{why}; {lane.priority.value} is turned away for now", retry_after)

    def count(self, lane: Lane, number: int) -> None:
        """So many of this lane were let in. They wait, as far as is known, until the next look at the queues."""
        self._backlog[lane] += number
        self._let_in[lane] += number

    def is_open(self) -> bool:
        """Whether everybody is let in: the surplus of bulk is the first to be turned away."""
        return self.takes(Lane.BULK_SURPLUS)

    def takes(self, lane: Lane) -> bool:
        """Whether one more of this lane is let in."""
        return self._refusal(lane) is None

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

    def _refusal(self, lane: Lane) -> str | None:
        load = Load(self._commits.held, self._commits.of(lane).lag, self._backlog)
        return refusal(lane, load, self._rules)

    async def _look(self) -> None:
        before = dict(self._let_in)
        depths = {lane: await self._depth(lane) for lane in Lane}
        backlog = self._rules.backlog
        for topic, count in (await self._held(2 * backlog)).items():
            lane = topics.LANES.get(topic)
            if lane is None:
                continue  # of a later version
            # What comes back together is mostly surplus. It stands in the way of those within their share only when it
            # is half as much again as may wait.
            depths[lane if lane.is_surplus else lane.surplus] += count
            depths[lane] += max(0, count - backlog // 2)
        self._backlog = {lane: depth + self._let_in[lane] - before[lane] for lane, depth in depths.items()}

    def _tell(self) -> None:
        """Log who was turned away since the last look: a line for each refusal would be a load of its own."""
        for (lane, why), count in self._turned_away.items():
            _log.warning("overloaded", lane=lane.value, turned_away=count, why=why, backlog=self._backlog)
        self._turned_away.clear()

    async def _depth(self, lane: Lane) -> int:
        # In the order in which items move: one that moves meanwhile counts twice rather than not at all.
        depth = await self._queue.depth(topics.requests(lane), topics.ROUTE)
        for channel in Channel:
            depth += await self._queue.depth(topics.deliveries(channel, lane), topics.DELIVER)
        return depth
