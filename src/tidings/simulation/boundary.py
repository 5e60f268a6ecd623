"""The ports of one process: the shared memory adapters, seen through the crossings of that process."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from tidings.backends.memory.clock import Now
from tidings.backends.memory.days import MemoryDays
from tidings.backends.memory.history import MemoryCancellations
from tidings.backends.memory.queue import Lane, MemoryBroker, MemoryClaim, MemoryQueue
from tidings.backends.memory.recurrences import MemoryRecurrences
from tidings.backends.memory.replays import MemoryLetters, MemoryReplays
from tidings.backends.memory.schedule import MemorySchedule
from tidings.backends.memory.store import MemoryStore
from tidings.model.errors import Unavailable
from tidings.model.history import InboxItem
from tidings.model.letters import Replay
from tidings.model.outcome import Wait
from tidings.model.recurrence import Recurrence
from tidings.model.wire import decode_delivery
from tidings.ports.clock import Clock
from tidings.ports.inbox import Inbox
from tidings.ports.queue import Claim, Item, Received
from tidings.simulation.departures import Departures
from tidings.simulation.loop import GROUP
from tidings.simulation.observers import WatchedHistory
from tidings.simulation.processes import LOOK, Broken, Look, Process

LONG = 100 * 24 * 3600.0
"""Seconds. An idle claimer waits this long: to ask again and again would be true to life, and cost time for nothing."""


class Port:
    """An adapter as a process sees it: its asynchronous methods are crossings."""

    def __init__(
        self, name: str, adapter: object, process: Process, seen: Mapping[str, Callable[..., None]] | None = None
    ) -> None:
        self._name = name
        self._adapter = adapter
        self._process = process
        self._seen = seen or {}

    def __getattr__(self, method: str) -> Any:
        """The method; a crossing where it is asynchronous."""
        found = getattr(self._adapter, method)
        if inspect.iscoroutinefunction(found):
            found = self._process.crossing(f"{self._name}.{method}", found, self._seen.get(method))
            setattr(self, method, found)
        return found


class Waking:
    """Lets those wait who would otherwise ask again and again."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def wake(self) -> None:
        """Something is new."""
        for woken in self._waiting:
            _resolve(woken)
        self._waiting.clear()

    async def until(self, due: int | None, now: int) -> None:
        """Return when something is new, or at `due`, for somebody whose clock shows `now`."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        self._waiting.append(woken)
        timer = loop.call_later(LONG if due is None else max(due - now, 0) / 1000, _resolve, woken)
        await woken
        timer.cancel()


class SimulatedSchedule(MemorySchedule):
    """A schedule that can be waited for."""

    def __init__(self, clock: Now) -> None:
        super().__init__(clock)
        self.waking = Waking()

    @property
    def next(self) -> int | None:
        """When the next row is due or given back; None when nothing waits."""
        return min((row.leased_until or row.due for row in self._rows.values()), default=None)

    def add(self, notification_id: UUID, wait: Wait) -> None:
        """Write a row."""
        super().add(notification_id, wait)
        self.waking.wake()

    def hurry(self, notification_id: UUID, now: int) -> None:
        """Make rows due."""
        super().hurry(notification_id, now)
        self.waking.wake()

    async def bring_forward(self, topic: str, most: int, now: int) -> None:
        """Make rows due."""
        await super().bring_forward(topic, most, now)
        self.waking.wake()


class SimulatedReplays(MemoryReplays):
    """Replays that can be waited for."""

    def __init__(self, clock: Now) -> None:
        super().__init__(clock)
        self.waking = Waking()

    @property
    def next_ready(self) -> int | None:
        """When the next page may be taken; None when no replay is open."""
        return min((at for key, at in self._ready.items() if self._replays[key].finished_at is None), default=None)

    async def add(self, replay: Replay) -> None:
        """See Replays."""
        await super().add(replay)
        self.waking.wake()


class SimulatedRecurrences(MemoryRecurrences):
    """Recurrences that can be waited for."""

    def __init__(self, clock: Now) -> None:
        super().__init__(clock)
        self.waking = Waking()

    @property
    def next(self) -> int | None:
        """When the next occurrence is due, or given back; None when none will be."""
        return min((row.ready for row in self._rows.values() if row.ready is not None), default=None)

    async def add(self, recurrence: Recurrence) -> None:
        """See Recurrences."""
        await super().add(recurrence)
        self.waking.wake()


class SimulatedStore(MemoryStore):
    """A memory store whose schedule can be waited for and whose history is watched."""

    def __init__(self, clock: Now) -> None:
        super().__init__(clock)
        self.schedule: SimulatedSchedule = SimulatedSchedule(clock)
        self.history: WatchedHistory = WatchedHistory(self.schedule, self.users)
        self.cancellations = MemoryCancellations(self.schedule)
        self.letters = MemoryLetters(self.history)
        self.days = MemoryDays(self.history, self.accounts)
        self.replays: SimulatedReplays = SimulatedReplays(clock)
        self.recurrences: SimulatedRecurrences = SimulatedRecurrences(clock)


class _DuePort(Port):
    async def next_due(self) -> int | None:
        """See Schedule and Recurrences; when nothing is due, this is answered when something may be."""
        what = cast("SimulatedSchedule | SimulatedRecurrences", self._adapter)
        due = await self._process.crossing(f"{self._name}.next_due", what.next_due)()
        now = self._process.now()
        if due is None or due > now:
            await what.waking.until(what.next, now)  # what came while the answer was on its way is known by now
            return what.next
        return due


class _ReplaysPort(Port):
    async def claim(self, now: int, lease: float) -> Replay | None:
        """See Replays; that none is open is answered when one may be."""
        replays = cast("SimulatedReplays", self._adapter)
        replay = await self._process.crossing("replays.claim", replays.claim)(now, lease)
        if replay is None:
            await replays.waking.until(replays.next_ready, now)
        return replay


class InboxPort(Port):
    """The inbox, whose requests get lost on their way like those to any vendor."""

    def __init__(self, inbox: Inbox, process: Process, departures: Departures, log: Callable[..., None]) -> None:
        super().__init__("inbox", inbox, process)
        self._departures = departures
        self._crossing = process.crossing("inbox.add", inbox.add, log)

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        """See Inbox."""
        with self._departures.leave([item.id for item in items], self._process):
            await self._crossing(tenant, items)


class StorePort:
    """See Store."""

    def __init__(self, store: SimulatedStore, process: Process) -> None:
        loop = asyncio.get_running_loop()

        def people(keys: Collection[Any]) -> None:
            if look := LOOK.get():
                look.people.update(dict.fromkeys(keys, loop.time()))

        def suppressed(keys: Collection[Any]) -> None:
            if look := LOOK.get():
                look.suppressed.update(dict.fromkeys(keys, loop.time()))

        def cancelled(keys: Collection[Any]) -> None:
            if look := LOOK.get():
                look.cancelled.update(dict.fromkeys(keys, loop.time()))

        self.history: Any = Port("history", store.history, process)
        self.schedule: Any = _DuePort("schedule", store.schedule, process)
        self.users: Any = Port("users", store.users, process, {"people": people, "suppressed": suppressed})
        self.cancellations: Any = Port("cancellations", store.cancellations, process, {"cancelled": cancelled})
        self.templates: Any = Port("templates", store.templates, process)
        self.inbox: Any = Port("inbox", store.inbox, process)
        self.tenants: Any = Port("tenants", store.tenants, process)
        self.accounts: Any = Port("accounts", store.accounts, process)
        self.days: Any = Port("days", store.days, process)
        self.watched: Any = Port("watched", store.watched, process)
        self.rounds: Any = Port("rounds", store.rounds, process)
        self.letters: Any = Port("letters", store.letters, process)
        self.replays: Any = _ReplaysPort("replays", store.replays, process)
        self.idempotency: Any = Port("idempotency", store.idempotency, process)
        self.caps: Any = Port("caps", store.caps, process)
        self.changes: Any = Port("changes", store.changes, process)
        self.recurrences: Any = _DuePort("recurrences", store.recurrences, process)

    async def ping(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Nothing is held outside."""


class SimulatedBroker(MemoryBroker):
    """A broker whose clients may die between the outputs of a batch and its end.

    `begun` tells in which claims a delivery was begun, as far as its process heard so: it was about to be offered.
    """

    def __init__(self, clock: Clock | None = None, partitions: int = 0) -> None:
        super().__init__(clock, partitions)
        self.begun: dict[UUID, list[ClaimPort]] = {}

    async def between(self) -> None:
        """See MemoryBroker."""
        process = GROUP.get()
        if isinstance(process, Process):
            await process.between("claim.done, outputs put")


class _Client(MemoryQueue):
    """A client that waits without a task of its own."""

    async def _wait(self, lane: Lane, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        lane.claimers.append(woken)
        timer = loop.call_later(seconds, _resolve, woken)
        try:
            await woken
        finally:
            timer.cancel()
            if woken in lane.claimers:
                lane.claimers.remove(woken)


class QueuePort:
    """See Queue. `client` is the process's connection to the broker."""

    def __init__(self, broker: SimulatedBroker, process: Process) -> None:
        self.client = _Client(broker)
        self._broker = broker
        self._process = process
        self.put = process.crossing("queue.put", self.client.put)
        self.extent = process.crossing("queue.extent", self.client.extent)
        self.depth = process.crossing("queue.depth", self.client.depth)
        self.declare = process.crossing("queue.declare", self.client.declare)

    @property
    def atomic(self) -> bool:
        """See Queue."""
        return self.client.atomic

    async def claim(
        self, topic: str, group: str, max_items: int, max_wait: float, lease: float | None = None
    ) -> Claim | None:
        """See Queue."""
        LOOK.set(None)
        if self._process.in_storm:
            await self._process.before("queue.claim")
        claim = await self.client.claim(topic, group, max_items, LONG, lease)
        if not isinstance(claim, MemoryClaim):
            return None
        LOOK.set(Look(asyncio.get_running_loop().time()))
        self._process.trace(f"{self._process.name} claims {len(claim.items)} of {topic}")
        try:
            if self._process.in_storm:
                await self._process.after("queue.claim")
        except (Unavailable, Broken):
            claim.abandon()  # with its connection
            raise
        return ClaimPort(claim, self._process, topic, self._broker)

    async def close(self) -> None:
        """See Queue."""
        await self.client.close()


class ClaimPort:
    """See Claim."""

    def __init__(self, claim: MemoryClaim, process: Process, topic: str, broker: SimulatedBroker) -> None:
        self._claim = claim
        self._topic = topic
        self._broker = broker
        self.process = process
        self.is_over = False
        """Whether its process ended it, and not a death or the end of the lease."""
        self.items: Sequence[Received] = claim.items

    async def begin(self, places: Collection[int]) -> None:
        """See Claim. What was not confirmed is not begun."""
        try:
            await self.process.crossing(f"claim.begin {self._topic}", self._begin)(places)
        except (Unavailable, Broken):
            self._claim.unconfirmed(places)
            for id in self._ids(places):
                self._broker.begun[id] = [claim for claim in self._broker.begun.get(id, ()) if claim is not self]
            raise

    async def _begin(self, places: Collection[int]) -> None:
        await self._claim.begin(places)
        for id in self._ids(places):
            self._broker.begun.setdefault(id, []).append(self)

    def _ids(self, places: Collection[int]) -> list[UUID]:
        return [decode_delivery(self.items[place].body).id for place in places]

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        """See Claim."""
        try:
            await self.process.crossing(f"claim.done {self._topic}", self._claim.done)(outputs, released)
        except (Unavailable, Broken):
            self._cut()
            raise
        self.is_over = True

    async def release(self) -> None:
        """See Claim."""
        if self._claim.in_transaction and not self._claim.live:
            return  # it was rolled back
        if not self._claim.atomic:
            await self._claim.release()  # in a log nobody need be asked
            self.is_over = True
            return
        try:
            await self.process.crossing(f"claim.release {self._topic}", self._claim.release)()
        except (Unavailable, Broken):
            self._cut()
            raise
        self.is_over = True

    def _cut(self) -> None:
        """A transaction does not outlive its connection."""
        if self._claim.in_transaction and self._claim.live:
            self._claim.abandon()


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
