"""Where templates are checked, compiled and shown: beside the event loop, a piece of work at a time.

An author's request may cost a tenth of a second of computing. In a thread it stops nobody: the interpreter changes
between the two every few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakValueDictionary

from tidings.model.errors import Overloaded

MOST_WAITING = 50
"""Pieces of work of one tenant."""
SOON = 2.0
"""Seconds after which a tenant is asked to come again who has more than that."""
T = TypeVar("T")


class Bench:
    """Does the work of each tenant piece by piece, and of the tenants in turn."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tidings-templates")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting: Counter[str] = Counter()

    async def run(self, tenant: str, work: Callable[[], T]) -> T:
        """What `work` gives, and what it raises.

        Raises:
            Overloaded: the tenant has too much of it waiting.
        """
        if self._waiting[tenant] >= MOST_WAITING:
            raise Overloaded(f"{MOST_WAITING} checks and previews of this tenant are under way; come again", SOON)
        lock = self._locks.get(tenant)
        if lock is None:
            lock = self._locks[tenant] = asyncio.Lock()
        self._waiting[tenant] += 1
        try:
            async with lock:
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]
