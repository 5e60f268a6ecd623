"""Dead letters and replays in the store. The rules at the head of ports/store.py hold here too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from tidings.model.letters import DeadLetter, LetterFilter, Replay


class LetterPage(Struct, frozen=True, gc=False):
    """A page of dead letters, newest first. `cursor` is the next page's `before`, None on the last page."""

    letters: tuple[DeadLetter, ...]
    cursor: UUID | None


class Letters(Protocol):
    """Searches the history for deliveries that ended without success. Writes nothing."""

    async def find(self, tenant: str, filter: LetterFilter, before: UUID | None, limit: int) -> LetterPage:
        """Dead letters that match, sorted by delivery id, newest first, with ids below `before`.

        The work for one page is bounded: a page may hold fewer than `limit` letters, even none, and still have a
        cursor.
        """
        ...

    async def count(self, tenant: str, filter: LetterFilter) -> int | None:
        """The number of dead letters that match; None if counting them would take too much work."""
        ...


class Replays(Protocol):
    """Replays with their progress. One worker at a time works on a replay, page by page."""

    async def add(self, replay: Replay) -> None:
        """Store a new replay. If its id is already stored, nothing changes."""
        ...

    async def get(self, tenant: str, id: UUID) -> Replay | None:
        """The replay, or None."""
        ...

    async def list(self, tenant: str, before: UUID | None, limit: int) -> Sequence[Replay]:
        """The tenant's replays with ids below `before`, newest first."""
        ...

    async def cancel(self, tenant: str, id: UUID, now: int) -> bool:
        """Cancel the replay: no further page is sent. False if it has ended or does not exist."""
        ...

    async def prune(self, before: int, most: int) -> int:
        """Delete up to `most` replays that ended before `before`; returns how many."""
        ...

    async def claim(self, now: int, lease_s: float) -> Replay | None:
        """Lease the replay whose next page has been due the longest, for `lease_s` seconds of the store's clock.

        Returns it in the state `running`, with the lease's `token`; None if no page is due.
        """
        ...

    async def progress(self, replay: Replay, ready: int) -> bool:
        """Store the progress and end the lease. The next page is due at `ready`.

        False, and nothing is written, if the caller no longer has the lease. A replay that was cancelled meanwhile
        stays cancelled and gets the new counts.
        """
        ...
