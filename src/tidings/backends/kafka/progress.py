"""The progress of a group in one partition: which items are done, and which a leased claim has begun.

Kafka keeps one offset for each partition and group, with a short text. The offset is the end of the contiguous prefix
of done items. The text lists runs of offsets from there on: those that are begun (`b`), those that are done already
(`d`), and those for which outputs may have been put (`p`). So after a crash an item that was begun comes back marked,
one that was done does not come back, and all others come back as they were.

If the text would grow too long it says less, on the safe side: done runs that do not fit are written as begun, and gaps
between runs are closed. So an item that was begun or done never comes back unmarked, and one that was neither always
comes back.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

_MOST_SAVED_BYTES = 20
"""About the most bytes that closing one gap saves. It affects only how fast a fitting text is found."""

Run = tuple[int, int]
"""Consecutive offsets, from the first number (inclusive) to the second (exclusive)."""

MOST_TEXT_BYTES = 4000
"""The most bytes of the text. Kafka refuses more than 4,096 (`offset.metadata.max.bytes`)."""
_MOST_DONE_BYTES = MOST_TEXT_BYTES // 2
"""The most bytes of the text for done runs."""

_RUNS = r"(?:\d+\+\d+(?:,\d+\+\d+)*)?"
_TEXT = re.compile(rf"b=({_RUNS});d=({_RUNS})(?:;p=({_RUNS}))?(?:;|$)")


def runs_of(offsets: Iterable[int]) -> list[Run]:
    """Ascending offsets as runs."""
    runs: list[Run] = []
    start = end = -1
    for offset in offsets:
        if offset == end:
            end += 1
            continue
        if end >= 0:
            runs.append((start, end))
        start, end = offset, offset + 1
    if end >= 0:
        runs.append((start, end))
    return runs


class Runs:
    """A set of offsets, kept as ascending runs that do not touch."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in runs:
            self.add(start, end)

    def __iter__(self) -> Iterator[Run]:
        return zip(self._starts, self._ends, strict=True)

    def __contains__(self, offset: int) -> bool:
        index = bisect_right(self._starts, offset) - 1
        return index >= 0 and offset < self._ends[index]

    def __len__(self) -> int:
        """The number of offsets in the set."""
        return sum(self._ends) - sum(self._starts)

    def within(self, start: int, end: int) -> int:
        """The number of offsets in the set from `start` (inclusive) to `end` (exclusive)."""
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        held = zip(self._starts[first:last], self._ends[first:last], strict=True)
        return sum(min(right, end) - max(left, start) for left, right in held)

    def add(self, start: int, end: int) -> None:
        """Add the run from `start` to `end`."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def discard(self, start: int, end: int) -> None:
        """Remove the offsets from `start` to `end`."""
        if start >= end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        left, right = self._starts[first], self._ends[last - 1]
        self._starts[first:last] = ([left] if left < start else []) + ([end] if end < right else [])
        self._ends[first:last] = ([start] if left < start else []) + ([right] if end < right else [])


class Announced:
    """The offsets that claims announced, as begun or as put. Taking back keeps the announcements of earlier claims."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._earlier = Runs(runs)
        self._all = Runs(self._earlier)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._all)

    def is_earlier(self, offset: int) -> bool:
        """True if an earlier claim announced the offset."""
        return offset in self._earlier

    def add(self, runs: Iterable[Run]) -> None:
        """A claim announces these runs."""
        for start, end in runs:
            self._all.add(start, end)

    def take_back(self, runs: Iterable[Run]) -> None:
        """The claim's announcement of these runs was not confirmed."""
        for start, end in runs:
            self._all.discard(start, end)
            for left, right in self._earlier:
                self._all.add(max(left, start), min(right, end))

    def keep(self, runs: Iterable[Run]) -> None:
        """The claim that announced these runs has ended without finishing them: keep the announcement."""
        for start, end in runs:
            self._earlier.add(start, end)
            self._all.add(start, end)

    def finish(self, start: int, end: int) -> None:
        """The items from `start` to `end` are done: forget announcements about them."""
        self._earlier.discard(start, end)
        self._all.discard(start, end)


class Progress:
    """The progress in one partition, from the offset `base` on. `text` is the metadata of the last commit.

    `put` are the offsets of items for which leased claims may have put outputs.
    """

    def __init__(self, base: int | None = None, text: str = "") -> None:
        self._base = base
        self._next = base
        begun, done, put = written.groups("") if (written := _TEXT.match(text)) else ("", "", "")
        self._begun = Announced(_parsed(begun, base or 0))
        self.put = Announced(_parsed(put, base or 0))
        self._done = Runs(_parsed(done, base or 0))
        for start, end in self._done:  # a written run may cover done items, to be one run instead of several
            self._begun.finish(start, end)
            self.put.finish(start, end)

    @classmethod
    def unknown(cls, low: int, high: int) -> Progress:
        """The progress of a group whose offsets are lost: every item from `low` up to `high` may have been begun."""
        return cls(low, f"b={_written([(low, high)] if low < high else [], low)};d=")

    @staticmethod
    def wrote(text: str) -> bool:
        """True if `metadata` wrote this text. Commits of other tools, or by hand, have another text or none."""
        return _TEXT.match(text) is not None

    def arrives(self, offset: int) -> bool:
        """Take in the next fetched offset. True if its item must be handed out."""
        if self._base is None or self._next is None:
            self._base = offset  # a fresh group
        elif offset < self._next:
            return False
        elif offset > self._next:
            self._finished(self._next, offset)  # skipped offsets hold no items: expired, or markers of a transaction
        self._next = offset + 1
        return offset not in self._done

    def marked(self, offset: int) -> bool:
        """True if an earlier leased claim has begun the item at `offset`."""
        return self._begun.is_earlier(offset)

    def begin(self, runs: Iterable[Run]) -> None:
        """A leased claim begins the items of these runs."""
        self._begun.add(runs)

    def forget(self, runs: Iterable[Run]) -> None:
        """Undo `begin`, whose commit was not confirmed. Marks of earlier claims stay."""
        self._begun.take_back(runs)

    def mark(self, runs: Iterable[Run]) -> None:
        """Mark the items of these runs, which come back from a claim that had begun them."""
        self._begun.keep(runs)

    def finish(self, runs: Iterable[Run]) -> None:
        """The items of these runs are done."""
        for start, end in runs:
            self._finished(start, end)

    @property
    def base(self) -> int | None:
        """The end of the done prefix, which is the offset to commit. None before an item arrived in a new group."""
        return self._base

    @property
    def next(self) -> int | None:
        """The offset that must arrive next. None before an item arrived in a group without a base."""
        return self._next

    def left(self, end: int) -> int:
        """The number of items before the offset `end` that are not done."""
        return max(0, end - (self._base or 0) - len(self._done))

    def metadata(self) -> str:
        """The text to commit with `base`."""
        base = self._base or 0
        put = list(self.put)
        text = _text(_written(self._begun, base), _written(self._done, base), _written(put, base))
        if len(text) <= MOST_TEXT_BYTES:
            return text
        # Being taken for a possible second copy only delays an item, so write `put` as one run over all of them.
        return self._shortened(base, _written([(put[0][0], put[-1][1])], base) if put else "")

    def _shortened(self, base: int, put: str) -> str:
        """A text that fits: the longest done runs, and begun runs that cover everything else begun or done."""
        done, begun = Runs(), Runs(self._begun)
        room = _MOST_DONE_BYTES
        for start, end in sorted(self._done, key=lambda run: run[0] - run[1]):
            room -= len(_written([(start, end)], base)) + 1
            if room >= 0:
                done.add(start, end)
            else:
                begun.add(start, end)
        written_done = _written(done, base)
        left = MOST_TEXT_BYTES - len(_text("", written_done, put))
        return _text(_written(_fitting(list(begun), done, base, left), base), written_done, put)

    def _finished(self, start: int, end: int) -> None:
        self._begun.finish(start, end)
        self.put.finish(start, end)
        self._done.add(start, end)
        first = next(iter(self._done))
        if self._base is not None and first[0] <= self._base < first[1]:
            self._base = first[1]
            self._done.discard(0, first[1])


def _text(begun: str, done: str, put: str) -> str:
    return f"b={begun};d={done};p={put}" if put else f"b={begun};d={done}"


def _written(runs: Iterable[Run], base: int) -> str:
    """The runs as text: each by its distance from `base` and its length, because that is short."""
    return ",".join(f"{start - base}+{end - start}" for start, end in runs)


def _fitting(runs: list[Run], done: Runs, base: int, room: int) -> list[Run]:
    """The runs with gaps closed, those that mark the fewest more items first, until their text fits into `room` bytes.

    Done items in a closed gap do not count as added: they are not handed out at all.
    """
    excess = len(_written(runs, base)) - room
    if excess <= 0:
        return runs
    gaps = [(start - end) - done.within(end, start) for (_, end), (start, _) in pairwise(runs)]
    # Closing a gap turns two runs into one, which saves a comma, a plus sign and two numbers of at least one digit
    # each. The remaining length may have more digits than before, so measure again.
    order = sorted(range(len(gaps)), key=gaps.__getitem__)
    closed = 0
    while excess > 0 and closed < len(order):
        closed += max(1, excess // _MOST_SAVED_BYTES)
        shut = set(order[:closed])
        kept: list[Run] = [runs[0]]
        for place, run in enumerate(runs[1:]):
            if place in shut:
                kept[-1] = (kept[-1][0], run[1])
            else:
                kept.append(run)
        excess = len(_written(kept, base)) - room
    return kept


def _parsed(text: str, base: int) -> Iterator[Run]:
    for run in text.split(",") if text else ():
        distance, _, length = run.partition("+")
        yield base + int(distance), base + int(distance) + int(length)
