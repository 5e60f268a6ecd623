"""What arrived: a bounded log in memory, counts, and an append-only file for ledgers outside."""

from __future__ import annotations

import asyncio
import heapq
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import Struct

from tidings.model.errors import SettingsError

REFUSED = "refused"
_NO_TAGS: dict[str, str] = {}
_DELIVERY_TAGS = ("tidings_delivery", "delivery", "delivery_id")
_ATTEMPT_TAGS = ("tidings_attempt", "attempt")


class Parts(Struct, frozen=True, gc=False):
    """Content that came in parts. `substitutions` are still to be made in `title`, `text` and `html`."""

    title: str = ""
    text: str = ""
    html: str = ""
    link: str = ""
    to_name: str = ""
    from_name: str = ""
    substitutions: Mapping[str, str] = _NO_TAGS


class Mime(Struct, frozen=True, gc=False):
    """Content that came as one MIME document, read only when somebody looks at it."""

    raw: bytes


Body: TypeAlias = Parts | Mime


class Arrival(Struct, gc=False):
    """One thing for one recipient.

    `at` is in milliseconds since the epoch. `reference` is the vendor's id; `tags` are what the sender attached for
    itself (custom arguments, data, query of the status URL), `delivery` the sender's own id found among them, `key` an
    idempotency key. `status` is `refused` with an `error`, or the furthest that was reported. `bytes` is what the
    content weighs in memory. `ttl_s` is for how many seconds the vendor was told to keep it, `urgency` how urgent it is
    in the vendor's word.
    """

    seq: int
    at: int
    channel: str
    vendor: str
    to: str
    sender: str
    body: Body
    status: str = "accepted"
    error: str = ""
    reference: str = ""
    delivery: str = ""
    key: str = ""
    tags: Mapping[str, str] = _NO_TAGS
    bytes: int = 0
    ttl_s: int | None = None
    urgency: str = ""


class Line(Struct, frozen=True):
    """A line of the file: everything about an arrival but its content."""

    seq: int
    at: int
    channel: str
    vendor: str
    to: str
    status: str
    error: str
    reference: str
    delivery: str
    attempt: str
    key: str


class Watcher:
    """Somebody who follows the log: woken by `event`, and told which arrivals changed their status."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.changed: dict[int, tuple[str, str]] = {}

    def take_changes(self) -> dict[int, tuple[str, str]]:
        """The changes since the last call: number to status and error."""
        changed, self.changed = self.changed, {}
        return changed


class ArrivalLog:
    """The last arrivals, at most `capacity` of them and about `max_bytes` of content.

    What is too much is taken from the channel that has the most, so that thousands of emails leave the few text
    messages where they are.

    Lines reach `path` before the vendor's answer goes out, in one write a request, so that what a sender knows to be
    taken is in the file even when this process is killed.
    """

    def __init__(self, capacity: int = 10_000, max_bytes: int = 64_000_000, path: Path | None = None) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._held: dict[str, deque[Arrival]] = {}
        self._by_seq: dict[int, Arrival] = {}
        self._forgotten = 0
        self._by_reference: dict[str, Arrival] = {}
        self._bytes: Counter[str] = Counter()
        self._seq = 0
        self._watchers: set[Watcher] = set()
        self._encoder = msgspec.json.Encoder()
        self._file: int | None = None
        self.counts: Counter[tuple[str, str]] = Counter()
        if path is not None:
            self._file = _open(path)

    @property
    def latest(self) -> int:
        """The number of the latest arrival; 0 before the first."""
        return self._seq

    @property
    def oldest(self) -> int:
        """From this number on every arrival is held; one after the latest when none is."""
        return self._forgotten + 1

    def add(self, arrivals: Sequence[Arrival]) -> None:
        """Log what came in one request. Numbers, times and delivery ids are set here."""
        now = time.time_ns() // 1_000_000
        for arrival in arrivals:
            self._seq += 1
            arrival.seq, arrival.at = self._seq, now
            if not arrival.delivery and arrival.tags:
                arrival.delivery = _first(arrival.tags, _DELIVERY_TAGS)
            self._bytes[arrival.channel] += arrival.bytes
            self._held.setdefault(arrival.channel, deque()).append(arrival)
            self._by_seq[arrival.seq] = arrival
            if arrival.reference:
                self._by_reference[arrival.reference] = arrival
            self.counts[arrival.vendor, REFUSED if arrival.status == REFUSED else "taken"] += 1
        if self._file is not None:
            _write_all(self._file, self._encoder.encode_lines([_line(arrival) for arrival in arrivals]))
        while len(self._by_seq) > self._capacity:
            self._forget(max(self._held.values(), key=len).popleft())
        while self._bytes.total() > self._max_bytes and len(self._by_seq) > 1:
            (heaviest,) = [channel for channel, _ in self._bytes.most_common(1)]
            self._forget(self._held[heaviest].popleft())
        for watcher in self._watchers:
            watcher.event.set()

    def set_status(self, arrival: Arrival, status: str, error: str = "") -> None:
        """Say what has become of an arrival."""
        arrival.status = status
        arrival.error = error or arrival.error
        for watcher in self._watchers:
            watcher.changed[arrival.seq] = (status, arrival.error)
            watcher.event.set()

    def by_reference(self, reference: str) -> Arrival | None:
        """The arrival that the vendor gave this id, if it is still held."""
        return self._by_reference.get(reference)

    def by_seq(self, seq: int) -> Arrival | None:
        """The arrival with this number, if it is still held."""
        return self._by_seq.get(seq)

    def since(self, seq: int, limit: int, channel: str = "", recipient: str = "") -> list[Arrival]:
        """Up to `limit` arrivals after `seq`, oldest first; `recipient` is a part of the address or name."""
        held = [self._after(one, seq) for one in self._chosen(channel)]
        found = heapq.merge(*held, key=_seq)
        return list(islice((arrival for arrival in found if _is_to(arrival, recipient)), limit))

    def newest(self, limit: int, channel: str = "", recipient: str = "", before: int | None = None) -> list[Arrival]:
        """The last `limit` arrivals, and before number `before`, oldest first; `recipient` as above."""
        held = [reversed(one) for one in self._chosen(channel)]
        found = (
            arrival
            for arrival in heapq.merge(*held, key=_seq, reverse=True)
            if (before is None or arrival.seq < before) and _is_to(arrival, recipient)
        )
        return list(islice(found, limit))[::-1]

    def newest_of_each(self, limit: int, after: int) -> list[Arrival]:
        """The last `limit` arrivals of each channel after number `after`, oldest first."""
        held = [list(self._after(one, after))[-limit:] for one in self._held.values()]
        return list(heapq.merge(*held, key=_seq))

    def clear(self) -> None:
        """Forget everything in memory, counts too; numbers go on, and the file stays as it is."""
        self._held.clear()
        self._by_seq.clear()
        self._forgotten = self._seq
        self._by_reference.clear()
        self._bytes.clear()
        self.counts.clear()

    def watch(self) -> Watcher:
        """Begin to follow."""
        watcher = Watcher()
        self._watchers.add(watcher)
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        """End following."""
        self._watchers.discard(watcher)

    def wake(self) -> None:
        """Make every watcher look again, though nothing arrived."""
        for watcher in self._watchers:
            watcher.event.set()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _chosen(self, channel: str) -> list[deque[Arrival]]:
        return [held for name, held in self._held.items() if channel in {"", name}]

    @staticmethod
    def _after(held: deque[Arrival], seq: int) -> Iterator[Arrival]:
        # A deque is slow in its middle: walk back from the end, which is near what is asked for.
        return reversed(list(takewhile(lambda arrival: arrival.seq > seq, reversed(held))))

    def _forget(self, arrival: Arrival) -> None:
        self._forgotten = max(self._forgotten, arrival.seq)
        del self._by_seq[arrival.seq]
        self._bytes[arrival.channel] -= arrival.bytes
        if self._by_reference.get(arrival.reference) is arrival:
            del self._by_reference[arrival.reference]


def _seq(arrival: Arrival) -> int:
    return arrival.seq


def _is_to(arrival: Arrival, recipient: str) -> bool:
    wanted = recipient.casefold()
    name = arrival.body.to_name if isinstance(arrival.body, Parts) else ""
    return not wanted or wanted in arrival.to.casefold() or wanted in name.casefold()


def _line(arrival: Arrival) -> Line:
    return Line(
        arrival.seq,
        arrival.at,
        arrival.channel,
        arrival.vendor,
        arrival.to,
        arrival.status,
        arrival.error,
        arrival.reference,
        arrival.delivery,
        _first(arrival.tags, _ATTEMPT_TAGS),
        arrival.key,
    )


def _first(tags: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((tags[name] for name in names if name in tags), "")


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise SettingsError(f"the sandbox cannot write its log {path}: {error.strerror}") from error


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def total(counts: Mapping[tuple[str, str], int], vendors: Iterable[str]) -> dict[str, dict[str, int]]:
    """Counts by vendor: `{"twilio": {"taken": 3, "refused": 1}}`."""
    return {vendor: {kind: counts.get((vendor, kind), 0) for kind in ("taken", REFUSED)} for vendor in vendors}
