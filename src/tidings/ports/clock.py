"""The clock: stages get it as an argument, so that tests and simulation can turn it by hand."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Tells the time and sleeps."""

    def now(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...

    def elapsed(self) -> int:
        """Milliseconds since a fixed instant in the past. Never goes back, even if the time of day is set back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...
