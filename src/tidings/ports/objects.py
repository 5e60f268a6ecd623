"""The object store: large or rarely read bytes, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class Objects(Protocol):
    """Stores bytes by name. A name is segments of `[A-Za-z0-9._-]`, none starting with a dot, separated by `/`.

    Raises:
        ValueError: from `put`, `get` and `delete`, for a bad name.
    """

    async def put(self, name: str, body: bytes) -> None:
        """Store `body` durably, whole or not at all. Replaces an object of this name."""
        ...

    async def get(self, name: str) -> bytes | None:
        """The bytes, or None if there is no such object."""
        ...

    def list(self, prefix: str) -> AsyncIterator[str]:
        """The names that start with `prefix`, sorted."""
        ...

    async def delete(self, name: str) -> None:
        """Delete the object if it exists."""
        ...
