"""Runs many requests of one `send` at once, within its time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tidings.model.sending import About, Retry

NOT_BEGUN = Retry(
    "busy", detail="earlier requests of the batch took all the time; this one was not begun", about=About.UNOFFERED
)
"""The result for a delivery whose turn did not come."""

T = TypeVar("T")
R = TypeVar("R")


async def in_parallel(
    items: Sequence[T],
    each: Callable[[T], Awaitable[R]],
    too_late: R,
    *,
    limit: int,
    within_s: float,
) -> list[R]:
    """The results of `each(item)` for every item, in order; at most `limit` calls run at once.

    An item whose turn has not come after `within_s` gets `too_late` and is not begun. So a slow vendor holds a batch
    for at most this time and one request's own timeout.
    """
    if len(items) == 1:
        return [await each(items[0])]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    results: dict[int, R] = {}
    waiting = iter(enumerate(items))

    async def work() -> None:
        for place, item in waiting:
            results[place] = await each(item) if loop.time() < deadline else too_late

    async with asyncio.TaskGroup() as group:
        for _ in range(min(limit, len(items))):
            group.create_task(work())
    return [results[place] for place in range(len(items))]
