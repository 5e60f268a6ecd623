"""Recurrences in memory."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from tidings.backends.memory.clock import Now
from tidings.model.recurrence import Progress, Recurrence
from tidings.ports.recurrences import DueRecurrence, Moved


class _Row(Struct):
    recurrence: Recurrence
    leased_until: int | None = None

    @property
    def ready(self) -> int | None:
        """The instant at which the recurrence may be handed out: its due time or the end of its lease."""
        due = self.recurrence.progress.due
        return due if self.leased_until is None or due is None else self.leased_until


class MemoryRecurrences:
    """See Recurrences."""

    def __init__(self, clock: Now) -> None:
        self._clock = clock
        self._rows: dict[UUID, _Row] = {}

    async def add(self, recurrence: Recurrence) -> None:
        """See Recurrences."""
        self._rows[recurrence.id] = _Row(recurrence)

    async def get(self, tenant: str, id: UUID) -> Recurrence | None:
        """See Recurrences."""
        row = self._rows.get(id)
        return row.recurrence if row is not None and row.recurrence.tenant == tenant else None

    async def list(self, tenant: str, before: UUID | None, limit: int) -> Sequence[Recurrence]:
        """See Recurrences."""
        mine = [row.recurrence for row in self._rows.values() if row.recurrence.tenant == tenant]
        older = [recurrence for recurrence in mine if before is None or recurrence.id < before]
        return sorted(older, key=lambda recurrence: recurrence.id, reverse=True)[:limit]

    async def replace(self, recurrence: Recurrence, *, moved_from: Progress | None = None) -> bool:
        """See Recurrences."""
        row = self._rows.get(recurrence.id)
        if row is None or row.recurrence.revision != recurrence.revision - 1:
            return False
        known, wanted = row.recurrence.progress, recurrence.progress
        if moved_from is None:
            row.recurrence = replace(recurrence, progress=known)
            return True
        if _place(known) != _place(moved_from):
            return False
        if _place(known) != _place(wanted):
            row.leased_until = None
        progress = replace(known, local=wanted.local, due=wanted.due, problem=wanted.problem)
        row.recurrence = replace(recurrence, progress=progress)
        return True

    async def delete(self, tenant: str, id: UUID) -> bool:
        """See Recurrences."""
        return await self.get(tenant, id) is not None and self._rows.pop(id, None) is not None

    async def due(self, now: int, limit: int, lease_s: float) -> Sequence[DueRecurrence]:
        """See Recurrences."""
        lease_over = self._clock()
        ready = [
            (row.ready, id)
            for id, row in self._rows.items()
            if row.ready is not None and row.ready <= (now if row.leased_until is None else lease_over)
        ]
        found = []
        for _, id in sorted(ready)[:limit]:
            row = self._rows[id]
            found.append(DueRecurrence(row.recurrence, repeated=row.leased_until is not None))
            row.leased_until = lease_over + round(lease_s * 1000)
        return sorted(found, key=lambda row: (row.recurrence.progress.due or 0, row.recurrence.id))

    async def settle(self, moved: Sequence[Moved]) -> None:
        """See Recurrences."""
        for change in moved:
            row = self._rows.get(change.id)
            if row is not None and _place(row.recurrence.progress) == _place(change.before):
                row.leased_until = None
                row.recurrence = replace(row.recurrence, progress=change.then)

    async def next_due(self) -> int | None:
        """See Recurrences."""
        return min((row.ready for row in self._rows.values() if row.ready is not None), default=None)


def _place(progress: Progress) -> tuple[str | None, int | None]:
    return progress.local, progress.due
