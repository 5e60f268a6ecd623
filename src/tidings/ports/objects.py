"""Objects: large or rarely read bytes, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class Objects(Protocol):
    """Names are paths with `/`, of `[A-Za-z0-9._-]` segments that do not start with a dot."""

    async def put(self, name: str, body: bytes) -> None:
        """Store durably, whole or not at all; replaces. Raises ValueError for a bad name."""
        ...

    async def get(self, name: str) -> bytes | None:
        """The bytes, or None."""
        ...

    def list(self, prefix: str) -> AsyncIterator[str]:
        """Names that start with `prefix`, sorted."""
        ...

    async def delete(self, name: str) -> None:
        """Delete; nothing happens when there is none."""
        ...
