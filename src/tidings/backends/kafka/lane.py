"""One group's reading of one topic: a Kafka consumer in a thread of its own, and the claims over what it fetched.

The thread alone talks to the consumer. The event loop and the thread meet in the ledger, under one lock. What a claimer
announces ("begun", or "outputs are put") holds when the commit that says it has been confirmed; all that is announced
while one commit is under way shares the next one. Offsets of done items are committed together with the next such
commit, or after `commit_interval`; a crash in between repeats those items.
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

_TICK = 0.1
"""Seconds between two looks at the clock while nothing comes."""
_IDLE_TICK = 0.25
"""The same while nothing is claimed either."""
_SHORTEST_WAIT = 0.05
_PATIENCE = 2.0
"""Seconds after which a commit that is not confirmed counts as trouble."""
_IDLE_AHEAD = 50
"""How many items an idle lane holds before it tells the broker to pause."""
_MOST_AT_ONCE = 20_000
_REVIVAL = 1.0
_log = structlog.get_logger("tidings.kafka")


class Lane:
    """Reads `topic` for `group`."""

    def __init__(self, settings: KafkaSettings, topic: str, group: str, protocol: GroupProtocol) -> None:
        self._settings = settings
        self._protocol = protocol
        self._topic = settings.topic(topic)
        self._name = f"{group}.{topic}"
        self._config = partial(settings.consumer, topic, group, on_error=self._told, on_commit=self._on_commit)
        self._changed = threading.Condition()
        self._ledger = Ledger()
        self._requests: deque[Request] = deque()
        self.announcements = Announcements(self._name, self._ledger, self._changed)
        self._asked_at: float | None = None
        self._failure: str | None = None
        self._fatal: KafkaError | None = None
        self._probed = self._committed_at = 0.0
        self._paused: bool | None = False
        self._assigned = self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"tidings-kafka-{self._name}", daemon=True)
        self._thread.start()

    # --- the event loop's side ---

    async def claim(self, max_items: int, max_wait: float, lease: float | None) -> Batch | None:
        """A batch, or None when nothing came within `max_wait` seconds. Raises Unavailable when Kafka is away."""
        request = Request(max_items, lease)
        with self._changed:
            if self._stopping:
                raise Unavailable("this client of the queue is closed")
            self._requests.append(request)
            self._changed.notify()
        try:
            await asyncio.wait([request.answer], timeout=max(max_wait, _SHORTEST_WAIT))
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
        """Before the outputs of a batch are put. Raises LeaseLost."""
        with self._changed:
            try:
                self._ledger.end(batch, time.monotonic())
            finally:
                self._changed.notify()

    def reopen(self, batch: Batch) -> None:
        """The outputs could not be put."""
        with self._changed:
            self._ledger.reopen(batch)

    def finish(self, batch: Batch, released: Collection[int]) -> None:
        """The outputs of the batch are durable; what is done will be committed."""
        with self._changed:
            self._ledger.finish(batch, released)
            self._changed.notify()

    def give_back(self, batch: Batch) -> None:
        """The batch waits again."""
        with self._changed:
            self._ledger.give_back(batch)
            self._changed.notify()

    def stop(self) -> None:
        """Tell the thread to end: commit what is done, leave the group. Claims that are open are lost."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, timeout: float) -> bool:
        """Wait for the thread (blocks); whether it ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _withdraw(self, request: Request) -> bool:
        """Stop waiting; False when items are on their way already."""
        with self._changed:
            if request.taken:
                return False
            self._requests.remove(request)
            return True

    def _abandon(self, request: Request) -> None:
        """Nobody waits for the answer any more: what is in it, or on its way, goes back."""
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
                    _log.exception("a consumer broke down; a new one takes its place", lane=self._name)
                with self._changed:
                    self._ledger.revoke_all()
                    self._changed.wait_for(lambda: self._stopping, _REVIVAL)
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
            if now - self._committed_at >= self._settings.commit_interval:
                self._commit(consumer)
            if (self._failure is not None or not self._assigned) and now - self._probed >= _REVIVAL:
                self._probe(consumer)
        self._confirm(consumer)
        if self._ledger.dirty:
            self._probe(consumer)
        self._commit(consumer)

    def _fetch(self, consumer: Consumer) -> None:
        """Take new messages in; waits for the first one, or for whatever else may happen, for a tick."""
        with self._changed:
            wanted = sum(request.max_items for request in self._requests)
            waiting = len(self._ledger.waiting)
            tick = self._tick()
            if not wanted and waiting and not self.announcements:
                self._changed.wait(_TICK)
                wanted = sum(request.max_items for request in self._requests)
        self._set_paused(consumer, paused=not wanted and waiting >= _IDLE_AHEAD)
        # `consume` of many would wait for all of them: wait for one, then take what else is there.
        # It is taken in before the rest is asked for: meanwhile its partition may go, and come back from the start.
        if self._take_in(consumer, consumer.consume(1, 0 if waiting else tick)) and wanted > waiting + 1:
            self._take_in(consumer, consumer.consume(min(wanted - waiting - 1, _MOST_AT_ONCE), 0))

    def _tick(self) -> float:
        """How long to wait for a message. Nothing else ends that wait, neither a claim nor an announcement."""
        if self.announcements:
            return 0.0
        if self._ledger.leased:
            return self.announcements.tick()
        return _TICK if self._ledger.active else _IDLE_TICK

    def _take_in(self, consumer: Consumer, messages: Sequence[Message]) -> bool:
        """Whether there was anything."""
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
        """Instead of an item, the consumer tells of an error."""
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
        """Hand out what waits."""
        served: list[tuple[Request, Batch]] = []
        with self._changed:
            while self._requests and self._ledger.waiting:
                request = self._requests.popleft()
                request.taken = True
                served.append((request, self._ledger.take(request.max_items, request.lease)))
            if served:
                self.announcements.expect()
        for request, batch in served:
            self._answer(request, batch)

    def _confirm(self, consumer: Consumer | None) -> None:
        """Commit what was announced, all of it at once. Without a consumer there is nobody to commit it."""
        if announced := self.announcements.take():
            confirmed = consumer is not None and self._commit(consumer, wait=True)
            for one in announced:
                one.tell(confirmed=confirmed)

    def _commit(self, consumer: Consumer, *, wait: bool = False) -> bool:
        """Commit what is dirty; with `wait`, whether that was confirmed."""
        if self._stopping and self._failure is not None:
            return False  # closing would wait for the answer, for most of a minute
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
        """A commit was confirmed, or failed. Called by the consumer inside `consume` for those that nobody awaits."""
        error = error or next((place.error for place in places if place.error is not None), None)
        if error is None:
            self._failure = None
            return True
        with self._changed:
            self._ledger.soil([place.partition for place in places])
        self._fail(f"a commit failed: {error.str()}")
        return False

    def _answer(self, request: Request, answer: Batch | Unavailable) -> None:
        """Tell the claimer, in its loop."""
        if isinstance(answer, Batch) and answer.lease is not None:
            answer.deadline = time.monotonic() + answer.lease
        if isinstance(answer, Batch) and request.abandoned:
            # Not by way of the loop: this thread may be about to end.
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

    # --- partitions come and go; called by the consumer inside `consume` and `close` ---

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        known: list[tuple[int, Progress, bool]] | None = None
        while known is None and not self._stopping:
            try:
                known = list(committed(consumer, places))
            except KafkaException as error:
                self._fail(f"the offsets of the group are not to be had: {error.args[0]}")
        if known is None:
            return
        with self._changed:
            for number, progress, dirty in known:
                self._ledger.assign(number, progress, dirty=dirty)
        consumer.incremental_assign([TopicPartition(self._topic, number, p.base or 0) for number, p, _ in known])
        # The new ones flow, those kept over a rebalance may be paused.
        self._paused = None
        self._assigned = True

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Let the claims over these partitions end first, for a while."""
        numbers = {place.partition for place in places}
        deadline = time.monotonic() + self._settings.drain
        with self._changed:
            self.announcements.leaving = frozenset(numbers)
        while not self._stopping and time.monotonic() < deadline:
            with self._changed:
                self._ledger.expire(time.monotonic())
                if not self._ledger.busy(numbers):
                    break
                if not self.announcements:
                    self._changed.wait(_TICK)
            self._confirm(consumer)
        self._commit(consumer)
        self._on_lost(consumer, places)
        self.announcements.leaving = frozenset()

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        with self._changed:
            self._ledger.revoke([place.partition for place in places])
        consumer.incremental_unassign(places)

    def _set_paused(self, consumer: Consumer, *, paused: bool) -> None:
        """Pause or resume every partition that is assigned, when they are not known to be so."""
        if paused != self._paused:
            (consumer.pause if paused else consumer.resume)(consumer.assignment())
            self._paused = paused

    # --- trouble ---

    def _trouble(self) -> str | None:
        """What is wrong, as far as anybody can tell; the thread itself may hang in a call."""
        asked_at = self._asked_at
        if asked_at is not None and time.monotonic() - asked_at > _PATIENCE:
            return "it does not confirm a commit"
        return self._failure

    def _told(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error  # such a consumer gets nothing any more, and says so only once
        elif error.code() in {KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION}:  # noqa: SLF001
            self._fail(error.str())

    def _fail(self, why: str) -> None:
        if self._failure != why:
            _log.warning("kafka consumer", lane=self._name, why=why)
        self._failure = why

    def _probe(self, consumer: Consumer) -> None:
        """Whether the broker is there, and the topic: nothing else would tell a lane that gets nothing."""
        self._probed = time.monotonic()
        try:
            known = consumer.list_topics(self._topic, timeout=_REVIVAL / 2).topics[self._topic]
        except KafkaException as error:
            self._fail(str(error.args[0]))
        else:
            self._failure = None if known.error is None else f"{known.error.str()}: declare the topic"
