"""Whether what was on its way through the queues at one moment has arrived: the order of looking is what proves it.

An item moves from its queue into `outcomes` and from there into the history. Where the ends of its queue were noted at
a moment, and everything before them is done, and then the same is true of `outcomes`, the item is recorded or lost;
what the history says after that is the last word. A queue that is never empty passes this test like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tidings.model import topics
from tidings.ports.queue import Extent, Queue


class Passage:
    """The way of what may be in one of the queues `through` now."""

    def __init__(self, through: Iterable[str]) -> None:
        self.left = set(through)
        self.marks: dict[str, Extent] = {}


T = TypeVar("T")


async def arrived(queue: Queue, moving: Sequence[T], passage: Callable[[T], Passage]) -> list[T]:
    """Those whose way is over; the others are a step further, perhaps. To be asked again and again.

    A passage must have been made before this is called: its marks are set here, after whatever its maker looked at.
    """
    first = {topic for one in moving for topic in passage(one).left if topic != topics.OUTCOMES}
    seen = {topic: await queue.extent(topic, topics.reader_of(topic)) for topic in sorted(first)}
    for one in moving:
        _advance(passage(one), seen)
    through = [one for one in moving if not passage(one).left or passage(one).left == {topics.OUTCOMES}]
    if not through:
        return []
    # Only now: what has left its queue is in this one or behind it.
    last = {topics.OUTCOMES: await queue.extent(topics.OUTCOMES, topics.RECORD)}
    over: list[T] = []
    for one in through:
        passage(one).left = {topics.OUTCOMES}
        _advance(passage(one), last)
        if not passage(one).left:
            over.append(one)
    return over


def _advance(passage: Passage, seen: dict[str, Extent]) -> None:
    for topic in list(passage.left):
        extent = seen.get(topic)
        if extent is not None and extent.covers(passage.marks.setdefault(topic, extent)):
            passage.left.discard(topic)
