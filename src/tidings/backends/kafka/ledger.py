"""The waiting, claimed and done items of a topic in this client. Has no thread; the reader's lock guards it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from enum import Enum, auto

from confluent_kafka import Message

from tidings.backends.kafka.progress import Progress, Run, runs_of
from tidings.model.errors import LeaseLost
from tidings.ports.queue import Received


class Partition:
    """A partition that this client owns while `alive`. `dirty`: its progress must be committed."""

    def __init__(self, number: int, progress: Progress) -> None:
        self.number = number
        self.progress = progress
        self.alive = True
        self.dirty = False


Entry = tuple[Partition, int, Received]
"""An item with its partition and offset."""


class BatchState(Enum):
    """OPEN: claimed. ENDING: its outputs are being put. ENDED: done, released or lost."""

    OPEN = auto()
    ENDING = auto()
    ENDED = auto()


class Batch:
    """The entries of one claim. `deadline` is an instant of `time.monotonic`, in seconds.

    `begun` are the indices of entries that were begun, `put` those for which outputs may have been put.
    """

    def __init__(self, entries: list[Entry], lease_s: float | None) -> None:
        self.entries = entries
        self.items: Sequence[Received] = [item for _, _, item in entries]
        self.partitions = {entry[0] for entry in entries}
        self.lease_s = lease_s
        self.deadline: float | None = None
        self.state = BatchState.OPEN
        self.begun: set[int] = set()
        self.put: set[int] = set()

    @property
    def unannounced(self) -> set[int]:
        """The indices of entries that are in neither `begun` nor `put`."""
        return set(range(len(self.entries))) - self.begun - self.put


class Ledger:
    """The state of one reader's items and partitions."""

    def __init__(self) -> None:
        self.waiting: deque[Entry] = deque()
        self._partitions: dict[int, Partition] = {}
        self._open: set[Batch] = set()

    def assign(self, number: int, progress: Progress, *, dirty: bool = False) -> None:
        """This client owns the partition from now on. `dirty`: `progress` is not committed yet."""
        self._partitions[number] = Partition(number, progress)
        self._partitions[number].dirty = dirty

    def restart(self, number: int, progress: Progress) -> None:
        """Start the partition again after its log was cut: drop its waiting items and lose claims that hold some."""
        self.revoke([number])
        self.assign(number, progress, dirty=True)

    def progress(self, number: int) -> Progress | None:
        """The partition's progress; None if this client does not own it."""
        partition = self._partitions.get(number)
        return None if partition is None else partition.progress

    def revoke_all(self) -> None:
        """Give up all partitions, because the consumer has ended."""
        self.revoke(list(self._partitions))

    def revoke(self, numbers: Collection[int]) -> None:
        """Give up these partitions: drop their waiting items and lose claims that hold some."""
        for number in numbers:
            if (gone := self._partitions.pop(number, None)) is not None:
                gone.alive = False
        self.waiting = deque(entry for entry in self.waiting if entry[0].alive)

    def arrive(self, messages: Iterable[Message]) -> None:
        """Take in fetched messages, which are in order within each partition."""
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

    def take(self, max_items: int, lease_s: float | None) -> Batch:
        """A batch of up to `max_items` waiting items. At least one must wait."""
        assert self.waiting  # noqa: S101 - an empty batch would be handed out as a claim
        take = self.waiting.popleft
        batch = Batch([take() for _ in range(min(max_items, len(self.waiting)))], lease_s)
        self._open.add(batch)
        return batch

    def begin(self, batch: Batch, places: Collection[int], now: float) -> None:
        """Announce that these items will be handed over after the commit. Raises LeaseLost, as `check`."""
        self.check(batch, now)
        self._announce(batch, places, put=False)

    def put(self, batch: Batch, places: Collection[int], now: float) -> None:
        """Announce that outputs for these items will be put after the commit. Raises LeaseLost, as `check`."""
        self.check(batch, now)
        self._announce(batch, places, put=True)

    def take_back(self, batch: Batch, places: Collection[int], *, put: bool) -> None:
        """Undo an announcement of `begin` or `put` whose commit was not confirmed."""
        (batch.put if put else batch.begun).difference_update(places)
        for partition, runs in _by_partition(batch.entries[place] for place in places):
            (partition.progress.put.take_back if put else partition.progress.forget)(runs)
            partition.dirty = True

    def check(self, batch: Batch, now: float) -> None:
        """Raises LeaseLost if the claimer no longer owns the batch."""
        overdue = batch.deadline is not None and batch.deadline <= now
        if batch.state is BatchState.OPEN and (overdue or not all(partition.alive for partition in batch.partitions)):
            self._return(batch)
        if batch.state is not BatchState.OPEN:
            raise LeaseLost(f"the claim over {len(batch.entries)} items had ended before")

    def end(self, batch: Batch, now: float) -> None:
        """Start ending the batch: it can no longer expire. Raises LeaseLost, as `check`."""
        self.check(batch, now)
        batch.state = BatchState.ENDING

    def reopen(self, batch: Batch) -> None:
        """Return to OPEN after a failed attempt to end the batch, which may be repeated."""
        batch.state = BatchState.OPEN

    def finish(self, batch: Batch, released: Collection[int] = ()) -> None:
        """End the batch. Its items are done, except for those at the indices `released`, which wait again."""
        back = set(released)
        done = [entry for index, entry in enumerate(batch.entries) if index not in back] if back else batch.entries
        for partition, runs in _by_partition(done):
            partition.progress.finish(runs)
            partition.dirty = True
        self._return(batch, sorted(back))

    def give_back(self, batch: Batch) -> None:
        """End the batch. All its items wait again, with marks for what was announced about them."""
        self._return(batch)

    def expire(self, now: float) -> None:
        """End the batches whose lease has ended."""
        for batch in [open for open in self._open if open.deadline is not None and open.deadline <= now]:
            if batch.state is BatchState.OPEN:
                self._return(batch)

    def busy(self, numbers: Collection[int]) -> bool:
        """True if a claim holds items of these partitions."""
        return any(partition.number in numbers for batch in self._open for partition in batch.partitions)

    def snapshot(self) -> list[tuple[int, int, str]]:
        """The dirty partitions as (number, offset, text) for a commit. From now on they count as committed."""
        offsets = []
        for number, partition in self._partitions.items():
            base = partition.progress.base
            if partition.dirty and base is not None:
                offsets.append((number, base, partition.progress.metadata()))
                partition.dirty = False
        return offsets

    def mark_dirty(self, numbers: Collection[int]) -> None:
        """Commit these partitions (again)."""
        for number in numbers:
            if (partition := self._partitions.get(number)) is not None:
                partition.dirty = True

    @property
    def dirty(self) -> bool:
        """True if some partition must be committed."""
        return any(partition.dirty for partition in self._partitions.values())

    @property
    def leased(self) -> bool:
        """True if a leased batch is open, whose claimer may begin items."""
        return any(batch.lease_s is not None for batch in self._open)

    @property
    def active(self) -> bool:
        """True if the passing of time alone may require work: a lease may end, a commit may be due."""
        return bool(self._open) or self.dirty

    def _announce(self, batch: Batch, places: Collection[int], *, put: bool) -> None:
        (batch.put if put else batch.begun).update(places)
        for partition, runs in _by_partition(batch.entries[place] for place in places):
            (partition.progress.put.add if put else partition.progress.begin)(runs)
            partition.dirty = True

    def _return(self, batch: Batch, places: Iterable[int] | None = None) -> None:
        """End the batch. Its items at `places` (None: all) wait again, with marks for what was announced about them."""
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
        batch.state = BatchState.ENDED
        self._open.discard(batch)


def _by_partition(entries: Iterable[Entry]) -> list[tuple[Partition, list[Run]]]:
    """The runs of the entries' offsets, for each partition that is alive."""
    offsets: dict[Partition, list[int]] = {}
    for partition, offset, _ in entries:
        offsets.setdefault(partition, []).append(offset)
    return [(partition, runs_of(sorted(known))) for partition, known in offsets.items() if partition.alive]


def _known(number: int | None) -> int:
    """A fetched message's partition or offset, which the driver's type declares as optional."""
    if number is None:
        raise ValueError("a fetched message has no partition or no offset")
    return number


def _headers(message: Message) -> dict[str, str]:
    headers = message.headers()
    if not headers:
        return {}
    pairs = headers.items() if isinstance(headers, dict) else headers
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value or "" for name, value in pairs
    }
