"""Reads one topic for one group: a Kafka consumer in a thread of its own, and the claims over the items it fetched.

Only the thread talks to the consumer. The event loop and the thread share the ledger, under one lock. An announcement
of a claimer ("these items are begun", "outputs are being put") holds once Kafka has confirmed its commit. All
announcements made during one commit share the next one. Offsets of done items go along with such a commit, or are
committed after `commit_interval_s`; a crash in between repeats those items.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from functools import partial

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tidings.backends.kafka.asking import Announcements, Request
from tidings.backends.kafka.ledger import Batch, Ledger
from tidings.backends.kafka.positions import LOST, committed, found_again
from tidings.backends.kafka.progress import Progress
from tidings.backends.kafka.protocol import GroupProtocol
from tidings.backends.kafka.settings import KafkaSettings
from tidings.model.errors import Unavailable

_TICK_S = 0.1
"""Seconds between two looks at the clock while claims are open or a commit is due."""
_IDLE_TICK_S = 0.25
"""Seconds between two looks while nothing is claimed and nothing must be committed."""
_SHORTEST_WAIT_S = 0.05
_CONFIRM_WITHIN_S = 2.0
"""Seconds after which an unconfirmed commit counts as a failure of Kafka."""
_IDLE_AHEAD = 50
"""The number of items that an idle reader holds before it pauses its partitions."""
_MOST_AT_ONCE = 20_000
_RETRY_AFTER_S = 1.0
_log = structlog.get_logger("tidings.kafka")


class GroupReader:
    """Reads `topic` for `group`. The methods up to `join` are for the event loop; the rest run in the thread."""

    def __init__(self, settings: KafkaSettings, topic: str, group: str, protocol: GroupProtocol) -> None:
        self._settings = settings
        self._protocol = protocol
        self._topic = settings.topic(topic)
        self._name = f"{group}.{topic}"
        self._config = partial(settings.consumer, topic, group, on_error=self._on_error, on_commit=self._on_commit)
        self._changed = threading.Condition()
        self._ledger = Ledger()
        self._requests: deque[Request] = deque()
        self.announcements = Announcements(self._name, self._ledger, self._changed)
        self._asked_at: float | None = None
        self._failure: str | None = None
        self._fatal: KafkaError | None = None
        self._probed_at = self._committed_at = 0.0
        self._paused: bool | None = False
        self._assigned = self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"tidings-kafka-{self._name}", daemon=True)
        self._thread.start()

    # --- the event loop's side ---

    async def claim(self, max_items: int, max_wait_s: float, lease_s: float | None) -> Batch | None:
        """A batch, or None if no item came within `max_wait_s` seconds. Raises Unavailable if Kafka is away."""
        request = Request(max_items, lease_s)
        with self._changed:
            if self._stopping:
                raise Unavailable("this client of the queue is closed")
            self._requests.append(request)
            self._changed.notify()
        try:
            await asyncio.wait([request.answer], timeout=max(max_wait_s, _SHORTEST_WAIT_S))
            if not request.answer.done() and self._withdraw(request):
                if (why := self._trouble()) is not None:
                    raise Unavailable(f"Kafka does not serve {self._name}: {why}")
                return None
            await asyncio.wait([request.answer])
        except asyncio.CancelledError:
            self._abandon(request)
            raise
        return request.answer.result()

    def end(self, batch: Batch) -> None:
        """Start ending the batch. Call it before its outputs are put. Raises LeaseLost."""
        with self._changed:
            try:
                self._ledger.end(batch, time.monotonic())
            finally:
                self._changed.notify()

    def reopen(self, batch: Batch) -> None:
        """Undo `end`, because the outputs could not be put."""
        with self._changed:
            self._ledger.reopen(batch)

    def finish(self, batch: Batch, released: Collection[int]) -> None:
        """End the batch, whose outputs are durable. Its done items will be committed."""
        with self._changed:
            self._ledger.finish(batch, released)
            self._changed.notify()

    def give_back(self, batch: Batch) -> None:
        """End the batch. Its items wait again."""
        with self._changed:
            self._ledger.give_back(batch)
            self._changed.notify()

    def stop(self) -> None:
        """Tell the thread to commit done items, leave the group and end. Open claims are lost."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the thread (blocks). True if it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _withdraw(self, request: Request) -> bool:
        """Withdraw the request. False if a batch is already on its way."""
        with self._changed:
            if request.taken:
                return False
            self._requests.remove(request)
            return True

    def _abandon(self, request: Request) -> None:
        """The claimer was cancelled: withdraw its request, or give its batch back."""
        with self._changed:
            request.abandoned = True
            if not request.taken:
                if request in self._requests:
                    self._requests.remove(request)
            elif request.answer.done() and request.answer.exception() is None:
                self._ledger.give_back(request.answer.result())
                self._changed.notify()

    # --- the thread's side ---

    def _run(self) -> None:
        while not self._stopping:
            protocol, self._fatal = self._protocol.name, None
            try:
                consumer = Consumer(self._config(protocol=protocol))
                try:
                    self._read(consumer)
                finally:
                    consumer.close()
            except Exception as error:
                if isinstance(error, KafkaException) and self._protocol.refused(protocol, error.args[0]):
                    continue
                self._fail(str(error))
                if not isinstance(error, KafkaException):
                    _log.exception("a consumer failed and is replaced by a new one", group=self._name)
                with self._changed:
                    self._ledger.revoke_all()
                    self._changed.wait_for(lambda: self._stopping, _RETRY_AFTER_S)
        with self._changed:
            self.announcements.close()
            left = list(self._requests)
            self._requests.clear()
        for request in left:
            self._answer(request, Unavailable("this client of the queue is closed"))
        self._confirm(None)

    def _read(self, consumer: Consumer) -> None:
        consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        while not self._stopping:
            self._fetch(consumer)
            if self._fatal is not None:
                raise KafkaException(self._fatal)
            with self._changed:
                now = time.monotonic()
                self._ledger.expire(now)
            self._confirm(consumer)
            self._serve()
            if now - self._committed_at >= self._settings.commit_interval_s:
                self._commit(consumer)
            if (self._failure is not None or not self._assigned) and now - self._probed_at >= _RETRY_AFTER_S:
                self._probe(consumer)
        self._confirm(consumer)
        if self._ledger.dirty:
            self._probe(consumer)
        self._commit(consumer)

    def _fetch(self, consumer: Consumer) -> None:
        """Take in new messages. Waits for the first one for at most a tick, so that other work is not delayed."""
        with self._changed:
            wanted = sum(request.max_items for request in self._requests)
            waiting = len(self._ledger.waiting)
            tick = self._tick()
            if not wanted and waiting and not self.announcements:
                self._changed.wait(_TICK_S)
                wanted = sum(request.max_items for request in self._requests)
        self._set_paused(consumer, paused=not wanted and waiting >= _IDLE_AHEAD)
        # `consume` of many waits until it has all of them, so wait for one and then take the others without waiting.
        # Take the first one in at once: the next call may revoke its partition and assign it again from its offset.
        if self._take_in(consumer, consumer.consume(1, 0 if waiting else tick)) and wanted > waiting + 1:
            self._take_in(consumer, consumer.consume(min(wanted - waiting - 1, _MOST_AT_ONCE), 0))

    def _tick(self) -> float:
        """Seconds to wait for a message. Neither a claim nor an announcement ends that wait early."""
        if self.announcements:
            return 0.0
        if self._ledger.leased:
            return self.announcements.tick()
        return _TICK_S if self._ledger.active else _IDLE_TICK_S

    def _take_in(self, consumer: Consumer, messages: Sequence[Message]) -> bool:
        """Add the messages to the ledger and handle those that report errors. False if there were none."""
        if not messages:
            return False
        readable = [message for message in messages if message.error() is None]
        with self._changed:
            self._ledger.arrive(readable)
        if len(readable) < len(messages):
            for message in messages:
                if (error := message.error()) is not None:
                    self._heed(consumer, message, error)
        else:
            self._failure = None
        return True

    def _heed(self, consumer: Consumer, message: Message, error: KafkaError) -> None:
        """Handle a message that reports an error instead of an item."""
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
            raise KafkaException(error)
        number = message.partition()
        progress = None if number is None else self._ledger.progress(number)
        if error.code() not in LOST or number is None or progress is None:
            self._fail(error.str())
            return
        place = TopicPartition(self._topic, number)
        offset, anew = found_again(consumer, place, progress, error.code())
        if anew is not None:
            with self._changed:
                self._ledger.restart(number, anew)
        consumer.incremental_unassign([place])
        consumer.incremental_assign([TopicPartition(self._topic, number, offset)])
        self._paused = None

    def _serve(self) -> None:
        """Hand out waiting items to waiting claimers."""
        served: list[tuple[Request, Batch]] = []
        with self._changed:
            while self._requests and self._ledger.waiting:
                request = self._requests.popleft()
                request.taken = True
                served.append((request, self._ledger.take(request.max_items, request.lease_s)))
            if served:
                self.announcements.expect()
        for request, batch in served:
            self._answer(request, batch)

    def _confirm(self, consumer: Consumer | None) -> None:
        """Commit all announcements at once and answer them. Without a consumer the answer is False."""
        if announced := self.announcements.take():
            confirmed = consumer is not None and self._commit(consumer, wait=True)
            for one in announced:
                one.tell(confirmed=confirmed)

    def _commit(self, consumer: Consumer, *, wait: bool = False) -> bool:
        """Commit the dirty partitions. With `wait`, returns whether Kafka confirmed it."""
        if self._stopping and self._failure is not None:
            return False  # otherwise closing would wait for the answer for most of a minute
        with self._changed:
            offsets = self._ledger.snapshot()
        self._committed_at = time.monotonic()
        if not offsets:
            return True
        places = [TopicPartition(self._topic, number, base, metadata=text) for number, base, text in offsets]
        try:
            if not wait:
                consumer.commit(offsets=places, asynchronous=True)
                return True
            self._asked_at = self._committed_at
            return self._on_commit(None, consumer.commit(offsets=places, asynchronous=False))
        except KafkaException as error:
            return self._on_commit(error.args[0], places)
        finally:
            self._asked_at = None

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> bool:
        """Handle the result of a commit. The consumer calls it inside `consume` for commits that nobody waits for."""
        error = error or next((place.error for place in places if place.error is not None), None)
        if error is None:
            self._failure = None
            return True
        with self._changed:
            self._ledger.mark_dirty([place.partition for place in places])
        self._fail(f"a commit failed: {error.str()}")
        return False

    def _answer(self, request: Request, answer: Batch | Unavailable) -> None:
        """Give the claimer its answer, in its event loop."""
        if isinstance(answer, Batch) and answer.lease_s is not None:
            answer.deadline = time.monotonic() + answer.lease_s
        if isinstance(answer, Batch) and request.abandoned:
            # Directly, not through the event loop: this thread may be about to end.
            self.give_back(answer)
        elif not request.loop.is_closed():
            request.loop.call_soon_threadsafe(self._resolve, request, answer)
        elif isinstance(answer, Batch):
            self.give_back(answer)

    def _resolve(self, request: Request, answer: Batch | Unavailable) -> None:
        if isinstance(answer, Unavailable):
            if not request.answer.done() and not request.abandoned:
                request.answer.set_exception(answer)
        elif request.abandoned:
            self.give_back(answer)
        else:
            request.answer.set_result(answer)

    # --- assignment of partitions; the consumer calls these inside `consume` and `close` ---

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        known: list[tuple[int, Progress, bool]] | None = None
        while known is None and not self._stopping:
            try:
                known = list(committed(consumer, places))
            except KafkaException as error:
                self._fail(f"the group's offsets cannot be read: {error.args[0]}")
        if known is None:
            return
        with self._changed:
            for number, progress, dirty in known:
                self._ledger.assign(number, progress, dirty=dirty)
        consumer.incremental_assign([TopicPartition(self._topic, number, p.base or 0) for number, p, _ in known])
        # New partitions are not paused; those kept over a rebalance may be.
        self._paused = None
        self._assigned = True

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Give up these partitions, after waiting up to `drain_s` for the claims over them to end."""
        numbers = {place.partition for place in places}
        deadline = time.monotonic() + self._settings.drain_s
        with self._changed:
            self.announcements.leaving = frozenset(numbers)
        while not self._stopping and time.monotonic() < deadline:
            with self._changed:
                self._ledger.expire(time.monotonic())
                if not self._ledger.busy(numbers):
                    break
                if not self.announcements:
                    self._changed.wait(_TICK_S)
            self._confirm(consumer)
        self._commit(consumer)
        self._on_lost(consumer, places)
        self.announcements.leaving = frozenset()

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        with self._changed:
            self._ledger.revoke([place.partition for place in places])
        consumer.incremental_unassign(places)

    def _set_paused(self, consumer: Consumer, *, paused: bool) -> None:
        """Pause or resume all assigned partitions, unless all are known to be in that state."""
        if paused != self._paused:
            (consumer.pause if paused else consumer.resume)(consumer.assignment())
            self._paused = paused

    # --- trouble ---

    def _trouble(self) -> str | None:
        """What is wrong with Kafka, or None. Looks at the clock, because the thread may hang in a call."""
        asked_at = self._asked_at
        if asked_at is not None and time.monotonic() - asked_at > _CONFIRM_WITHIN_S:
            return "it does not confirm a commit"
        return self._failure

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error  # such a consumer gets no more messages, and reports the error only once
        elif error.code() in {KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION}:  # noqa: SLF001
            self._fail(error.str())

    def _fail(self, why: str) -> None:
        if self._failure != why:
            _log.warning("kafka consumer", group=self._name, why=why)
        self._failure = why

    def _probe(self, consumer: Consumer) -> None:
        """Ask whether the broker answers and the topic exists: without messages there is no other sign."""
        self._probed_at = time.monotonic()
        try:
            known = consumer.list_topics(self._topic, timeout=_RETRY_AFTER_S / 2).topics[self._topic]
        except KafkaException as error:
            self._fail(str(error.args[0]))
        else:
            self._failure = None if known.error is None else f"{known.error.str()}: declare the topic"
