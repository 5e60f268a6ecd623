"""Dead letters and replays in the store. What ports/store.py says at its head holds here too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from tidings.model.letters import DeadLetter, LetterFilter, Replay


class LetterPage(Struct, frozen=True, gc=False):
    """A page of dead letters, newest first. `cursor` is the delivery id to go on from, None at the end."""

    letters: tuple[DeadLetter, ...]
    cursor: UUID | None


class Letters(Protocol):
    """Finds the deliveries that ended without success. They are facts of the history; nothing is written here."""

    async def find(self, tenant: str, filter: LetterFilter, before: UUID | None, limit: int) -> LetterPage:
        """Dead letters that match, by delivery id, newest first, from `before` (exclusive) on.

        A page may hold fewer than `limit`, even none, and still have a cursor: its work is bounded.
        """
        ...

    async def count(self, tenant: str, filter: LetterFilter) -> int | None:
        """How many match; None when that cannot be told with bounded work."""
        ...


class Replays(Protocol):
    """Replays with their progress. Each is worked on by one worker at a time, page by page."""

    async def add(self, replay: Replay) -> None:
        """Store a new one. One that is there (same id) stays as it is."""
        ...

    async def get(self, tenant: str, id: UUID) -> Replay | None:
        """One replay."""
        ...

    async def list(self, tenant: str, before: UUID | None, limit: int) -> Sequence[Replay]:
        """Replays newest first, from `before` (exclusive) on."""
        ...

    async def cancel(self, tenant: str, id: UUID, now: int) -> bool:
        """Take no further page of it; False when it has ended already, or is not there."""
        ...

    async def sweep(self, before: int, most: int) -> int:
        """Forget up to `most` replays that ended before this instant; how many."""
        ...

    async def claim(self, now: int, lease: float) -> Replay | None:
        """Of the replays whose next page is due the one that waits longest, running now.

        It is leased for `lease` seconds of the store's clock.
        """
        ...

    async def progress(self, replay: Replay, ready: int) -> bool:
        """End the lease and store how far it is; its next page is due at `ready` (milliseconds since the epoch).

        False when the lease is not the caller's any more: nothing was written. A replay that was cancelled meanwhile
        stays so, with the new counts.
        """
        ...
