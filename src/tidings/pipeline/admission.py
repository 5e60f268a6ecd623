"""Admission: how much there is to do, looked at while requests come, and who is turned away for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from tidings.model import topics
from tidings.model.errors import Overloaded, Unavailable
from tidings.model.vocabulary import Channel, Priority
from tidings.pipeline.group_commit import GroupCommit
from tidings.policy.admission import AdmissionRules, Load, refusal
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue

LOOK_EVERY = 1.0
"""Seconds between two looks at the queues."""
_IDLE_AFTER = 5_000
_RETRY_AFTER = 5.0
_log = structlog.get_logger("tidings.admission")


class Admission:
    """Lets notifications in, or raises Overloaded."""

    def __init__(self, queue: Queue, commits: GroupCommit, clock: Clock, rules: AdmissionRules) -> None:
        self._queue = queue
        self._commits = commits
        self._clock = clock
        self._rules = rules
        self._backlog: Mapping[Priority, int] = {}
        self._asked_at = -_IDLE_AFTER

    def admit(self, priority: Priority) -> None:
        """Let a notification of this lane in. Raises Overloaded when there is too much to do already."""
        self._asked_at = self._clock.elapsed()
        commits = self._commits
        why = refusal(priority, Load(commits.held, commits.lag, self._backlog), self._rules)
        if why is not None:
            raise Overloaded(f"{why}; {priority.value} is turned away for now", _RETRY_AFTER)

    async def watch(self, stopping: asyncio.Event) -> None:
        """Look at the queues for as long as requests come, until `stopping` is set: an idle process asks nothing."""
        while not stopping.is_set():
            if self._clock.elapsed() - self._asked_at < _IDLE_AFTER:
                try:
                    self._backlog = {priority: await self._depth(priority) for priority in Priority}
                except Unavailable as error:
                    _log.warning("the backlog is unknown", why=str(error))
            await self._clock.sleep(LOOK_EVERY)

    async def _depth(self, priority: Priority) -> int:
        depth = await self._queue.depth(topics.requests(priority), topics.ROUTE)
        for channel in Channel:
            depth += await self._queue.depth(topics.deliveries(channel, priority), topics.DELIVER)
        return depth
