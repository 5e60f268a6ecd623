"""Which faults a seed brings, and how often."""

from __future__ import annotations

import random

from msgspec import Struct


class Weather(Struct, frozen=True):
    """The chances, per crossing between a process and the world, and the times, in seconds.

    `slow` calls take up to `latency`; `refused` ones have no effect, `unanswered` ones have theirs and still raise
    Unavailable; `broken` ones raise, before or after their effect, what no port is meant to raise; in a `crash` the
    process is killed at that very point, in a `freeze` it stands still.
    """

    slow: float = 0.0
    latency: float = 0.0
    refused: float = 0.0
    unanswered: float = 0.0
    broken: float = 0.0
    crash: float = 0.0
    freeze: float = 0.0
    longest_freeze: float = 0.0
    longest_outage: float = 0.0
    most_crashes: int = 0
    skew: int = 0
    """Milliseconds that a process's clock may be off, either way: machines whose clocks nobody sets are not served."""


CALM = Weather()


def draw(chance: random.Random) -> Weather:
    """The weather of a seed. Each kind of fault is absent from some seeds, so that none hides another."""

    def sometimes(value: float) -> float:
        return value if chance.random() < 0.6 else 0.0

    return Weather(
        slow=chance.choice((0.05, 0.2, 0.5)),
        latency=chance.choice((0.01, 0.3, 4.0)),
        refused=sometimes(chance.choice((0.002, 0.01, 0.05))),
        unanswered=sometimes(chance.choice((0.002, 0.01, 0.04))),
        crash=sometimes(chance.choice((0.001, 0.004, 0.015))),
        freeze=sometimes(chance.choice((0.0005, 0.003, 0.01))),
        longest_freeze=chance.choice((5.0, 40.0, 120.0)),
        longest_outage=chance.choice((0.5, 5.0, 60.0)),
        most_crashes=chance.choice((1, 3, 6)),
        skew=chance.choice((0, 20, 2_000, 10_000)),
        broken=chance.choice((0.0, 0.0, 0.0, 0.002, 0.01)),
    )
