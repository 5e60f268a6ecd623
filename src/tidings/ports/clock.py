"""The time, as an argument."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits for it."""

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...

    def elapsed(self) -> int:
        """Milliseconds since some instant of the past; never goes back, whatever is done to the time of day."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...
