"""The queue in memory: for tests and simulation. Deterministic; nothing outlives the process."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from tidings.backends.memory.clock import SystemClock
from tidings.model.errors import LeaseLost, Unavailable
from tidings.ports.clock import Clock
from tidings.ports.queue import Claim, Extent, Item, Received


class _Numbered(Received, frozen=True, gc=False):
    """An item with its number, which it keeps when it comes back."""

    number: int = 0


class _Lane:
    """One group's view of one topic."""

    def __init__(self) -> None:
        self.waiting: deque[Received] = deque()
        self.open: dict[int, MemoryClaim] = {}
        self.leases: list[tuple[int, int]] = []
        self.claimers: deque[asyncio.Future[None]] = deque()

    def wake(self) -> None:
        """Let everybody who waits for items look again."""
        for claimer in self.claimers:
            if not claimer.done():
                claimer.set_result(None)
        self.claimers.clear()

    def give_back(self, items: Sequence[Received]) -> None:
        """Put items in front, in their order."""
        if items:
            self.waiting.extendleft(reversed(items))
            self.wake()


class _Topic(Struct):
    """A topic with its groups. `early` keeps what is put before the first group is declared."""

    lanes: dict[str, _Lane]
    early: list[Received]


class MemoryBroker:
    """What the clients (MemoryQueue) of one queue share, as processes share a server."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self._topics: dict[str, _Topic] = {}
        self.numbers = itertools.count(1)
        self.put_last = 0

    def topic(self, name: str) -> _Topic:
        """The topic, made when it is new."""
        return self._topics.setdefault(name, _Topic({}, []))

    def lane(self, topic: str, group: str) -> _Lane:
        """The group's lane; the first one of a topic gets what was put before."""
        known = self.topic(topic)
        lane = known.lanes.get(group)
        if lane is None:
            lane = known.lanes[group] = _Lane()
            lane.waiting.extend(known.early)
            known.early.clear()
        return lane

    def put(self, items: Sequence[Item]) -> None:
        """Give each item to every group of its topic."""
        for item in items:
            topic = self.topic(item.topic)
            self.put_last = next(self.numbers)
            received = _Numbered(item.key, item.body, dict(item.headers), number=self.put_last)
            if not topic.lanes:
                topic.early.append(received)
            for lane in topic.lanes.values():
                lane.waiting.append(received)
                lane.wake()

    def expire(self, lane: _Lane) -> None:
        """Take back what was leased for too long."""
        now = self.clock.now()
        while lane.leases and lane.leases[0][0] <= now:
            _, number = heapq.heappop(lane.leases)
            if claim := lane.open.pop(number, None):
                lane.give_back(_marked(claim.items))


class MemoryClaim:
    """See Claim. Live as long as its lane knows its number."""

    def __init__(self, broker: MemoryBroker, lane: _Lane, items: list[Received], leased_until: int | None) -> None:
        self._broker = broker
        self._lane = lane
        self._items = items
        self.leased_until = leased_until
        self.number = next(broker.numbers)
        lane.open[self.number] = self
        if leased_until is not None:
            heapq.heappush(lane.leases, (leased_until, self.number))

    @property
    def items(self) -> Sequence[Received]:
        """The batch, in claiming order."""
        return self._items

    @property
    def live(self) -> bool:
        """Whether it has not ended yet."""
        return self.number in self._lane.open

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        """See Claim; both halves happen in one step."""
        self._end()
        self._broker.put(outputs)
        self._lane.give_back([self._items[index] for index in sorted(released)])

    async def release(self) -> None:
        """Give every item back, unbegun."""
        self._end()
        self._lane.give_back(self._items)

    def abandon(self) -> None:
        """What is left of a claim whose client ended: the items, at once unless a lease runs."""
        if self.live and self.leased_until is None:
            del self._lane.open[self.number]
            self._lane.give_back(self._items)

    def _end(self) -> None:
        self._broker.expire(self._lane)
        if not self.live:
            raise LeaseLost(f"the claim over {len(self._items)} items had ended before")
        del self._lane.open[self.number]


class MemoryQueue:
    """One client of a MemoryBroker: what a process is to a server. See Queue."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.broker = broker or MemoryBroker()
        self._claims: list[MemoryClaim] = []
        self._ended = False

    @property
    def atomic(self) -> bool:
        """True: `done` is one step."""
        return True

    async def declare(self, subscriptions: Mapping[str, Sequence[str]]) -> None:
        """See Queue."""
        for topic, groups in subscriptions.items():
            for group in groups:
                self.broker.lane(topic, group)

    async def put(self, items: Sequence[Item]) -> None:
        """See Queue."""
        self._check()
        self.broker.put(items)

    async def claim(
        self, topic: str, group: str, max_items: int, max_wait: float, lease: float | None = None
    ) -> Claim | None:
        """See Queue."""
        clock = self.broker.clock
        lane = self.broker.lane(topic, group)
        deadline = clock.now() + round(max_wait * 1000)
        while True:
            self._check()
            self.broker.expire(lane)
            if lane.waiting:
                items = [lane.waiting.popleft() for _ in range(min(max_items, len(lane.waiting)))]
                until = None if lease is None else clock.now() + round(lease * 1000)
                claim = MemoryClaim(self.broker, lane, items, until)
                self._claims = [known for known in self._claims if known.live]
                self._claims.append(claim)
                return claim
            now = clock.now()
            if now >= deadline:
                return None
            until_look = min([deadline, *(ends for ends, _ in lane.leases[:1])])
            await _first(lane, clock, max(until_look - now, 1) / 1000)

    async def depth(self, topic: str, group: str) -> int:
        """See Queue."""
        lane = self.broker.lane(topic, group)
        return len(lane.waiting) + sum(len(claim.items) for claim in lane.open.values())

    async def extent(self, topic: str, group: str) -> Extent:
        """See Queue."""
        lane = self.broker.lane(topic, group)
        there = [*lane.waiting, *(item for claim in lane.open.values() for item in claim.items)]
        last = self.broker.put_last
        return Extent(
            (last,), (min((item.number for item in there if isinstance(item, _Numbered)), default=last + 1) - 1,)
        )

    async def close(self) -> None:
        """See Queue; leased claims stay until their lease runs out."""
        self.crash()

    def crash(self) -> None:
        """What a killed process leaves behind: unleased claims come back at once, leased ones when they run out."""
        self._ended = True
        for claim in reversed(self._claims):
            claim.abandon()
        self._claims.clear()

    def _check(self) -> None:
        if self._ended:
            raise Unavailable("this client of the queue has ended")


async def _first(lane: _Lane, clock: Clock, seconds: float) -> None:
    """Return when the lane may have something new, or after `seconds`."""
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    lane.claimers.append(woken)
    sleeping = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait([woken, sleeping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeping.cancel()
        if not woken.done():
            woken.cancel()
            lane.claimers.remove(woken)


def _marked(items: Sequence[Received]) -> list[Received]:
    return [replace(item, redelivered=True) for item in items]
