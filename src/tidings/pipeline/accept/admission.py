"""Admission: measure the load while requests come, and refuse the less urgent ones when there is too much to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import structlog

from tidings.model import topics
from tidings.model.errors import Overloaded
from tidings.model.vocabulary import Lane, Priority
from tidings.pipeline.accept.group_commit import GroupCommit
from tidings.pipeline.runtime.setbacks import Setbacks
from tidings.policy.admission import AdmissionRules, Load, refusal
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue

LOOK_EVERY_S = 1.0
"""Pause between two looks at the queues."""
SOONEST_S, LATEST_S = 4.0, 10.0
"""Range of `Retry-After` for refused requests, spread so that they do not all come again together."""
_IDLE_AFTER_MS = 5_000
_log = structlog.get_logger("tidings.admission")

_QUEUES = [(topic, topics.reader_of(topic)) for topic in topics.LANES]
"""Every queue with a lane, in the order of the flow."""

Held: TypeAlias = Callable[[int], Awaitable[Mapping[str, int]]]
"""How many deliveries are held for providers, by topic; the argument bounds the count."""


async def nothing_held(_most: int) -> Mapping[str, int]:
    """No delivery is held."""
    return {}


class Commits:
    """The group commits: critical items never wait for others, nor items within a share for surplus."""

    def __init__(self, queue: Queue, within_s: float = 0.9) -> None:
        self.critical, self.critical_surplus = GroupCommit(queue, within_s), GroupCommit(queue, within_s)
        self.others, self.others_surplus = GroupCommit(queue, within_s), GroupCommit(queue, within_s)

    @property
    def held(self) -> int:
        """Items that are not known to be durable yet."""
        return sum(commit.held for commit in (self.critical, self.critical_surplus, self.others, self.others_surplus))

    def of(self, lane: Lane) -> GroupCommit:
        """The group commit of a lane."""
        if lane.priority is Priority.CRITICAL:
            return self.critical_surplus if lane.is_surplus else self.critical
        return self.others_surplus if lane.is_surplus else self.others


class Admission:
    """Lets notifications in, or raises Overloaded.

    `randomness` gives numbers from 0 to 1. `held` counts the deliveries that wait for providers, by topic: they are in
    no queue now, but all of them come back.
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
        self._asked_at = -_IDLE_AFTER_MS
        self._turned_away: Counter[tuple[Lane, str]] = Counter()

    def admit(self, lane: Lane) -> None:
        """Let notifications of this lane in. Raises Overloaded if there is too much to do."""
        self._asked_at = self._clock.elapsed()
        why = self._refusal(lane)
        if why is not None:
            self._turned_away[lane, why] += 1
            retry_after = SOONEST_S + (LATEST_S - SOONEST_S) * self._randomness()
            raise Overloaded(f"{why}; {lane.priority.value} is turned away for now", retry_after)

    def count(self, lane: Lane, number: int) -> None:
        """Add `number` accepted items to the lane's backlog, until the next look at the queues measures it."""
        self._backlog[lane] += number
        self._let_in[lane] += number

    def is_open(self) -> bool:
        """Whether every lane is let in. The surplus of bulk is the first to be refused."""
        return self.takes(Lane.BULK_SURPLUS)

    def takes(self, lane: Lane) -> bool:
        """Whether one more notification of this lane is let in."""
        return self._refusal(lane) is None

    async def watch(self, stopping: asyncio.Event) -> None:
        """Look at the queues while requests come, until `stopping` is set. An idle process does not look."""
        setbacks, rest_s = Setbacks(_log, None, "admission"), LOOK_EVERY_S
        while not stopping.is_set():
            if self._clock.elapsed() - self._asked_at < _IDLE_AFTER_MS:
                try:
                    await self._look()
                    rest_s = LOOK_EVERY_S
                    setbacks.over()
                except Exception as error:
                    rest_s = max(LOOK_EVERY_S, setbacks.note(error))
            self._log_refusals()
            await self._clock.sleep(rest_s)

    def _refusal(self, lane: Lane) -> str | None:
        load = Load(self._commits.held, self._commits.of(lane).lag, self._backlog)
        return refusal(lane, load, self._rules)

    async def _look(self) -> None:
        before = dict(self._let_in)
        depths = dict.fromkeys(Lane, 0)
        for (topic, _), depth in zip(_QUEUES, await self._queue.depths(_QUEUES), strict=True):
            depths[topics.LANES[topic]] += depth
        backlog = self._rules.backlog
        for topic, count in (await self._held(2 * backlog)).items():
            lane = topics.LANES.get(topic)
            if lane is None:
                continue  # a topic of a later version
            # Held deliveries come back together, mostly as surplus. They count against the lane itself only as far as
            # they exceed half of the backlog that may wait.
            depths[lane if lane.is_surplus else lane.surplus] += count
            depths[lane] += max(0, count - backlog // 2)
        self._backlog = {lane: depth + self._let_in[lane] - before[lane] for lane, depth in depths.items()}

    def _log_refusals(self) -> None:
        """Log the refusals since the last look, one line per lane and reason: a line for each would add to the load."""
        for (lane, why), count in self._turned_away.items():
            _log.warning("overloaded", lane=lane.value, turned_away=count, why=why, backlog=self._backlog)
        self._turned_away.clear()
