"""What a rendering may spend in Python: the engine's own fuel does not see it.

Rendering neither awaits nor leaves its thread, so there is one tank, and `Compiled.render` fills it.
"""

from __future__ import annotations

from typing import Final

MOST = 20_000
"""A content may spend this much on filters. A unit is about a microsecond of our reference machine."""


class OutOfFuel(Exception):
    """A rendering asks for more than it may."""


class Tank:
    """What is left of the fuel of the rendering that runs."""

    __slots__ = ("left",)

    def __init__(self, left: int = MOST) -> None:
        self.left = left

    def fill(self) -> None:
        """A new rendering begins."""
        self.left = MOST

    def burn(self, units: int) -> None:
        """Take some away. Raises OutOfFuel when there is not so much."""
        self.left -= units
        if self.left < 0:
            raise OutOfFuel


FUEL: Final = Tank()
