"""Readiness: whether the store and the queue answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tidings.model import topics
from tidings.model.errors import TidingsError
from tidings.ports.queue import Queue

WITHIN_S = 2
"""How long each part may take to answer."""


async def readiness(ping: Callable[[], Awaitable[None]], queue: Queue) -> dict[str, str]:
    """Each part with `ok`, or with its fault. `ping` asks the store, and raises Unavailable."""
    parts = {}
    for name, ask in (("store", ping), ("queue", lambda: queue.depths([(topics.OUTCOMES, topics.RECORD)]))):
        try:
            async with asyncio.timeout(WITHIN_S):
                await ask()
            parts[name] = "ok"
        except (TidingsError, TimeoutError) as error:
            parts[name] = str(error) or f"no answer within {WITHIN_S} s"
    return parts
