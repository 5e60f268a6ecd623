"""Which items of a topic are waiting, claimed or done in this client. No thread and no Kafka: the lane guards it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from enum import Enum, auto

from confluent_kafka import Message

from tidings.backends.kafka.progress import Progress, Run, runs_of
from tidings.model.errors import LeaseLost
from tidings.ports.queue import Received


class Partition:
    """A partition that belongs to this client, until `alive` is False. `dirty`: there is something to commit."""

    def __init__(self, number: int, progress: Progress) -> None:
        self.number = number
        self.progress = progress
        self.alive = True
        self.dirty = False


Entry = tuple[Partition, int, Received]
"""An item with its partition and offset."""


class Stand(Enum):
    """Where a batch stands."""

    OPEN = auto()
    ENDING = auto()
    ENDED = auto()


class Batch:
    """Entries that belong to one claim. `deadline` is on the clock of `time.monotonic`.

    `begun` are the places that were begun, `put` those for which outputs may have been put.
    """

    def __init__(self, entries: list[Entry], lease: float | None) -> None:
        self.entries = entries
        self.items: Sequence[Received] = [item for _, _, item in entries]
        self.partitions = {entry[0] for entry in entries}
        self.lease = lease
        self.deadline: float | None = None
        self.stand = Stand.OPEN
        self.begun: set[int] = set()
        self.put: set[int] = set()

    @property
    def unannounced(self) -> set[int]:
        """The places of which nothing was announced."""
        return set(range(len(self.entries))) - self.begun - self.put


class Ledger:
    """The state of one lane."""

    def __init__(self) -> None:
        self.waiting: deque[Entry] = deque()
        self._partitions: dict[int, Partition] = {}
        self._open: set[Batch] = set()

    def assign(self, number: int, progress: Progress, *, dirty: bool = False) -> None:
        """The partition belongs to this client from now on. `dirty`: what `progress` says is not committed yet."""
        self._partitions[number] = Partition(number, progress)
        self._partitions[number].dirty = dirty

    def restart(self, number: int, progress: Progress) -> None:
        """The log of the partition was cut: what waits of it is void, claims over it are lost, it starts anew."""
        self.revoke([number])
        self.assign(number, progress, dirty=True)

    def progress(self, number: int) -> Progress | None:
        """How far the partition is, if it belongs to this client."""
        partition = self._partitions.get(number)
        return None if partition is None else partition.progress

    def revoke_all(self) -> None:
        """The consumer is no more."""
        self.revoke(list(self._partitions))

    def revoke(self, numbers: Collection[int]) -> None:
        """These partitions belong to others from now on: what waits of them is theirs, claims over them are lost."""
        for number in numbers:
            if (gone := self._partitions.pop(number, None)) is not None:
                gone.alive = False
        self.waiting = deque(entry for entry in self.waiting if entry[0].alive)

    def arrive(self, messages: Iterable[Message]) -> None:
        """These were fetched, in the order of each partition."""
        append = self.waiting.append
        for message in messages:
            partition = self._partitions.get(_known(message.partition()))
            offset = _known(message.offset())
            if partition is None or not partition.progress.arrives(offset):
                continue
            received = Received(
                key=(message.key() or b"").decode("utf-8", "replace"),
                body=message.value() or b"",
                headers=_headers(message),
                redelivered=partition.progress.marked(offset),
                repeated=partition.progress.put.is_earlier(offset),
            )
            append((partition, offset, received))

    def take(self, max_items: int, lease: float | None) -> Batch:
        """Up to `max_items` of what waits; at least one must wait."""
        take = self.waiting.popleft
        batch = Batch([take() for _ in range(min(max_items, len(self.waiting)))], lease)
        self._open.add(batch)
        return batch

    def begin(self, batch: Batch, places: Collection[int], now: float) -> None:
        """These places are about to be handed over, once that is committed. Raises LeaseLost, as `check`."""
        self.check(batch, now)
        self._announce(batch, places, put=False)

    def put(self, batch: Batch, places: Collection[int], now: float) -> None:
        """Outputs for these places are about to be put, once that is committed. Raises LeaseLost, as `check`."""
        self.check(batch, now)
        self._announce(batch, places, put=True)

    def take_back(self, batch: Batch, places: Collection[int], *, put: bool) -> None:
        """What `begin` or `put` announced was not confirmed: nothing came of it."""
        (batch.put if put else batch.begun).difference_update(places)
        for partition, runs in _by_partition(batch.entries[place] for place in places):
            (partition.progress.put.take_back if put else partition.progress.forget)(runs)
            partition.dirty = True

    def check(self, batch: Batch, now: float) -> None:
        """Raises LeaseLost when the claimer has no right to the batch any more."""
        overdue = batch.deadline is not None and batch.deadline <= now
        if batch.stand is Stand.OPEN and (overdue or not all(partition.alive for partition in batch.partitions)):
            self._return(batch)
        if batch.stand is not Stand.OPEN:
            raise LeaseLost(f"the claim over {len(batch.entries)} items had ended before")

    def end(self, batch: Batch, now: float) -> None:
        """The claimer wants to end the batch. Raises LeaseLost, as `check`."""
        self.check(batch, now)
        batch.stand = Stand.ENDING

    def reopen(self, batch: Batch) -> None:
        """Ending it failed; it may be tried again."""
        batch.stand = Stand.OPEN

    def finish(self, batch: Batch, released: Collection[int] = ()) -> None:
        """Its items are done, except for those at the indices `released`, which wait again."""
        back = set(released)
        done = [entry for index, entry in enumerate(batch.entries) if index not in back] if back else batch.entries
        for partition, runs in _by_partition(done):
            partition.progress.finish(runs)
            partition.dirty = True
        self._return(batch, sorted(back))

    def give_back(self, batch: Batch) -> None:
        """Its items wait again, marked with what was announced of them."""
        self._return(batch)

    def expire(self, now: float) -> None:
        """Take back what was leased for too long."""
        for batch in [open for open in self._open if open.deadline is not None and open.deadline <= now]:
            if batch.stand is Stand.OPEN:
                self._return(batch)

    def busy(self, numbers: Collection[int]) -> bool:
        """Whether a claim holds items of these partitions."""
        return any(partition.number in numbers for batch in self._open for partition in batch.partitions)

    def snapshot(self) -> list[tuple[int, int, str]]:
        """What is to be committed, as (partition, offset, text); from now on it counts as committed."""
        offsets = []
        for number, partition in self._partitions.items():
            base = partition.progress.base
            if partition.dirty and base is not None:
                offsets.append((number, base, partition.progress.metadata()))
                partition.dirty = False
        return offsets

    def soil(self, numbers: Collection[int]) -> None:
        """A commit of these partitions failed."""
        for number in numbers:
            if (partition := self._partitions.get(number)) is not None:
                partition.dirty = True

    @property
    def dirty(self) -> bool:
        """Whether there is something to commit."""
        return any(partition.dirty for partition in self._partitions.values())

    @property
    def leased(self) -> bool:
        """Whether somebody may begin something."""
        return any(batch.lease is not None for batch in self._open)

    @property
    def active(self) -> bool:
        """Whether time may bring something to do: a lease to end, a commit to make."""
        return bool(self._open) or self.dirty

    def _announce(self, batch: Batch, places: Collection[int], *, put: bool) -> None:
        (batch.put if put else batch.begun).update(places)
        for partition, runs in _by_partition(batch.entries[place] for place in places):
            (partition.progress.put.add if put else partition.progress.begin)(runs)
            partition.dirty = True

    def _return(self, batch: Batch, places: Iterable[int] | None = None) -> None:
        """Close it; its items at these places (None: all) wait again, marked with what was announced of them."""
        back = list(range(len(batch.entries)) if places is None else places)
        for partition, runs in _by_partition(batch.entries[place] for place in back if place in batch.begun):
            partition.progress.mark(runs)
        for partition, runs in _by_partition(batch.entries[place] for place in back if place in batch.put):
            partition.progress.put.keep(runs)
        entries = []
        for place in back:
            partition, offset, item = batch.entries[place]
            if place in batch.begun or place in batch.put:
                redelivered, repeated = item.redelivered or place in batch.begun, item.repeated or place in batch.put
                item = Received(item.key, item.body, item.headers, redelivered, repeated)
            if partition.alive:
                entries.append((partition, offset, item))
        self.waiting.extendleft(reversed(entries))
        batch.stand = Stand.ENDED
        self._open.discard(batch)


def _by_partition(entries: Iterable[Entry]) -> list[tuple[Partition, list[Run]]]:
    """The live partitions of the entries with the runs of their offsets."""
    offsets: dict[Partition, list[int]] = {}
    for partition, offset, _ in entries:
        offsets.setdefault(partition, []).append(offset)
    return [(partition, runs_of(sorted(known))) for partition, known in offsets.items() if partition.alive]


def _known(number: int | None) -> int:
    """A fetched message has a partition and an offset; the type says that it may not."""
    if number is None:
        raise ValueError("a message without its place")
    return number


def _headers(message: Message) -> dict[str, str]:
    headers = message.headers()
    if not headers:
        return {}
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value or "" for name, value in pairs
    }
