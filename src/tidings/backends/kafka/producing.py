"""Putting into Kafka: one future per batch, resolved by the thread that hears the delivery reports."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tidings.backends.kafka.connecting import Complaints, made, reach
from tidings.backends.kafka.settings import LARGEST_ITEM, KafkaSettings
from tidings.model.errors import Unavailable
from tidings.ports.queue import Item

_POLL = 0.2
_FULL_PAUSE = 0.005
_log = structlog.get_logger("tidings.kafka")


class _Batch:
    """Counts the reports of one put. Only the polling thread changes `left`."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = count
        self._error: KafkaError | None = None
        self.durable: asyncio.Future[KafkaError | None] = self._loop.create_future()

    def report(self, error: KafkaError | None, _: Message) -> None:
        """One item is durable, or is not."""
        if error is not None:
            self._error = error
        self._left -= 1
        if self._left == 0:
            _on_loop(self._loop, self._resolve)

    def _resolve(self) -> None:
        if not self.durable.done():
            self.durable.set_result(self._error)


class BatchProducer:
    """Makes batches of items durable. Raises SettingsError when it cannot be made."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._closing = False
        self._broken = False
        self._complaints = Complaints()
        self._producer = made(lambda: Producer(settings.producer(self._told)))
        self._thread = threading.Thread(target=self._poll, name="tidings-kafka-producer", daemon=True)
        self._thread.start()

    def connect(self, timeout: float) -> None:
        """Return when a broker answered (blocks). Raises as `reach`."""
        reach(self._producer, self._settings, self._complaints, timeout)

    async def put(self, items: Sequence[Item]) -> None:
        """Return when every item is acknowledged by all in-sync replicas.

        Raises:
            Unavailable: that is not known of every item.
            ValueError: an item is larger than LARGEST_ITEM.
        """
        if not items:
            return
        if any(len(item.body) > LARGEST_ITEM // 2 for item in items):
            raise ValueError(f"an item may have {LARGEST_ITEM // 2} bytes at most")
        if self._closing:
            raise Unavailable("this client of the queue is closed")
        batch = _Batch(len(items))
        produce, topic, report = self._producer.produce, self._settings.topic, batch.report
        for number, item in enumerate(items):
            try:
                produce(topic(item.topic), item.body, item.key, on_delivery=report, headers=_headers(item))
            except BufferError:
                await self._retry(item, batch)
            except KafkaException as error:
                raise Unavailable(f"Kafka took {number} of {len(items)} items: {_text(error.args[0])}") from error
        failed = await batch.durable
        if failed is not None:
            raise Unavailable(f"Kafka did not confirm all of {len(items)} items: {_text(failed)}")

    def close(self) -> None:
        """Wait for what is under way, as long as a put may take, and end (blocks)."""
        self._closing = True
        self._thread.join()
        if self._producer.flush(self._settings.delivery_timeout):
            self._producer.purge()
            self._producer.flush(1.0)
        self._producer.close()

    async def _retry(self, item: Item, batch: _Batch) -> None:
        """The producer's memory is full of what others put: wait for room."""
        deadline = time.monotonic() + self._settings.delivery_timeout
        while True:
            await asyncio.sleep(_FULL_PAUSE)
            try:
                self._producer.produce(
                    self._settings.topic(item.topic),
                    item.body,
                    item.key,
                    on_delivery=batch.report,
                    headers=_headers(item),
                )
            except BufferError as error:
                if time.monotonic() > deadline:
                    raise Unavailable("Kafka takes items more slowly than they are put") from error
            else:
                return

    def _poll(self) -> None:
        while not self._closing:
            try:
                if self._broken:
                    self._replace()
                self._producer.poll(_POLL)
            except KafkaException as error:
                self._told(error.args[0])
                time.sleep(_POLL)

    def _replace(self) -> None:
        """After a fatal error a producer takes nothing any more. What is under way in it is not confirmed."""
        broken, self._producer, self._broken = self._producer, Producer(self._settings.producer(self._told)), False
        broken.purge()
        broken.flush(_POLL)
        broken.close()

    def _told(self, error: KafkaError) -> None:
        self._complaints.told(error)
        if error.fatal():
            self._broken = True
        if error.fatal() or error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            _log.warning("kafka producer", why=_text(error))


def _headers(item: Item) -> list[tuple[str, str | bytes | None]] | None:
    return list(item.headers.items()) if item.headers else None


def _text(error: object) -> str:
    return error.str() if isinstance(error, KafkaError) else str(error)


def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Let the loop run `call`; a loop that has ended has nobody left who waits."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
