"""Runs template checks, compilations and previews in a thread beside the event loop, one at a time.

An author's request may take a tenth of a second to compute. In a thread it does not hold up the event loop, because the
interpreter switches between the two every few milliseconds.
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
"""How many requests of one tenant may wait or run."""
RETRY_AFTER_S = 2.0
"""When a tenant with too many requests may try again."""
T = TypeVar("T")


class Bench:
    """Runs one request of each tenant at a time, so that tenants take turns in the one thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tidings-templates")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting: Counter[str] = Counter()

    async def run(self, tenant: str, work: Callable[[], T]) -> T:
        """The result of `work()`, computed in the thread; an error of `work` is raised here.

        Raises:
            Overloaded: the tenant has `MOST_WAITING` requests under way already.
        """
        if self._waiting[tenant] >= MOST_WAITING:
            raise Overloaded(
                f"{MOST_WAITING} checks and previews of this tenant are under way; try again later", RETRY_AFTER_S
            )
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
