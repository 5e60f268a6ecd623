"""The queue in memory, for tests and simulation. Deterministic; nothing outlives the process.

There are two kinds of MemoryBroker. An atomic one behaves like a database: any client can claim any waiting item, and
`done` is one step. A partitioned one behaves like a log: each partition belongs to one client at a time, `done` puts
the outputs before it ends the claim, and items that were done within `COMMITTED_AFTER` before a crash come back.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from tidings.backends.memory.clock import SystemClock
from tidings.model.errors import LeaseLost, Unavailable
from tidings.ports.clock import Clock
from tidings.ports.queue import Claim, Extent, Item, Received, Subscription


class _Numbered(Received, frozen=True, gc=False):
    """An item with its number, which it keeps if it comes back."""

    number: int = 0


COMMITTED_AFTER = 1000
"""Milliseconds after which a crash of the client no longer brings a done item back, in a partitioned broker."""


class GroupQueue:
    """One group's view of one topic. `partitions` is 0 for an atomic broker."""

    def __init__(self, partitions: int) -> None:
        self.partitions: list[deque[Received]] = [deque() for _ in range(partitions or 1)]
        self.recent: list[MemoryClaim] = []
        self.members: list[MemoryQueue] | None = [] if partitions else None
        self.open: dict[int, MemoryClaim] = {}
        self.leases: list[tuple[int, int]] = []
        self.claimers: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> list[Received]:
        """The items that no claim holds."""
        return [item for partition in self.partitions for item in partition]

    def clear(self) -> None:
        """Drop the waiting items, as only a person can."""
        for partition in self.partitions:
            partition.clear()

    def add(self, item: Received) -> None:
        """Add an item at the end of its partition."""
        self.partitions[self.place(item.key)].append(item)
        self.wake()

    def take(self, client: MemoryQueue, max_items: int) -> list[Received]:
        """Remove and return up to `max_items` waiting items that this client may claim."""
        taken: list[Received] = []
        for number, partition in enumerate(self.partitions):
            if self.members is None or self._owner(number) is client:
                taken.extend(partition.popleft() for _ in range(min(max_items - len(taken), len(partition))))
        return taken

    def wake(self) -> None:
        """Wake all waiting claimers, so that they look again."""
        for claimer in self.claimers:
            if not claimer.done():
                claimer.set_result(None)
        self.claimers.clear()

    def give_back(self, items: Sequence[Received]) -> None:
        """Put items back at the start of their partitions, in their order."""
        if items:
            for item in reversed(items):
                self.partitions[self.place(item.key)].appendleft(item)
            self.wake()

    def place(self, key: str) -> int:
        """The partition of a key."""
        return zlib.crc32(key.encode()) % len(self.partitions)

    def join(self, client: MemoryQueue) -> None:
        """Give the client its share of the partitions, in a partitioned broker."""
        if self.members is not None and client not in self.members:
            self._share([*self.members, client])

    def leave(self, client: MemoryQueue) -> None:
        """Give the client's partitions to the other clients."""
        if self.members is not None and client in self.members:
            self._share([member for member in self.members if member is not client])

    def __len__(self) -> int:
        return sum(map(len, self.partitions)) + sum(len(claim.items) for claim in self.open.values())

    def _share(self, members: list[MemoryQueue]) -> None:
        """Share the partitions among `members`. A client that loses a partition loses its claims over it."""
        before = [self._owner(number) for number in range(len(self.partitions))]
        self.members = members
        moved = {number for number, owner in enumerate(before) if owner is not self._owner(number)}
        for claim in [*self.open.values()][::-1]:
            if any(self.place(item.key) in moved for item in claim.items):
                claim.lose()
        self.wake()

    def _owner(self, number: int) -> MemoryQueue | None:
        return self.members[number % len(self.members)] if self.members else None


class _Topic(Struct):
    """A topic with its groups. `early` holds items that were put before the first group was declared."""

    lanes: dict[str, GroupQueue]
    early: list[Received]


class MemoryBroker:
    """The broker that the clients (MemoryQueue) of one queue share, as processes share a server.

    With `partitions` above 0 it is a partitioned broker.
    """

    def __init__(self, clock: Clock | None = None, partitions: int = 0) -> None:
        self.clock: Clock = clock or SystemClock()
        self.partitions = partitions
        self._topics: dict[str, _Topic] = {}
        self.numbers = itertools.count(1)
        self.put_last = 0

    def topic(self, name: str) -> _Topic:
        """The topic. Creates it if it is new."""
        return self._topics.setdefault(name, _Topic({}, []))

    def lane(self, topic: str, group: str) -> GroupQueue:
        """The group's lane of a topic. The topic's first group gets the items that were put before."""
        known = self.topic(topic)
        lane = known.lanes.get(group)
        if lane is None:
            lane = known.lanes[group] = GroupQueue(self.partitions)
            for item in known.early:
                lane.add(item)
            known.early.clear()
        return lane

    def lanes(self) -> Iterator[tuple[str, str, GroupQueue]]:
        """Every lane with its topic and group."""
        for name, topic in self._topics.items():
            for group, lane in topic.lanes.items():
                yield name, group, lane

    def put(self, items: Sequence[Item]) -> None:
        """Give each item to every group of its topic."""
        for item in items:
            topic = self.topic(item.topic)
            self.put_last = next(self.numbers)
            received = _Numbered(item.key, item.body, dict(item.headers), number=self.put_last)
            if not topic.lanes:
                topic.early.append(received)
            for lane in topic.lanes.values():
                lane.add(received)

    def expire(self, lane: GroupQueue) -> None:
        """End the claims whose lease has ended."""
        now = self.clock.now()
        while lane.leases and lane.leases[0][0] <= now:
            _, number = heapq.heappop(lane.leases)
            if (claim := lane.open.get(number)) and not claim.ending:
                claim.lose()

    async def between(self) -> None:
        """A hook for tests: runs in a partitioned broker after a claim's outputs are durable and before it ends."""


class MemoryClaim:
    """See Claim. It is live while its lane knows its number."""

    def __init__(self, broker: MemoryBroker, lane: GroupQueue, items: list[Received], leased_until: int | None) -> None:
        self._broker = broker
        self._lane = lane
        self._items = items
        self._begun: set[int] = set()
        self._put: set[int] = set()
        self._released: set[int] = set()
        self.ending = False
        self.ended_at: int | None = None
        self.leased_until = leased_until
        self.number = next(broker.numbers)
        lane.open[self.number] = self
        if leased_until is not None:
            heapq.heappush(lane.leases, (leased_until, self.number))

    @property
    def items(self) -> Sequence[Received]:
        """See Claim."""
        return self._items

    @property
    def live(self) -> bool:
        """True until the claim ends."""
        return self.number in self._lane.open

    @property
    def atomic(self) -> bool:
        """True if `done` is one step."""
        return not self._broker.partitions

    @property
    def in_transaction(self) -> bool:
        """True if the claim ends with its client's connection."""
        return self.atomic and self.leased_until is None

    @property
    def forgettable(self) -> bool:
        """True if no crash can bring its items back any more."""
        if self.live:
            return False
        return self.ended_at is None or self.ended_at + COMMITTED_AFTER <= self._broker.clock.now()

    async def begin(self, places: Collection[int]) -> None:
        """See Claim."""
        if self.leased_until is None:
            raise ValueError("without a lease nothing outside may be begun")
        self._check()
        self._begun.update(places)

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        """See Claim. In a partitioned broker the outputs are put first and the claim ends afterwards."""
        self._check()
        if self._broker.partitions:
            self.ending = True
            if outputs and self.leased_until is not None:
                self._put.update(set(range(len(self._items))).difference(released, self._begun))
            self._broker.put(outputs)
            await self._broker.between()
            self.ended_at = self._broker.clock.now() if self.live else None
            if self._lane.open.pop(self.number, None) is None:
                return  # a partition was lost meanwhile: the outputs stay, and the items come back
            self._released = set(released)
            self._lane.recent = [claim for claim in (*self._lane.recent, self) if not claim.forgettable]
        else:
            del self._lane.open[self.number]
            self._broker.put(outputs)
        self._lane.give_back(self._marked(sorted(released)))

    async def release(self) -> None:
        """See Claim."""
        self._check()
        self.lose()

    def unconfirmed(self, places: Collection[int]) -> None:
        """Undo `begin` for these items, because the claimer got no confirmation. They go back unmarked."""
        self._begun.difference_update(places)

    def lose(self) -> None:
        """Take the claim from its claimer. The items come back, marked if they were begun."""
        del self._lane.open[self.number]
        self._lane.give_back(self._marked(range(len(self._items))))

    def abandon(self) -> None:
        """Handle the crash of the claim's client: the items come back, unless an atomic broker keeps the lease."""
        if self.live:
            if self.leased_until is None or self._broker.partitions:
                self.lose()
        elif not self.forgettable:
            self._lane.give_back(self._marked(set(range(len(self._items))) - self._released))

    def _marked(self, places: Iterable[int]) -> list[Received]:
        """The items at these places with the marks for coming back."""
        return [
            replace(
                self._items[place],
                redelivered=self._items[place].redelivered or place in self._begun,
                repeated=self._items[place].repeated or place in self._put,
            )
            for place in sorted(places)
        ]

    def _check(self) -> None:
        self._broker.expire(self._lane)
        if not self.live:
            raise LeaseLost(f"the claim over {len(self._items)} items had ended before")


class MemoryQueue:
    """See Queue. One client of a MemoryBroker, like a process that uses a server."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self.broker = broker or MemoryBroker()
        self._claims: list[MemoryClaim] = []
        self._ended = False

    @property
    def atomic(self) -> bool:
        """See Queue."""
        return not self.broker.partitions

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
        self, topic: str, group: str, max_items: int, max_wait_s: float, lease_s: float | None = None
    ) -> Claim | None:
        """See Queue."""
        clock = self.broker.clock
        lane = self.broker.lane(topic, group)
        deadline = clock.now() + round(max_wait_s * 1000)
        while True:
            self._check()
            lane.join(self)
            self.broker.expire(lane)
            if items := lane.take(self, max_items):
                until = None if lease_s is None else clock.now() + round(lease_s * 1000)
                claim = MemoryClaim(self.broker, lane, items, until)
                self._claims = [known for known in self._claims if not known.forgettable]
                self._claims.append(claim)
                return claim
            now = clock.now()
            if now >= deadline:
                return None
            until_look = min([deadline, *(ends for ends, _ in lane.leases[:1])])
            await self._wait(lane, max(until_look - now, 1) / 1000)

    async def depths(self, queues: Sequence[Subscription]) -> Sequence[int]:
        """See Queue."""
        return [len(self.broker.lane(topic, group)) for topic, group in queues]

    async def extent(self, topic: str, group: str) -> Extent:
        """See Queue."""
        lane = self.broker.lane(topic, group)
        lane.recent = [claim for claim in lane.recent if not claim.forgettable]
        there = [*lane.waiting, *(item for claim in (*lane.open.values(), *lane.recent) for item in claim.items)]
        last = self.broker.put_last
        return Extent(
            (last,), (min((item.number for item in there if isinstance(item, _Numbered)), default=last + 1) - 1,)
        )

    async def close(self) -> None:
        """See Queue. In an atomic broker, leased claims stay until their lease ends."""
        self._claims = [claim for claim in self._claims if claim.live]
        self.crash()

    def crash(self) -> None:
        """End like a killed process.

        An atomic broker takes back unleased claims at once and leased ones when their lease ends. A partitioned broker
        takes back both at once, together with items that were done a moment ago.
        """
        self._ended = True
        self.evict()

    def cut(self) -> None:
        """Take back the unleased claims, as a server does that ends idle transactions."""
        for claim in reversed(self._claims):
            if claim.in_transaction:
                claim.abandon()

    def evict(self) -> None:
        """Take back the claims as after a crash, because the broker thinks the client dead. It may claim again."""
        for claim in reversed(self._claims):
            claim.abandon()
        self._claims.clear()
        for _, _, lane in self.broker.lanes():
            lane.leave(self)

    async def _wait(self, lane: GroupQueue, seconds: float) -> None:
        """Return when the lane may have new items, at the latest after `seconds`."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.claimers.append(woken)
        sleeping = asyncio.ensure_future(self.broker.clock.sleep(seconds))
        try:
            await asyncio.wait([woken, sleeping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            if not woken.done():
                woken.cancel()
                lane.claimers.remove(woken)

    def _check(self) -> None:
        if self._ended:
            raise Unavailable("this client of the queue has ended")
