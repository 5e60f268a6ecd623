"""Requests on their way to a vendor: made, and in no log but the network's.

A process that made one cannot know whether it arrived, so the doubt that it leaves is founded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from uuid import UUID

from msgspec import Struct

from tidings.model.errors import Unavailable
from tidings.simulation.processes import Broken, Process


class Fate(Enum):
    """What became of a request. `GIVEN_UP`: its process had waited for the answer for as long as it is told to.

    `BROKEN_OFF`: its process did not wait for as long as that.
    """

    UNDER_WAY = auto()
    ARRIVED = auto()
    LOST = auto()
    GIVEN_UP = auto()
    BROKEN_OFF = auto()


class _Departure(Struct):
    process: Process
    fate: Fate = Fate.UNDER_WAY


class Departures:
    """The requests to one vendor, by what is to be sent. A process waits `patience_s` for an answer."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._made: dict[UUID, list[_Departure]] = {}

    @contextmanager
    def leave(self, ids: Collection[UUID], process: Process) -> Iterator[None]:
        """A request about `ids`, which `process` made, is on its way for as long as this lasts."""
        loop = asyncio.get_running_loop()
        departure, ends_at = _Departure(process), loop.time() + self._patience_s
        for id in ids:
            self._made.setdefault(id, []).append(departure)
        try:
            yield
        except asyncio.CancelledError:
            departure.fate = Fate.GIVEN_UP if loop.time() >= ends_at else Fate.BROKEN_OFF
            raise
        except (Unavailable, Broken):
            departure.fate = Fate.LOST
            raise
        departure.fate = Fate.ARRIVED

    def was_lost(self, id: UUID) -> bool:
        """Whether a request about it never arrived, for no fault of the process that made it."""
        return any(
            departure.fate in {Fate.LOST, Fate.GIVEN_UP}
            or (departure.fate is Fate.UNDER_WAY and departure.process.ended)
            for departure in self._made.get(id, ())
        )
