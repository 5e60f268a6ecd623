"""What arrived at the sandbox: a bounded log in memory, counts, and an append-only file for other programs."""

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
    """Content that came in parts. `substitutions` have yet to be made in `title`, `text` and `html`."""

    title: str = ""
    text: str = ""
    html: str = ""
    link: str = ""
    to_name: str = ""
    from_name: str = ""
    substitutions: Mapping[str, str] = _NO_TAGS


class Mime(Struct, frozen=True, gc=False):
    """Content that came as one MIME document, which is parsed only when somebody looks at it."""

    raw: bytes


Body: TypeAlias = Parts | Mime


class Arrival(Struct, gc=False):
    """One email, text message, push or inbox item for one recipient.

    - `seq` is its number, `at` its time in milliseconds since the epoch.
    - `reference` is the vendor's id, `key` an idempotency key. `tags` are the sender's own fields (custom arguments,
      data, query of the status URL), and `delivery` is the sender's own id among them.
    - `status` is `refused`, with an `error`, or the furthest status that was reported.
    - `bytes` is the size of the content in memory.
    - `ttl_s` is how long the vendor was told to keep it, `urgency` how urgent it is in the vendor's word.
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
    """A line of the file: an arrival without its content."""

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
    """A follower of the log: `event` is set when something is new, `changed` holds the changes of status."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.changed: dict[int, tuple[str, str]] = {}

    def take_changes(self) -> dict[int, tuple[str, str]]:
        """The changes since the last call: for each arrival's number its status and error."""
        changed, self.changed = self.changed, {}
        return changed


class ArrivalLog:
    """The latest arrivals, at most `capacity` of them and about `max_bytes` of content.

    The channel with the most arrivals loses its oldest first, so that thousands of emails do not push out a few text
    messages.

    Lines are written to `path` before the vendor's answer goes out, with one write for each request. So whatever a
    sender knows to be taken is in the file, even if this process is killed.
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
        """The number from which on every arrival is in memory; one after the latest if none is."""
        return self._forgotten + 1

    def add(self, arrivals: Sequence[Arrival]) -> None:
        """Log the arrivals of one request, and set their numbers, times and delivery ids."""
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
        """Set the status of an arrival, and tell the watchers."""
        arrival.status = status
        arrival.error = error or arrival.error
        for watcher in self._watchers:
            watcher.changed[arrival.seq] = (status, arrival.error)
            watcher.event.set()

    def by_reference(self, reference: str) -> Arrival | None:
        """The arrival to which the vendor gave this id, if it is still in memory."""
        return self._by_reference.get(reference)

    def by_seq(self, seq: int) -> Arrival | None:
        """The arrival with this number, if it is still in memory."""
        return self._by_seq.get(seq)

    def since(self, seq: int, limit: int, channel: str = "", recipient: str = "") -> list[Arrival]:
        """Up to `limit` arrivals after number `seq`, oldest first.

        `channel` "" means all channels; `recipient` is a part of the address or name.
        """
        by_channel = [self._after(held, seq) for held in self._chosen(channel)]
        in_order = heapq.merge(*by_channel, key=_seq)
        return list(islice((arrival for arrival in in_order if _is_to(arrival, recipient)), limit))

    def newest(self, limit: int, channel: str = "", recipient: str = "", before: int | None = None) -> list[Arrival]:
        """The last `limit` arrivals before number `before`, oldest first; `channel` and `recipient` as in `since`."""
        by_channel = [reversed(held) for held in self._chosen(channel)]
        newest_first = (
            arrival
            for arrival in heapq.merge(*by_channel, key=_seq, reverse=True)
            if (before is None or arrival.seq < before) and _is_to(arrival, recipient)
        )
        return list(islice(newest_first, limit))[::-1]

    def newest_of_each(self, limit: int, after: int) -> list[Arrival]:
        """The last `limit` arrivals of each channel after number `after`, oldest first."""
        by_channel = [list(self._after(held, after))[-limit:] for held in self._held.values()]
        return list(heapq.merge(*by_channel, key=_seq))

    def clear(self) -> None:
        """Forget all arrivals and counts in memory. Numbers continue, and the file stays as it is."""
        self._held.clear()
        self._by_seq.clear()
        self._forgotten = self._seq
        self._by_reference.clear()
        self._bytes.clear()
        self.counts.clear()

    def watch(self) -> Watcher:
        """A new watcher of the log; end it with `unwatch`."""
        watcher = Watcher()
        self._watchers.add(watcher)
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        """Stop telling the watcher of changes."""
        self._watchers.discard(watcher)

    def wake(self) -> None:
        """Wake every watcher although nothing arrived."""
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
        # A deque is slow in its middle, so walk back from its end; the wanted arrivals are near it.
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
    """The counts of each vendor: `{"twilio": {"taken": 3, "refused": 1}}`."""
    return {vendor: {kind: counts.get((vendor, kind), 0) for kind in ("taken", REFUSED)} for vendor in vendors}
