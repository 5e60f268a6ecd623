"""Requests in transit to a vendor, which the vendor's log does not show.

The process that made one cannot know whether it arrived. So its delivery is rightly `uncertain`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from uuid import UUID

from msgspec import Struct

from tidings.model.errors import Unavailable
from tidings.simulation.processes import AdapterBug, Process


class Fate(Enum):
    """What became of a request.

    `GIVEN_UP`: its process waited for the whole timeout. `BROKEN_OFF`: its process stopped waiting earlier.
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
    """The requests to one vendor, by delivery. A process has to wait `timeout_s` for an answer."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._by_delivery: dict[UUID, list[_Departure]] = {}

    @contextmanager
    def leave(self, ids: Collection[UUID], process: Process) -> Iterator[None]:
        """Inside this context a request of `process` about the deliveries `ids` is in transit."""
        loop = asyncio.get_running_loop()
        departure, ends_at = _Departure(process), loop.time() + self._timeout_s
        for id in ids:
            self._by_delivery.setdefault(id, []).append(departure)
        try:
            yield
        except asyncio.CancelledError:
            departure.fate = Fate.GIVEN_UP if loop.time() >= ends_at else Fate.BROKEN_OFF
            raise
        except (Unavailable, AdapterBug):
            departure.fate = Fate.LOST
            raise
        departure.fate = Fate.ARRIVED

    def was_lost(self, id: UUID) -> bool:
        """Whether a request about this delivery never arrived, through no fault of its process."""
        return any(
            departure.fate in {Fate.LOST, Fate.GIVEN_UP}
            or (departure.fate is Fate.UNDER_WAY and departure.process.ended)
            for departure in self._by_delivery.get(id, ())
        )
