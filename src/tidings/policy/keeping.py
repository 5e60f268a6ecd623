"""How long what only grows is kept."""

from __future__ import annotations

from msgspec import Struct

DAY = 86_400_000


class Keeping(Struct, frozen=True):
    """Ages in milliseconds, after which a thing may be deleted; 0 keeps it for ever. `inbox_items` counts.

    A cancellation must outlive every copy of its notification that could still be sent or replayed. A gap in the
    accounts is told of until somebody has had the time to look.
    """

    inbox: int = 90 * DAY
    inbox_items: int = 1_000
    cancellations: int = 400 * DAY
    gaps: int = 90 * DAY
    replays: int = 90 * DAY
    aside: int = 90 * DAY

    def before(self, age: int, now: int) -> int:
        """The instant before which what has this age is deleted; 0 where it is kept for ever."""
        return max(0, now - age) if age else 0
