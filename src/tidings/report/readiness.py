"""Whether the parts that are needed answer."""

from __future__ import annotations

import asyncio

from tidings.model import topics
from tidings.model.errors import TidingsError
from tidings.ports.queue import Queue
from tidings.ports.store import Store

WITHIN = 2
"""Seconds that a part has for its answer."""


async def readiness(store: Store, queue: Queue) -> dict[str, str]:
    """Each part with `ok`, or what is wrong with it."""
    found = {}
    for name, ask in (("store", store.ping), ("queue", lambda: queue.depth(topics.OUTCOMES, topics.RECORD))):
        try:
            async with asyncio.timeout(WITHIN):
                await ask()
            found[name] = "ok"
        except (TidingsError, TimeoutError) as error:
            found[name] = str(error) or f"no answer within {WITHIN} s"
    return found
