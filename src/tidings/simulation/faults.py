"""The faults of a seed: their kinds and their chances."""

from __future__ import annotations

import random

from msgspec import Struct


class Weather(Struct, frozen=True):
    """The chance of each fault at each crossing of a process, and the bounds of the faults.

    A `slow` call takes up to `latency_s`. A `refused` call has no effect, an `unanswered` one has; both raise
    Unavailable. With `adapter_bug` the call raises an exception that no port may raise, before or after its effect.
    `crash` kills the process at this point, `freeze` stops it for a while.
    """

    slow: float = 0.0
    latency_s: float = 0.0
    refused: float = 0.0
    unanswered: float = 0.0
    adapter_bug: float = 0.0
    crash: float = 0.0
    freeze: float = 0.0
    longest_freeze_s: float = 0.0
    longest_outage_s: float = 0.0
    most_crashes: int = 0
    skew_ms: int = 0
    """How far a process's clock may be wrong, either way. Machines without clock synchronisation are not supported."""


CALM = Weather()


def draw(chance: random.Random) -> Weather:
    """Random weather. Each kind of fault is absent from some seeds, so that no kind hides another."""

    def sometimes(value: float) -> float:
        return value if chance.random() < 0.6 else 0.0

    return Weather(
        slow=chance.choice((0.05, 0.2, 0.5)),
        latency_s=chance.choice((0.01, 0.3, 4.0)),
        refused=sometimes(chance.choice((0.002, 0.01, 0.05))),
        unanswered=sometimes(chance.choice((0.002, 0.01, 0.04))),
        crash=sometimes(chance.choice((0.001, 0.004, 0.015))),
        freeze=sometimes(chance.choice((0.0005, 0.003, 0.01))),
        longest_freeze_s=chance.choice((5.0, 40.0, 120.0)),
        longest_outage_s=chance.choice((0.5, 5.0, 60.0)),
        most_crashes=chance.choice((1, 3, 6)),
        skew_ms=chance.choice((0, 20, 2_000, 60_000)),
        adapter_bug=chance.choice((0.0, 0.0, 0.0, 0.002, 0.01)),
    )
