"""The files of the archive: columns, compressed, that other programs can read too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID


class ArchiveFiles(Protocol):
    """Writes and reads the files of one kind (ports/days.py) each. Raises Unreadable for a file that is damaged."""

    suffix: str
    """What the names of the files end with."""

    async def write(self, kind: str, rows: Path, file: Path) -> None:
        """Turn a slice's CSV into a file."""
        ...

    async def check(self, kind: str, file: Path) -> tuple[int, int]:
        """How many rows a file has, and their digest (see Slice), read back from it."""
        ...

    async def read(self, kind: str, file: Path, notification_id: UUID) -> Sequence[tuple[Any, ...]]:
        """The rows of one notification.

        Of `notifications`: tenant, and then as policy/rows.py's Head; of `events`: as its `event_of` takes them.
        """
        ...
