"""Recurrences in the store: definitions, which the API writes, and their progress, which `schedule` writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from tidings.model.recurrence import Progress, Recurrence


class DueRecurrence(Struct, frozen=True, gc=False):
    """A recurrence whose next occurrence is due.

    `repeated`: it was handed out before, so the notification of this occurrence may already be in the queue.
    """

    recurrence: Recurrence
    repeated: bool = False


class Moved(Struct, frozen=True, gc=False):
    """A change of the progress of the recurrence `id` from `before` to `then`."""

    id: UUID
    before: Progress
    then: Progress


class Recurrences(Protocol):
    """Recurrences of all tenants. The rules at the head of ports/store.py hold here too."""

    async def add(self, recurrence: Recurrence) -> None:
        """Store a new recurrence."""
        ...

    async def get(self, tenant: str, id: UUID) -> Recurrence | None:
        """The recurrence, or None."""
        ...

    async def list(self, tenant: str, before: UUID | None, limit: int) -> Sequence[Recurrence]:
        """The tenant's recurrences with ids below `before`, newest first."""
        ...

    async def replace(self, recurrence: Recurrence, *, moved_from: Progress | None = None) -> bool:
        """Store a changed definition. `recurrence.revision` must be one above the stored revision.

        With `moved_from`, the progress as it was read, the next occurrence (`local`, `due` and `problem`) is replaced
        too, and the stored next occurrence must still be that of `moved_from`. Without it, the stored progress stays. A
        lease stays if the next occurrence stays the same. False, and nothing is written, if the stored recurrence has
        changed.
        """
        ...

    async def delete(self, tenant: str, id: UUID) -> bool:
        """Delete the recurrence. False if there is no such recurrence."""
        ...

    async def due(self, now: int, limit: int, lease_s: float) -> Sequence[DueRecurrence]:
        """Up to `limit` due recurrences, earliest first, leased for `lease_s` seconds of the store's clock."""
        ...

    async def settle(self, moved: Sequence[Moved]) -> None:
        """Store the new progress and end the leases.

        A recurrence that is no longer at `before` (changed, paused or deleted) stays as it is.
        """
        ...

    async def next_due(self) -> int | None:
        """The earliest instant at which a recurrence is due or a lease ends; None if there is none."""
        ...
