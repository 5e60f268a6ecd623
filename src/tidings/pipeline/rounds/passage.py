"""Proof that everything that was in the queues at some moment has arrived, by checking the queues in flow order.

An item moves from its queue into `outcomes`, and from there into the history. Note the end of its queue; wait until
everything before it is done; then do the same with `outcomes`. Now the item is recorded or lost, and the history has
the last word. This works for queues that are never empty, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tidings.model import topics
from tidings.ports.queue import Extent, Queue


class Passage:
    """The progress of an item that may be in one of the queues `through` now.

    `left`: the queues that may still hold it. `marks`: the extent of each queue when it was first looked at.
    """

    def __init__(self, through: Iterable[str]) -> None:
        self.left = set(through)
        self.marks: dict[str, Extent] = {}


T = TypeVar("T")


async def arrived(queue: Queue, moving: Sequence[T], passage: Callable[[T], Passage]) -> list[T]:
    """Those of `moving` that no queue can hold any more. Call it again and again: each call may advance the others.

    Read the history first and make the passages then: this function sets their marks.
    """
    before_outcomes = {topic for one in moving for topic in passage(one).left if topic != topics.OUTCOMES}
    seen = {topic: await queue.extent(topic, topics.reader_of(topic)) for topic in sorted(before_outcomes)}
    for one in moving:
        _advance(passage(one), seen)
    through = [one for one in moving if not passage(one).left or passage(one).left == {topics.OUTCOMES}]
    if not through:
        return []
    # Look at `outcomes` last: an item that has left its queue is in `outcomes` or beyond it by now.
    outcomes = {topics.OUTCOMES: await queue.extent(topics.OUTCOMES, topics.RECORD)}
    over: list[T] = []
    for one in through:
        passage(one).left = {topics.OUTCOMES}
        _advance(passage(one), outcomes)
        if not passage(one).left:
            over.append(one)
    return over


def _advance(passage: Passage, seen: dict[str, Extent]) -> None:
    for topic in list(passage.left):
        extent = seen.get(topic)
        if extent is not None and extent.covers(passage.marks.setdefault(topic, extent)):
            passage.left.discard(topic)
