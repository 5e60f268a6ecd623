"""Readiness: whether the store and the queue answer."""

from __future__ import annotations

import asyncio

from tidings.model import topics
from tidings.model.errors import TidingsError
from tidings.ports.queue import Queue
from tidings.ports.store import Store

WITHIN_S = 2
"""How long each part may take to answer."""


async def readiness(store: Store, queue: Queue) -> dict[str, str]:
    """Each part with `ok`, or with its fault."""
    parts = {}
    for name, ask in (("store", store.ping), ("queue", lambda: queue.depth(topics.OUTCOMES, topics.RECORD))):
        try:
            async with asyncio.timeout(WITHIN_S):
                await ask()
            parts[name] = "ok"
        except (TidingsError, TimeoutError) as error:
            parts[name] = str(error) or f"no answer within {WITHIN_S} s"
    return parts
