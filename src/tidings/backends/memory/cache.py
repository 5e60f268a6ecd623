"""The cache in the process, the default on one machine."""

from __future__ import annotations

from collections import OrderedDict

from tidings.backends.memory.clock import SystemClock
from tidings.ports.clock import Clock


class MemoryCache:
    """At most `max_entries` values and `max_bytes` of keys and values. The least recently used value goes first."""

    def __init__(
        self, clock: Clock | None = None, max_entries: int = 100_000, max_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._bytes = 0

    async def get(self, key: str) -> bytes | None:
        """See Cache."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires_at, value = entry
        if self._clock.now() >= expires_at:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """See Cache. A value larger than the whole cache is not kept."""
        self._drop(key)
        size = _size(key, value)
        if ttl_s <= 0 or size > self._max_bytes:
            return
        self._entries[key] = (self._clock.now() + round(ttl_s * 1000), value)
        self._bytes += size
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    async def delete(self, key: str) -> None:
        """See Cache."""
        self._drop(key)

    async def close(self) -> None:
        """See Cache."""
        self._entries.clear()
        self._bytes = 0

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _size(key, entry[1])


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value)
