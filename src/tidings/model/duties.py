"""The duties of a worker: the parts of the flow that one process does, and for which channels and lanes."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from tidings.model.vocabulary import Channel, Lane, Priority


class Duty(StrEnum):
    """A part of the flow that a worker can do."""

    ROUTE = "route"
    DELIVER = "deliver"
    RECORD = "record"
    SCHEDULE = "schedule"
    """Putting due items into their queues: waits, recurrences and replays."""
    ROUNDS = "rounds"
    """The rounds, which one process at a time does for all: audit, canary, retention, housekeeping, queue depths."""


class Duties(Struct, frozen=True):
    """What one worker does; by default everything.

    `channels` limits `deliver`; `lanes` limits `route` and `deliver`. Any number of workers may share a duty. Together
    the workers must cover every duty, channel and lane.
    """

    duties: frozenset[Duty] = frozenset(Duty)
    channels: frozenset[Channel] = frozenset(Channel)
    lanes: frozenset[Priority] = frozenset(Priority)

    def has(self, duty: Duty) -> bool:
        """Whether the worker has this duty."""
        return duty in self.duties

    def ordered_lanes(self) -> list[Lane]:
        """The worker's lanes with their surplus lanes, the most urgent first."""
        return [lane for lane in Lane if lane.priority in self.lanes]

    def ordered_channels(self) -> list[Channel]:
        """The worker's channels, in the order of `Channel`."""
        return [channel for channel in Channel if channel in self.channels]


EVERYTHING = Duties()
CRITICAL_ALONE = Duties(frozenset({Duty.ROUTE, Duty.DELIVER}), lanes=frozenset({Priority.CRITICAL}))
"""The duties of a process that only routes and delivers the critical lane, so that nothing else delays it."""
ALL_BUT_CRITICAL = Duties(lanes=frozenset(Priority) - {Priority.CRITICAL})
"""The duties that remain beside a process with `CRITICAL_ALONE`."""
