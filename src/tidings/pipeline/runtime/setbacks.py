"""What every loop does about what fails: it says so, counts it, and waits a little longer each time. No loop ends."""

from __future__ import annotations

from typing import Any

from tidings.model.errors import Unavailable
from tidings.ports.meter import Meter

SHORTEST = 0.5
"""Seconds until the try after the first failure."""
LONGEST = 10.0


class Setbacks:
    """The failures of one loop since it last got on."""

    def __init__(self, log: Any, meter: Meter | None, stage: str, topic: str = "", longest: float = LONGEST) -> None:
        self._log = log
        self._meter = meter
        self._stage = stage
        self._topic = topic
        self._longest = longest
        self._pause = 0.0

    def over(self) -> None:
        """It got on."""
        self._pause = 0.0

    def note(self, error: Exception) -> float:
        """Tell of a failure; the seconds to wait before the next try. To be called while it is being handled."""
        kind = "unavailable" if isinstance(error, Unavailable) else "error"
        if self._meter is not None:
            self._meter.failure(self._stage, self._topic, kind)
        if kind == "error":
            self._log.error("a loop failed and goes on", stage=self._stage, topic=self._topic, exc_info=error)
        elif not self._pause:  # once for an outage, not once a second
            self._log.warning("waiting for a part", stage=self._stage, topic=self._topic, why=str(error))
        self._pause = min(max(self._pause * 2, SHORTEST), self._longest)
        return self._pause
