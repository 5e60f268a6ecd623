"""Setbacks: what a loop does when it fails: log, count, and wait twice as long each time. No loop ends."""

from __future__ import annotations

from typing import Any

from tidings.model.errors import Unavailable
from tidings.ports.meter import Meter

SHORTEST_S = 0.5
"""Pause after the first failure."""
LONGEST_S = 10.0


class Setbacks:
    """The failures of one loop since its last success."""

    def __init__(
        self, log: Any, meter: Meter | None, stage: str, topic: str = "", longest_s: float = LONGEST_S
    ) -> None:
        self._log = log
        self._meter = meter
        self._stage = stage
        self._topic = topic
        self._longest_s = longest_s
        self._pause_s = 0.0

    def over(self) -> None:
        """Note a success: the next failure counts as the first."""
        self._pause_s = 0.0

    def note(self, error: Exception) -> float:
        """Log and count a failure; the seconds to wait before the next try. Call it while handling the error."""
        kind = "unavailable" if isinstance(error, Unavailable) else "error"
        if self._meter is not None:
            self._meter.failure(self._stage, self._topic, kind)
        if kind == "error":
            self._log.error("a loop failed and goes on", stage=self._stage, topic=self._topic, exc_info=error)
        elif not self._pause_s:  # once for an outage, not once a second
            self._log.warning("waiting for a part", stage=self._stage, topic=self._topic, why=str(error))
        self._pause_s = min(max(self._pause_s * 2, SHORTEST_S), self._longest_s)
        return self._pause_s
