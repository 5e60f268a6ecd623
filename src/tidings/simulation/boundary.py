"""The ports of one process: the shared memory adapters, with faults injected at every asynchronous call."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from tidings.backends.memory.clock import Now
from tidings.backends.memory.days import MemoryDays
from tidings.backends.memory.history import MemoryCancellations, MemoryChanges
from tidings.backends.memory.queue import GroupQueue, MemoryBroker, MemoryClaim, MemoryQueue
from tidings.backends.memory.recurrences import MemoryRecurrences
from tidings.backends.memory.replays import MemoryLetters, MemoryReplays
from tidings.backends.memory.schedule import MemorySchedule
from tidings.backends.memory.standings import MemoryStandings
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
from tidings.ports.schedule import Waiting
from tidings.simulation.departures import Departures
from tidings.simulation.loop import CURRENT_GROUP
from tidings.simulation.observers import WatchedHistory
from tidings.simulation.processes import BATCH_READS, AdapterBug, BatchReads, Process

IDLE_WAIT_S = 100 * 24 * 3600.0
"""How long an idle claim waits. Polling, as the real adapters do, would only cost time here."""


class Port:
    """An adapter as a process sees it: each asynchronous method is a crossing (see Process.crossing).

    `on_effect` names methods to watch: the function gets the arguments of each call that took effect.
    """

    def __init__(
        self, name: str, adapter: object, process: Process, on_effect: Mapping[str, Callable[..., None]] | None = None
    ) -> None:
        self._name = name
        self._adapter = adapter
        self._process = process
        self._on_effect = on_effect or {}

    def __getattr__(self, method: str) -> Any:
        """The adapter's attribute; an asynchronous method is wrapped in a crossing."""
        found = getattr(self._adapter, method)
        if inspect.iscoroutinefunction(found):
            found = self._process.crossing(f"{self._name}.{method}", found, self._on_effect.get(method))
            setattr(self, method, found)
        return found


class Waker:
    """Lets a reader sleep until there is something to read, instead of polling."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def wake(self) -> None:
        """Wake all readers, because something was added or became due."""
        for future in self._waiting:
            _resolve(future)
        self._waiting.clear()

    async def until(self, due: int | None, now: int) -> None:
        """Return on the next `wake`, or at `due`, for a process whose clock shows `now`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        timer = loop.call_later(IDLE_WAIT_S if due is None else max(due - now, 0) / 1000, _resolve, future)
        await future
        timer.cancel()


class SimulatedSchedule(MemorySchedule):
    """A schedule whose readers can wait for the next row."""

    def __init__(self, clock: Now) -> None:
        super().__init__(clock)
        self.waking = Waker()

    @property
    def next(self) -> int | None:
        """When the next row is due, or its lease ends; None if there are no rows."""
        return min((row.leased_until or row.due for row in self._rows.values()), default=None)

    def add(self, notification_id: UUID, wait: Wait) -> None:
        """See MemorySchedule; wakes readers."""
        super().add(notification_id, wait)
        self.waking.wake()

    def hurry(self, notification_id: UUID, now: int) -> None:
        """See MemorySchedule; wakes readers."""
        super().hurry(notification_id, now)
        self.waking.wake()

    def change(self, row: Waiting, wait: Wait) -> bool:
        """See MemorySchedule; wakes readers."""
        changed = super().change(row, wait)
        self.waking.wake()
        return changed

    async def bring_forward(self, topic: str, most: int, now: int) -> None:
        """See Schedule; wakes readers."""
        await super().bring_forward(topic, most, now)
        self.waking.wake()


class SimulatedReplays(MemoryReplays):
    """Replays whose readers can wait for the next page."""

    def __init__(self, clock: Now) -> None:
        super().__init__(clock)
        self.waking = Waker()

    @property
    def next_ready(self) -> int | None:
        """When the next page may be claimed; None if no replay is open."""
        return min((at for key, at in self._ready.items() if self._replays[key].finished_at is None), default=None)

    async def add(self, replay: Replay) -> None:
        """See Replays; wakes readers."""
        await super().add(replay)
        self.waking.wake()


class SimulatedRecurrences(MemoryRecurrences):
    """Recurrences whose readers can wait for the next occurrence."""

    def __init__(self, clock: Now) -> None:
        super().__init__(clock)
        self.waking = Waker()

    @property
    def next(self) -> int | None:
        """When the next occurrence is due, or its lease ends; None if there will be none."""
        return min((row.ready for row in self._rows.values() if row.ready is not None), default=None)

    async def add(self, recurrence: Recurrence) -> None:
        """See Recurrences; wakes readers."""
        await super().add(recurrence)
        self.waking.wake()


class SimulatedStore(MemoryStore):
    """A memory store whose readers can wait for due rows, and whose history is checked after every write."""

    def __init__(self, clock: Now) -> None:
        super().__init__(clock)
        self.schedule: SimulatedSchedule = SimulatedSchedule(clock)
        self.history: WatchedHistory = WatchedHistory(self.schedule, self.users)
        self.changes = MemoryChanges(self.schedule, self.history)
        self.cancellations = MemoryCancellations(self.schedule)
        self.standings = MemoryStandings(self.users, self.schedule)
        self.letters = MemoryLetters(self.history)
        self.days = MemoryDays(self.history, self.accounts)
        self.replays: SimulatedReplays = SimulatedReplays(clock)
        self.recurrences: SimulatedRecurrences = SimulatedRecurrences(clock)


class _DuePort(Port):
    async def next_due(self) -> int | None:
        """See Schedule and Recurrences. If nothing is due yet, answers only when something may be."""
        adapter = cast("SimulatedSchedule | SimulatedRecurrences", self._adapter)
        due = await self._process.crossing(f"{self._name}.next_due", adapter.next_due)()
        now = self._process.now()
        if due is None or due > now:
            await adapter.waking.until(adapter.next, now)  # `next` includes rows added during the crossing
            return adapter.next
        return due


class _ReplaysPort(Port):
    async def claim(self, now: int, lease_s: float) -> Replay | None:
        """See Replays. If none may be claimed, answers only when one may be."""
        replays = cast("SimulatedReplays", self._adapter)
        replay = await self._process.crossing("replays.claim", replays.claim)(now, lease_s)
        if replay is None:
            await replays.waking.until(replays.next_ready, now)
        return replay


class InboxPort(Port):
    """The inbox. Calls to it can be lost in transit, as requests to any vendor can."""

    def __init__(self, inbox: Inbox, process: Process, departures: Departures, log: Callable[..., None]) -> None:
        super().__init__("inbox", inbox, process)
        self._departures = departures
        self._crossing = process.crossing("inbox.add", inbox.add, log)

    async def add(self, tenant: str, items: Sequence[InboxItem]) -> None:
        """See Inbox."""
        with self._departures.leave([item.id for item in items], self._process):
            await self._crossing(tenant, items)


class StorePort:
    """The store of one process. The look-ups that a send depends on are noted in its BatchReads, with their time."""

    def __init__(self, store: SimulatedStore, process: Process) -> None:
        loop = asyncio.get_running_loop()

        def look_up(
            users: Collection[Any] = (), addresses: Collection[Any] = (), notifications: Collection[Any] = ()
        ) -> None:
            if reads := BATCH_READS.get():
                reads.people.update(dict.fromkeys(users, loop.time()))
                reads.suppressed.update(dict.fromkeys(addresses, loop.time()))
                reads.cancelled.update(dict.fromkeys(notifications, loop.time()))

        self.history: Any = Port("history", store.history, process)
        self.schedule: Any = _DuePort("schedule", store.schedule, process)
        self.users: Any = Port("users", store.users, process)
        self.cancellations: Any = Port("cancellations", store.cancellations, process)
        self.standings: Any = Port("standings", store.standings, process, {"look_up": look_up})
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
        """See Store. The simulated store is never away."""

    async def close(self) -> None:
        """See Store. There is nothing to close."""


class SimulatedBroker(MemoryBroker):
    """A broker whose clients may die after a batch's outputs are put and before the batch is done.

    `begun` lists, for each delivery, the claims whose process was told that the delivery is begun: it was about to be
    offered to a provider.
    """

    def __init__(self, clock: Clock | None = None, partitions: int = 0) -> None:
        super().__init__(clock, partitions)
        self.begun: dict[UUID, list[ClaimPort]] = {}

    async def between(self) -> None:
        """See MemoryBroker."""
        process = CURRENT_GROUP.get()
        if isinstance(process, Process):
            await process.between("claim.done, outputs put")


class _Client(MemoryQueue):
    """A client whose waiting claims need no asyncio task: tasks would cost time in every run."""

    async def _wait(self, lane: GroupQueue, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        lane.claimers.append(future)
        timer = loop.call_later(seconds, _resolve, future)
        try:
            await future
        finally:
            timer.cancel()
            if future in lane.claimers:
                lane.claimers.remove(future)


class QueuePort:
    """The queue of one process. `client` is its connection to the broker."""

    def __init__(self, broker: SimulatedBroker, process: Process) -> None:
        self.client = _Client(broker)
        self._broker = broker
        self._process = process
        self.put = process.crossing("queue.put", self._put)
        self.extent = process.crossing("queue.extent", self.client.extent)
        self.depths = process.crossing("queue.depths", self.client.depths)
        self.declare = process.crossing("queue.declare", self.client.declare)

    @property
    def atomic(self) -> bool:
        """See Queue."""
        return self.client.atomic

    async def claim(
        self, topic: str, group: str, max_items: int, max_wait_s: float, lease_s: float | None = None
    ) -> Claim | None:
        """See Queue."""
        BATCH_READS.set(None)
        if self._process.in_storm:
            await self._process.before("queue.claim")
        claim = await self.client.claim(topic, group, max_items, IDLE_WAIT_S, lease_s)
        if not isinstance(claim, MemoryClaim):
            return None
        BATCH_READS.set(BatchReads(asyncio.get_running_loop().time()))
        self._process.trace(f"{self._process.name} claims {len(claim.items)} of {topic}")
        try:
            if self._process.in_storm:
                await self._process.after("queue.claim")
        except (Unavailable, AdapterBug):
            claim.abandon()  # the connection broke, and the claim with it
            raise
        return ClaimPort(claim, self._process, topic, self._broker)

    async def close(self) -> None:
        """See Queue."""
        await self.client.close()

    async def _put(self, items: Sequence[Item]) -> None:
        await self.client.put(self._process.written(items))


class ClaimPort:
    """A claim of one process, whose calls are crossings."""

    def __init__(self, claim: MemoryClaim, process: Process, topic: str, broker: SimulatedBroker) -> None:
        self._claim = claim
        self._topic = topic
        self._broker = broker
        self.process = process
        self.is_over = False
        """Whether the process ended it by `done` or `release`; False if the process died or the lease ran out."""
        self.items: Sequence[Received] = claim.items

    async def begin(self, places: Collection[int]) -> None:
        """See Claim. If the call fails, these deliveries do not count as begun."""
        try:
            await self.process.crossing(f"claim.begin {self._topic}", self._begin)(places)
        except (Unavailable, AdapterBug):
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
            done = self.process.crossing(f"claim.done {self._topic}", self._claim.done)
            await done(self.process.written(outputs), released)
        except (Unavailable, AdapterBug):
            self._abandon()
            raise
        self.is_over = True

    async def release(self) -> None:
        """See Claim."""
        if self._claim.in_transaction and not self._claim.live:
            return  # the transaction was rolled back already
        if not self._claim.atomic:
            await self._claim.release()  # a log keeps this in the client: no crossing
            self.is_over = True
            return
        try:
            await self.process.crossing(f"claim.release {self._topic}", self._claim.release)()
        except (Unavailable, AdapterBug):
            self._abandon()
            raise
        self.is_over = True

    def _abandon(self) -> None:
        """Roll the transaction back, because its connection broke."""
        if self._claim.in_transaction and self._claim.live:
            self._claim.abandon()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
