"""How long rows that would otherwise pile up are kept."""

from __future__ import annotations

from msgspec import Struct

from tidings.model.days import DAY_MS


class Keeping(Struct, frozen=True):
    """The ages from which things are deleted; 0 keeps them for ever. `inbox_items` is a number of items per user.

    A cancellation must outlive every copy of its notification that could still be sent or replayed. A gap in the
    accounts is reported long enough for somebody to look into it.
    """

    inbox_ms: int = 90 * DAY_MS
    inbox_items: int = 1_000
    cancellations_ms: int = 400 * DAY_MS
    gaps_ms: int = 90 * DAY_MS
    replays_ms: int = 90 * DAY_MS
    aside_ms: int = 90 * DAY_MS

    def before(self, age_ms: int, now: int) -> int:
        """The instant before which things that may reach this age are deleted; 0 if they are kept for ever."""
        return max(0, now - age_ms) if age_ms else 0
