"""How far a group has come in one partition: what is done, and what a leased claim has begun.

Kafka keeps one offset per partition and group, and a short text beside it. The offset is the end of the contiguous
done prefix. The text says what lies behind it: the runs of offsets that are begun (`b`), those for which outputs may
have been put (`p`), and those that are done already (`d`). So after a crash an item that was begun comes back marked,
one that was done does not come back, and all others come back as they were. When the text would grow too long it says
less, always on the safe side: more begun, more put, less done.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Run = tuple[int, int]
"""Consecutive offsets: from the first one up to, but not including, the second."""

MOST_RUNS = 66
"""Runs of a kind that are written down. With offsets of 13 digits the text stays below Kafka's 4,096 bytes."""


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
        """How many offsets it holds."""
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add a run."""
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
        """Take out a run, as far as it is in."""
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
    """The offsets of which something was announced. What earlier claims announced stays, whatever is taken back."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._earlier = Runs(runs)
        self._all = Runs(self._earlier)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._all)

    def is_earlier(self, offset: int) -> bool:
        """Whether an earlier claim announced it."""
        return offset in self._earlier

    def add(self, runs: Iterable[Run]) -> None:
        """A claim announces these."""
        for start, end in runs:
            self._all.add(start, end)

    def take_back(self, runs: Iterable[Run]) -> None:
        """It did not come to that."""
        for start, end in runs:
            self._all.discard(start, end)
            for left, right in self._earlier:
                self._all.add(max(left, start), min(right, end))

    def keep(self, runs: Iterable[Run]) -> None:
        """The claim that announced these is over."""
        for start, end in runs:
            self._earlier.add(start, end)
            self._all.add(start, end)

    def finish(self, start: int, end: int) -> None:
        """These are done."""
        self._earlier.discard(start, end)
        self._all.discard(start, end)


class Progress:
    """One partition, from the offset `base` on. `text` is what `metadata` gave to the last commit.

    `put` are the offsets of items of leased claims for which outputs may have been put.
    """

    def __init__(self, base: int | None = None, text: str = "") -> None:
        self._base = base
        self._next = base
        fields = dict(part.partition("=")[::2] for part in text.split(";") if part)
        self._begun = Announced(_parsed(fields.get("b", ""), base or 0))
        self.put = Announced(_parsed(fields.get("p", ""), base or 0))
        self._done = Runs(_parsed(fields.get("d", ""), base or 0))

    def arrives(self, offset: int) -> bool:
        """Whether the item at `offset`, which comes after all that came before, is still to be handed out."""
        if self._base is None or self._next is None or offset < self._base:
            # A fresh group; or the log was cut or made anew, and what was known of it is worth nothing.
            self._base, self._done, self._begun, self.put = offset, Runs(), Announced(), Announced()
        elif offset < self._next:
            return False
        elif offset > self._next:
            self._finished(self._next, offset)  # such offsets hold nothing: expired, or a transaction's own
        self._next = offset + 1
        return offset not in self._done

    def marked(self, offset: int) -> bool:
        """Whether an earlier leased claim has begun the item at `offset`."""
        return self._begun.is_earlier(offset)

    def begin(self, runs: Iterable[Run]) -> None:
        """A leased claim begins these."""
        self._begun.add(runs)

    def forget(self, runs: Iterable[Run]) -> None:
        """These were not begun after all. What was marked before stays marked."""
        self._begun.take_back(runs)

    def mark(self, runs: Iterable[Run]) -> None:
        """These come back from a claim that had begun them."""
        self._begun.keep(runs)

    def finish(self, runs: Iterable[Run]) -> None:
        """These are done."""
        for start, end in runs:
            self._finished(start, end)

    @property
    def base(self) -> int | None:
        """The end of the done prefix: the offset to commit. None before anything arrived."""
        return self._base

    def left(self, end: int) -> int:
        """How many items before the offset `end` are not done."""
        return max(0, end - (self._base or 0) - len(self._done))

    def metadata(self) -> str:
        """The text to commit beside `base`."""
        base = self._base or 0
        begun, put = (_written(_few(announced), base) for announced in (self._begun, self.put))
        done = _written(list(self._done)[:MOST_RUNS], base)
        return f"b={begun};d={done};p={put}" if put else f"b={begun};d={done}"

    def _finished(self, start: int, end: int) -> None:
        self._begun.finish(start, end)
        self.put.finish(start, end)
        self._done.add(start, end)
        first = next(iter(self._done))
        if self._base is not None and first[0] <= self._base < first[1]:
            self._base = first[1]
            self._done.discard(0, first[1])


def _few(announced: Announced) -> list[Run]:
    """Its runs, the last ones as one when there are too many."""
    runs = list(announced)
    if len(runs) > MOST_RUNS:
        runs[MOST_RUNS - 1 :] = [(runs[MOST_RUNS - 1][0], runs[-1][1])]
    return runs


def _written(runs: Iterable[Run], base: int) -> str:
    """Each run as its distance from `base` and its length, so that the text is short."""
    return ",".join(f"{start - base}+{end - start}" for start, end in runs)


def _parsed(text: str, base: int) -> Iterator[Run]:
    for run in text.split(",") if text else ():
        distance, _, length = run.partition("+")
        yield base + int(distance), base + int(distance) + int(length)
