"""What a worker does: the parts of the flow of one process, each for some channels and lanes.

People write duties as the roles of `tidings run`: `route`, `route:critical`, `deliver`, `deliver:email`,
`deliver:critical`, `deliver:sms:critical`, `record`, `schedule`, `rounds`, and `worker` for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from itertools import product

from msgspec import Struct

from tidings.model.vocabulary import Channel, Lane, Priority

WORKER = "worker"
"""The role that has every duty."""


class Duty(StrEnum):
    """A part of the flow that a worker can do."""

    ROUTE = "route"
    DELIVER = "deliver"
    RECORD = "record"
    SCHEDULE = "schedule"
    """Putting due items into their queues: waits, recurrences and replays."""
    ROUNDS = "rounds"
    """The rounds, which one process at a time does for all: audit, canary, retention, housekeeping, queue depths."""


_WHOLE = frozenset(Duty) - {Duty.ROUTE, Duty.DELIVER}
_EVERYWHERE = frozenset(product(Channel, Priority))


class Duties(Struct, frozen=True):
    """What one worker does; by default everything. Any number of workers may share a part.

    `routes`: the lanes that it routes. `delivers`: the channels and lanes that it delivers. `whole`: its duties that
    are not divided. Together the workers must cover all of them.
    """

    routes: frozenset[Priority] = frozenset(Priority)
    delivers: frozenset[tuple[Channel, Priority]] = _EVERYWHERE
    whole: frozenset[Duty] = _WHOLE

    def routed_lanes(self) -> list[Lane]:
        """The lanes to route with their surplus lanes, the most urgent first."""
        return [lane for lane in Lane if lane.priority in self.routes]

    def delivered_lanes(self, channel: Channel) -> list[Lane]:
        """The lanes of the channel to deliver with their surplus lanes, the most urgent first."""
        return [lane for lane in Lane if (channel, lane.priority) in self.delivers]

    def names(self) -> list[str]:
        """The roles that `tidings run` takes for these duties, as few as possible."""
        if self == EVERYTHING:
            return [WORKER]
        return [*_routing(self.routes), *_delivering(self.delivers), *(duty for duty in Duty if duty in self.whole)]


EVERYTHING = Duties()


def duties_of(roles: Iterable[str]) -> Duties:
    """The duties of these parts of the worker together. Raises ValueError, which says what is wrong."""
    routes: set[Priority] = set()
    delivers: set[tuple[Channel, Priority]] = set()
    whole: set[Duty] = set()
    for role in roles:
        name, *limits = role.split(":")
        if name not in set(Duty):
            raise ValueError(f"there is no role {name!r}")
        channels, lanes = _limits(role, Duty(name), limits)
        if name == Duty.ROUTE:
            routes |= lanes
        elif name == Duty.DELIVER:
            delivers |= set(product(channels, lanes))
        else:
            whole.add(Duty(name))
    return Duties(frozenset(routes), frozenset(delivers), frozenset(whole))


def _limits(role: str, duty: Duty, limits: Iterable[str]) -> tuple[set[Channel], set[Priority]]:
    """The channels and lanes that the words behind a duty name; all of them where none is named."""
    channels: set[Channel] = set()
    lanes: set[Priority] = set()
    for word in limits:
        if word in set(Priority) and duty in {Duty.ROUTE, Duty.DELIVER}:
            lanes.add(Priority(word))
        elif word in set(Channel) and duty is Duty.DELIVER:
            channels.add(Channel(word))
        else:
            raise ValueError(f"the role {role!r} has {word!r} where {_takes(duty)}")
    return channels or set(Channel), lanes or set(Priority)


def _takes(duty: Duty) -> str:
    if duty in _WHOLE:
        return f"nothing may follow {duty.value}"
    lanes = f"a lane ({', '.join(Priority)})"
    return lanes + " may stand" if duty is Duty.ROUTE else f"a channel ({', '.join(Channel)}) or {lanes} may stand"


def _routing(lanes: frozenset[Priority]) -> list[str]:
    if lanes == frozenset(Priority):
        return [Duty.ROUTE]
    return [f"{Duty.ROUTE}:{lane}" for lane in Priority if lane in lanes]


def _delivering(places: frozenset[tuple[Channel, Priority]]) -> list[str]:
    if places == _EVERYWHERE:
        return [Duty.DELIVER]
    lanes = [lane for lane in Priority if places.issuperset(product(Channel, [lane]))]
    left = places - set(product(Channel, lanes))
    channels = [channel for channel in Channel if left and places.issuperset(product([channel], Priority))]
    left -= set(product(channels, Priority))
    single = [f"{channel}:{lane}" for channel, lane in product(Channel, Priority) if (channel, lane) in left]
    return [f"{Duty.DELIVER}:{limit}" for limit in (*lanes, *channels, *single)]


CRITICAL_ALONE = duties_of(["route:critical", "deliver:critical"])
"""The duties of a process that only routes and delivers the critical lane, so that nothing else delays it."""
ALL_BUT_CRITICAL = Duties(EVERYTHING.routes - CRITICAL_ALONE.routes, EVERYTHING.delivers - CRITICAL_ALONE.delivers)
"""The duties that remain beside a process with `CRITICAL_ALONE`."""
