"""Reads the archive: its days, and single notifications from its objects."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from tidings.model.days import ArchivedDay, Part, day_of
from tidings.model.errors import Unreadable
from tidings.model.history import NotificationRecord
from tidings.policy.days import parts_of
from tidings.policy.rows import Head, event_of, record_of
from tidings.ports.archive import ArchiveFiles
from tidings.ports.days import EVENTS, NOTIFICATIONS, Days
from tidings.ports.objects import Objects


class Archive:
    """Reads the archived days that `days` lists, from their objects."""

    def __init__(self, days: Days, objects: Objects, files: ArchiveFiles) -> None:
        self._days = days
        self._objects = objects
        self._files = files

    async def list(self) -> Sequence[ArchivedDay]:
        """The archived days, oldest first."""
        return await self._days.archived()

    async def find(self, id: UUID, tenant: str | None = None) -> NotificationRecord | None:
        """The notification with its facts; None if it is not in the archive. Without `tenant`, it may be anybody's.

        At most one object of each kind is read for each tenant of that day.

        Raises:
            Unreadable: an object is missing or damaged.
            Unavailable: the store or the objects do not answer.
        """
        day = day_of(id)
        archived = await self._days.archived(day, day)
        if not archived:
            return None
        tenants = await self._days.tenants(day) if tenant is None else [tenant]
        with tempfile.TemporaryDirectory(prefix="tidings-archive-") as folder:
            read: set[str] = set()
            for owner in tenants:
                for part in parts_of(archived[0].parts, owner, id, NOTIFICATIONS):
                    if part.name in read:
                        continue
                    read.add(part.name)
                    rows = await self._rows(part, Path(folder), id)
                    if rows and rows[0][0] in tenants:
                        return await self._record(archived[0].parts, rows[0], Path(folder), id)
        return None

    async def _record(self, parts: Sequence[Part], row: Sequence[object], folder: Path, id: UUID) -> NotificationRecord:
        """The notification in `row`, with its events from the day's parts."""
        tenant, *head = row
        events = [
            event_of(event_row)
            for part in parts_of(parts, str(tenant), id, EVENTS)
            for event_row in await self._rows(part, folder, id)
        ]
        return record_of(Head(*head), events)  # type: ignore[arg-type]  # the columns' types are the file's

    async def _rows(self, part: Part, folder: Path, id: UUID) -> Sequence[tuple[object, ...]]:
        """The notification's rows in one object, which is checked and put into `folder` to be read."""
        body = await self._objects.get(part.name)
        if body is None or hashlib.sha256(body).hexdigest() != part.sha256:
            raise Unreadable(f"the object {part.name} of the archive is {'missing' if body is None else 'damaged'}")
        file = folder / part.name.rpartition("/")[2]
        file.write_bytes(body)
        try:
            return await self._files.read(part.kind, file, id)
        finally:
            file.unlink()
