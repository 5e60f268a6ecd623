"""The archive's files: compressed columns, in a format that other programs read too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID


class ArchiveFiles(Protocol):
    """Writes and reads the archive's files. A file holds rows of one kind (ports/days.py).

    Raises:
        Unreadable: from every method, for a damaged file.
    """

    suffix: str
    """The end of every file's name."""

    async def write(self, kind: str, rows: Path, file: Path) -> None:
        """Write the rows of a slice, the CSV file `rows`, into `file`."""
        ...

    async def check(self, kind: str, file: Path) -> tuple[int, int]:
        """The number of rows in `file` and their digest (see Slice), computed from the file."""
        ...

    async def read(self, kind: str, file: Path, notification_id: UUID) -> Sequence[tuple[Any, ...]]:
        """The rows of one notification.

        A row of the kind `notifications` is the tenant followed by the fields of Head (policy/rows.py); a row of the
        kind `events` is an argument of `event_of` (also there).
        """
        ...
