"""The queue on Kafka.

A topic is a Kafka topic, partitioned by key; a group of a topic is a consumer group of its own, with the `consumer`
protocol (KIP-848), or the classic one where the brokers do not know it. Order by key therefore holds as long as the
number of partitions stays. Putting is acknowledged by all in-sync replicas. `done` returns when its outputs are; the
offsets follow within `commit_interval`, so a crash in between puts the outputs again (`atomic` is False). A client
that dies is missed after the broker's session timeout (`group.consumer.session.timeout.ms`), whatever its leases said.
Topics have no retention time; what every group has done is deleted now and then, so that an item waits as long as it
must.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import structlog

from tidings.backends.kafka.administration import Administration
from tidings.backends.kafka.lane import Lane
from tidings.backends.kafka.ledger import Batch
from tidings.backends.kafka.producing import BatchProducer
from tidings.backends.kafka.protocol import GroupProtocol
from tidings.backends.kafka.settings import KafkaSettings
from tidings.model.errors import Unavailable
from tidings.ports.queue import Claim, Extent, Item, Received

P = ParamSpec("P")
T = TypeVar("T")

_OPENING = 10.0
_LEAVING = 8.0
_log = structlog.get_logger("tidings.kafka")


class KafkaClaim:
    """See Claim."""

    def __init__(self, lane: Lane, producer: BatchProducer, batch: Batch) -> None:
        self._lane = lane
        self._producer = producer
        self._batch = batch

    @property
    def items(self) -> Sequence[Received]:
        """The batch, in claiming order."""
        return self._batch.items

    async def begin(self, places: Collection[int]) -> None:
        """See Claim."""
        if self._batch.lease is None:
            raise ValueError("without a lease nothing outside may be begun")
        await self._lane.announcements.begin(self._batch, places)

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        """See Claim. When a partition is lost while the outputs are put, they stay, and the items come again."""
        if outputs and self._batch.lease is not None:
            # A begun item is known as such; of the others it must be known that outputs for them may be there.
            repeatable = self._batch.unannounced.difference(released)
            if repeatable:
                await self._lane.announcements.put(self._batch, repeatable)
        self._lane.end(self._batch)
        try:
            await self._producer.put(outputs)
        except BaseException:
            self._lane.reopen(self._batch)
            raise
        self._lane.finish(self._batch, released)

    async def release(self) -> None:
        """See Claim."""
        self._lane.end(self._batch)
        self._lane.give_back(self._batch)


class KafkaQueue:
    """See Queue. Made with `open`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._protocol = GroupProtocol(settings.group_protocol)
        self._producer = BatchProducer(settings)
        self._administration = Administration(settings)
        self._beside = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tidings-kafka-beside")
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._groups: dict[str, set[str]] = {}
        self._trimming: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, brokers: str, *, partitions: int = 8, replication: int = 1, prefix: str = "") -> KafkaQueue:
        """A client of the cluster at `brokers`, by `open_with`.

        New topics get `partitions` and `replication`; `prefix` stands before all names of topics and groups.
        """
        return await cls.open_with(KafkaSettings(brokers, partitions, replication, prefix))

    @classmethod
    async def open_with(cls, settings: KafkaSettings) -> KafkaQueue:
        """A client that is connected.

        Raises:
            SettingsError: the settings cannot be used, or would send plaintext to another machine.
            Unavailable: no broker answered within 10 seconds, or let this client in.
        """
        queue = cls(settings)
        try:
            # It also fetches the producer's number, which would otherwise delay the first put by half a second.
            await queue._in_thread(queue._producer.connect, _OPENING)
        except BaseException:
            await queue.close()
            raise
        return queue

    @property
    def atomic(self) -> bool:
        """False: outputs are durable before the inputs are gone, not together with it."""
        return False

    async def declare(self, subscriptions: Mapping[str, Sequence[str]]) -> None:
        """See Queue. A new group starts with the oldest item that is kept; what was there before comes marked.

        Raises:
            SettingsError: a topic cannot serve as it is, and this client may not change it.
        """
        await self._in_thread(self._administration.declare, subscriptions)
        for topic, groups in subscriptions.items():
            self._groups.setdefault(topic, set()).update(groups)
        self._trimming = self._trimming or asyncio.create_task(self._trim())

    async def put(self, items: Sequence[Item]) -> None:
        """See Queue. Raises ValueError when an item is larger than 4 MiB."""
        await self._producer.put(items)

    async def claim(
        self, topic: str, group: str, max_items: int, max_wait: float, lease: float | None = None
    ) -> Claim | None:
        """See Queue. The first claim of a topic joins the group, which takes about a second."""
        lane = self._lane(topic, group)
        batch = await lane.claim(max_items, max_wait, lease)
        return None if batch is None else KafkaClaim(lane, self._producer, batch)

    async def depth(self, topic: str, group: str) -> int:
        """See Queue. By what is committed: items that were done a moment ago may still count."""
        return await self._in_thread(self._administration.depth, topic, group)

    async def extent(self, topic: str, group: str) -> Extent:
        """See Queue. By what is committed, as `depth`."""
        return await self._in_thread(self._administration.extent, topic, group)

    async def close(self) -> None:
        """Commit, leave the groups, end all threads."""
        if self._closed:
            return
        self._closed = True
        if self._trimming is not None:
            self._trimming.cancel()
            await asyncio.wait([self._trimming])
        for lane in self._lanes.values():
            lane.stop()
        try:
            await asyncio.get_running_loop().run_in_executor(self._beside, self._end)
        finally:
            self._beside.shutdown()

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `call`, which blocks, gives."""
        if self._closed:
            raise Unavailable("this client of the queue is closed")
        return await asyncio.get_running_loop().run_in_executor(self._beside, partial(call, *args, **kwargs))

    async def _trim(self) -> None:
        """Now and then, delete what is done."""
        while True:
            await asyncio.sleep(self._settings.trim_interval)
            declared = {topic: frozenset(groups) for topic, groups in self._groups.items()}
            try:
                await self._in_thread(self._administration.trim, declared)
            except Unavailable as error:
                _log.warning("done items stay a while longer", why=str(error))

    def _end(self) -> None:
        for (topic, group), lane in self._lanes.items():
            if not lane.join(_LEAVING):
                _log.warning("a consumer did not end in time", topic=topic, group=group)
        self._producer.close()
        self._administration.close()

    def _lane(self, topic: str, group: str) -> Lane:
        lane = self._lanes.get((topic, group))
        if lane is None:
            if self._closed:
                raise Unavailable("this client of the queue is closed")
            lane = self._lanes[topic, group] = Lane(self._settings, topic, group, self._protocol)
        return lane
