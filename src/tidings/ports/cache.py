"""The cache. Losing all of its contents loses nothing."""

from __future__ import annotations

from typing import Protocol


class Cache(Protocol):
    """Keeps bytes by key for a limited time."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None if it is unknown or expired."""
        ...

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` for at most `ttl_s` seconds."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the value."""
        ...

    async def close(self) -> None:
        """Free memory and connections."""
        ...
