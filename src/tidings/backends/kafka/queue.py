"""The queue on Kafka.

- A topic is a Kafka topic, partitioned by key. Order by key holds as long as the number of partitions stays.
- A group of a topic is a consumer group of its own. It uses the `consumer` protocol (KIP-848), or the classic one if
  the brokers do not know it.
- `put` returns when all in-sync replicas have acknowledged. So does `done`; the offsets follow within
  `commit_interval_s`, and a crash in between puts the outputs again (`atomic` is False).
- The broker notices a dead client after its session timeout (`group.consumer.session.timeout.ms`), whatever the leases
  said.
- Topics have no retention time, so that an item can wait as long as it must. Items that every group has done are
  deleted at intervals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import structlog

from tidings.backends.kafka.administration import Administration
from tidings.backends.kafka.lane import GroupReader
from tidings.backends.kafka.ledger import Batch
from tidings.backends.kafka.producing import BatchProducer
from tidings.backends.kafka.protocol import GroupProtocol
from tidings.backends.kafka.settings import KafkaSettings
from tidings.model.errors import Unavailable
from tidings.ports.queue import Claim, Extent, Item, Received, Subscription

P = ParamSpec("P")
T = TypeVar("T")

_OPEN_WITHIN_S = 10.0
_LEAVE_WITHIN_S = 8.0
_log = structlog.get_logger("tidings.kafka")


class KafkaClaim:
    """See Claim."""

    def __init__(self, reader: GroupReader, producer: BatchProducer, batch: Batch) -> None:
        self._reader = reader
        self._producer = producer
        self._batch = batch

    @property
    def items(self) -> Sequence[Received]:
        """See Claim."""
        return self._batch.items

    async def begin(self, places: Collection[int]) -> None:
        """See Claim."""
        if self._batch.lease_s is None:
            raise ValueError("a claim without a lease cannot begin items: claim with a lease")
        await self._reader.announcements.begin(self._batch, places)

    async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        """See Claim. If a partition is lost while the outputs are put, the outputs stay and the items come again."""
        if outputs and self._batch.lease_s is not None:
            # Begun items are known already. Announce that the others may have outputs, in case this claim is lost.
            repeatable = self._batch.unannounced.difference(released)
            if repeatable:
                await self._reader.announcements.put(self._batch, repeatable)
        self._reader.end(self._batch)
        try:
            await self._producer.put(outputs)
        except BaseException:
            self._reader.reopen(self._batch)
            raise
        self._reader.finish(self._batch, released)

    async def release(self) -> None:
        """See Claim."""
        self._reader.end(self._batch)
        self._reader.give_back(self._batch)


class KafkaQueue:
    """See Queue. Create it with `open` or `open_with`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._protocol = GroupProtocol(settings.group_protocol)
        self._producer = BatchProducer(settings)
        self._administration = Administration(settings)
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="tidings-kafka-beside")
        self._readers: dict[tuple[str, str], GroupReader] = {}
        self._groups: dict[str, set[str]] = {}
        self._trimming: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, brokers: str, *, partitions: int = 8, replication: int = 1, prefix: str = "") -> KafkaQueue:
        """A connected client of the cluster at `brokers`. See `open_with`.

        New topics get `partitions` and `replication`. All names of topics and groups start with `prefix`.
        """
        return await cls.open_with(KafkaSettings(brokers, partitions, replication, prefix))

    @classmethod
    async def open_with(cls, settings: KafkaSettings) -> KafkaQueue:
        """A connected client.

        Raises:
            SettingsError: the settings cannot be used, or would send plaintext to another machine.
            Unavailable: no broker answered and let this client in within 10 seconds.
        """
        queue = cls(settings)
        try:
            # This also fetches the producer's id, which would otherwise delay the first put by half a second.
            await queue._in_thread(queue._producer.connect, _OPEN_WITHIN_S)
        except BaseException:
            await queue.close()
            raise
        return queue

    @property
    def atomic(self) -> bool:
        """False: the outputs become durable before the inputs are done, not together with them."""
        return False

    async def declare(self, subscriptions: Mapping[str, Sequence[str]]) -> None:
        """See Queue. A new group starts with the oldest kept item. Items from before this call come marked.

        Raises:
            SettingsError: a topic cannot be used as it is, and this client may not change it.
        """
        await self._in_thread(self._administration.declare, subscriptions)
        for topic, groups in subscriptions.items():
            self._groups.setdefault(topic, set()).update(groups)
        self._trimming = self._trimming or asyncio.create_task(self._trim())

    async def put(self, items: Sequence[Item]) -> None:
        """See Queue. Raises ValueError if an item's body is larger than 4 MiB."""
        await self._producer.put(items)

    async def claim(
        self, topic: str, group: str, max_items: int, max_wait_s: float, lease_s: float | None = None
    ) -> Claim | None:
        """See Queue. The first claim of a topic joins the group, which takes about a second."""
        reader = self._reader(topic, group)
        batch = await reader.claim(max_items, max_wait_s, lease_s)
        return None if batch is None else KafkaClaim(reader, self._producer, batch)

    async def depths(self, queues: Sequence[Subscription]) -> Sequence[int]:
        """See Queue. Counts by committed offsets, so items that were done a moment ago may still count."""
        return await self._in_thread(self._administration.depths, queues)

    async def extent(self, topic: str, group: str) -> Extent:
        """See Queue. By committed offsets, as `depths`."""
        return await self._in_thread(self._administration.extent, topic, group)

    async def close(self) -> None:
        """See Queue. Commits done items, leaves the groups and ends all threads."""
        if self._closed:
            return
        self._closed = True
        if self._trimming is not None:
            self._trimming.cancel()
            await asyncio.wait([self._trimming])
        for reader in self._readers.values():
            reader.stop()
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._end)
        finally:
            self._threads.shutdown()

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the blocking `call`, run in a thread."""
        if self._closed:
            raise Unavailable("this client of the queue is closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args, **kwargs))

    async def _trim(self) -> None:
        """Delete done items at intervals."""
        while True:
            await asyncio.sleep(self._settings.trim_interval_s)
            declared = {topic: frozenset(groups) for topic, groups in self._groups.items()}
            try:
                await self._in_thread(self._administration.trim, declared)
            except Unavailable as error:
                _log.warning("done items stay a while longer", why=str(error))

    def _end(self) -> None:
        for (topic, group), reader in self._readers.items():
            if not reader.join(_LEAVE_WITHIN_S):
                _log.warning("a consumer did not end in time", topic=topic, group=group)
        self._producer.close()
        self._administration.close()

    def _reader(self, topic: str, group: str) -> GroupReader:
        reader = self._readers.get((topic, group))
        if reader is None:
            if self._closed:
                raise Unavailable("this client of the queue is closed")
            reader = self._readers[topic, group] = GroupReader(self._settings, topic, group, self._protocol)
        return reader
