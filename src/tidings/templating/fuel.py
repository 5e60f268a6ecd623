"""Bounds what the filters of a rendering may cost in Python, which the engine's own fuel does not count.

Rendering neither awaits nor leaves its thread, so there is one tank, and `Compiled.render` fills it.
"""

from __future__ import annotations

from typing import Final

MOST = 20_000
"""The fuel for the filters of one content. A unit is about a microsecond on the reference machine."""


class OutOfFuel(Exception):
    """A rendering has burnt all its fuel."""


class Tank:
    """The fuel that is left to the rendering that runs now."""

    __slots__ = ("left",)

    def __init__(self, left: int = MOST) -> None:
        self.left = left

    def fill(self) -> None:
        """Fill the tank, for a new rendering."""
        self.left = MOST

    def burn(self, units: int) -> None:
        """Take `units` out of the tank. Raises OutOfFuel when too few are left."""
        self.left -= units
        if self.left < 0:
            raise OutOfFuel


FUEL: Final = Tank()
