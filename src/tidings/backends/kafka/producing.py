"""Puts items into Kafka. Each batch has one future, which the thread that polls for delivery reports resolves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tidings.backends.kafka.connecting import Complaints, made, reach
from tidings.backends.kafka.settings import MOST_ITEM_BYTES, KafkaSettings
from tidings.model.errors import Unavailable
from tidings.ports.queue import Item

_POLL_S = 0.2
_FULL_PAUSE_S = 0.005
_log = structlog.get_logger("tidings.kafka")


class _Batch:
    """Counts the delivery reports of one put. Only the polling thread changes `_left`."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = count
        self._error: KafkaError | None = None
        self.durable: asyncio.Future[KafkaError | None] = self._loop.create_future()

    def report(self, error: KafkaError | None, _: Message) -> None:
        """Take in the report that one item is durable, or that it is not."""
        if error is not None:
            self._error = error
        self._left -= 1
        if self._left == 0:
            _on_loop(self._loop, self._resolve)

    def _resolve(self) -> None:
        if not self.durable.done():
            self.durable.set_result(self._error)


class BatchProducer:
    """Makes batches of items durable. Raises SettingsError if the settings cannot be used."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._closing = False
        self._broken = False
        self._complaints = Complaints()
        self._producer = made(lambda: Producer(settings.producer(self._on_error)))
        self._thread = threading.Thread(target=self._poll, name="tidings-kafka-producer", daemon=True)
        self._thread.start()

    def connect(self, timeout: float) -> None:
        """Return once a broker has answered (blocks). Raises as `reach`."""
        reach(self._producer, self._settings, self._complaints, timeout)

    async def put(self, items: Sequence[Item]) -> None:
        """Return once all in-sync replicas have acknowledged every item.

        Raises:
            Unavailable: some items may not be durable.
            ValueError: an item's body is larger than half of MOST_ITEM_BYTES.
        """
        if not items:
            return
        if any(len(item.body) > MOST_ITEM_BYTES // 2 for item in items):
            raise ValueError(f"an item's body may have at most {MOST_ITEM_BYTES // 2} bytes")
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
        """Wait for puts under way, at most as long as a put may take, and end (blocks)."""
        self._closing = True
        self._thread.join()
        if self._producer.flush(self._settings.delivery_timeout_s):
            self._producer.purge()
            self._producer.flush(1.0)
        self._producer.close()

    async def _retry(self, item: Item, batch: _Batch) -> None:
        """Put one item once the producer's buffer, which is full, has room again."""
        deadline = time.monotonic() + self._settings.delivery_timeout_s
        while True:
            await asyncio.sleep(_FULL_PAUSE_S)
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
                    raise Unavailable(
                        "Kafka takes items more slowly than they are put: the producer's buffer is full"
                    ) from error
            else:
                return

    def _poll(self) -> None:
        while not self._closing:
            try:
                if self._broken:
                    self._replace()
                self._producer.poll(_POLL_S)
            except KafkaException as error:
                self._on_error(error.args[0])
                time.sleep(_POLL_S)

    def _replace(self) -> None:
        """Replace the producer, which accepts no items after a fatal error. Puts under way in it stay unconfirmed."""
        broken, self._producer, self._broken = self._producer, Producer(self._settings.producer(self._on_error)), False
        broken.purge()
        broken.flush(_POLL_S)
        broken.close()

    def _on_error(self, error: KafkaError) -> None:
        self._complaints.note(error)
        if error.fatal():
            self._broken = True
        if error.fatal() or error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            _log.warning("kafka producer", why=_text(error))


def _headers(item: Item) -> list[tuple[str, str | bytes | None]] | None:
    return list(item.headers.items()) if item.headers else None


def _text(error: object) -> str:
    return error.str() if isinstance(error, KafkaError) else str(error)


def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Run `call` in the loop. If the loop has ended, nobody waits any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
