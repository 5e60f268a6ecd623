"""A cache: losing all of it loses nothing."""

from __future__ import annotations

from typing import Protocol


class Cache(Protocol):
    """Bytes by key, for a while."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None when it is unknown or too old."""
        ...

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for at most `ttl` seconds."""
        ...

    async def delete(self, key: str) -> None:
        """Forget it."""
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...
