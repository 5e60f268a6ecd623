"""The object store in memory, for tests and simulation."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_LONGEST_SEGMENT = 200


class MemoryObjects:
    """See Objects."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    async def put(self, name: str, body: bytes) -> None:
        """See Objects."""
        self._objects[_checked(name)] = body

    async def get(self, name: str) -> bytes | None:
        """See Objects."""
        return self._objects.get(_checked(name))

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """See Objects."""
        for name in sorted(name for name in self._objects if name.startswith(prefix)):
            yield name

    async def delete(self, name: str) -> None:
        """See Objects."""
        self._objects.pop(_checked(name), None)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or any(len(part) > _LONGEST_SEGMENT for part in name.split("/")):
        raise ValueError(f"{name!r} is not the name of an object")
    return name
