"""Recurrences in the store: the definitions, which the API writes, and how far each is, which the schedule moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from tidings.model.recurrence import Progress, Recurrence


class DueRecurrence(Struct, frozen=True, gc=False):
    """One whose time has come. `again`: it was handed out before, and its occurrence may have been put already."""

    recurrence: Recurrence
    again: bool = False


class Moved(Struct, frozen=True, gc=False):
    """How far the recurrence `id` is now: `then`, if it is still at `before`."""

    id: UUID
    before: Progress
    then: Progress


class Recurrences(Protocol):
    """See the module. Adapters raise `Unavailable` when the database does not answer; nothing was written then."""

    async def add(self, recurrence: Recurrence) -> None:
        """Store a new one."""
        ...

    async def get(self, tenant: str, id: UUID) -> Recurrence | None:
        """One recurrence."""
        ...

    async def list(self, tenant: str, before: UUID | None, limit: int) -> Sequence[Recurrence]:
        """The tenant's, newest first, from `before` (exclusive) on."""
        ...

    async def replace(self, recurrence: Recurrence, *, moved_from: Progress | None = None) -> bool:
        """Store a change of the definition, if `recurrence.revision` is the one after the stored one.

        With `moved_from`, the progress as it was read, the occurrence that comes next changes too (`local`, `due` and
        `problem`), if it is still that one; without, it stays what it is, however far the recurrence has come since.
        An occurrence that is under way and stays the next one keeps its lease. False, and nothing was written, when
        somebody else was faster.
        """
        ...

    async def delete(self, tenant: str, id: UUID) -> bool:
        """False when there is none."""
        ...

    async def due(self, now: int, limit: int, lease: float) -> Sequence[DueRecurrence]:
        """Up to `limit` that are due at `now`, earliest first, leased for `lease` seconds of the store's clock."""
        ...

    async def settle(self, moved: Sequence[Moved]) -> None:
        """What was due is done; one that is no longer at `before` (changed, paused, deleted) stays as it is."""
        ...

    async def next_due(self) -> int | None:
        """When the earliest unleased one is due, or the earliest lease ends; None when none will be."""
        ...
