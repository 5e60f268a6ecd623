"""The providers of one channel, and which of them a delivery goes through.

Every provider has a line (line.py). All lanes of a process share the lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from tidings.model.delivery import Delivery
from tidings.model.vocabulary import Lane
from tidings.pipeline.deliver.line import Line, Routed
from tidings.policy.breaker import BreakerRules
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter


class Switchboard:
    """The lines of one channel, in order of preference. At least one.

    `is_quiet`: whether only those have something to send who have sent more than their share. Then the surplus leaves
    no more slots than its lane.
    """

    def __init__(
        self,
        routed: Sequence[Routed],
        rules: BreakerRules,
        clock: Clock,
        meter: Meter,
        is_quiet: Callable[[], bool] = lambda: True,
    ) -> None:
        self.lines = tuple(Line(one, rules, clock, meter, is_quiet) for one in routed)
        self._by_name = {line.name: line for line in self.lines}
        for line in self.lines:
            line.others = [other for other in self.lines if other is not line]

    def stop(self) -> None:
        """The process is to stop: begin no other call."""
        for line in self.lines:
            line.stop()

    def is_open(self) -> bool:
        """Whether any line may be used now."""
        return any(line.is_used() for line in self.lines)

    def room(self, lane: Lane) -> int:
        """How many deliveries of this lane to claim. The spare lines count when no other may be used."""
        shares = {line: line.share() or float(line.is_used()) for line in self.lines}
        usual = [line for line in self.lines if line.weight and shares[line] > 0.0]
        return sum(line.ahead(lane, shares[line]) for line in usual or self.lines)

    def outlet(self, lane: Lane) -> int:
        """How many more deliveries of this lane that waited are to begin now: at lines that are known to be well."""
        return sum(line.outlet(lane) for line in self.lines)

    def fails(self) -> bool:
        """Whether every provider failed its last call, and has not said since that it is well."""
        return all(line.fails for line in self.lines)

    def asks_in(self) -> float:
        """Seconds until a provider that fails is to be asked whether it is well; infinite when none fails."""
        return min(line.asks_in() for line in self.lines)

    async def ask(self) -> None:
        """Ask the providers that fail whether they are well again, where it is time to."""
        await asyncio.gather(*(line.ask() for line in self.lines))

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever a line begins to fail or is left alone, and when it is back."""
        for line in self.lines:
            line.on_change.append(on_change)

    def next_try(self, delivery: Delivery | None = None) -> float:
        """Seconds until some line (for the delivery) may be used again, as far as is known."""
        return min(line.next_try() for line in self._candidates(delivery))

    def obstacle(self, delivery: Delivery) -> tuple[str, str]:
        """The reason for which the delivery has to wait, and what is known about it: of the line that is back first."""
        return min(self._candidates(delivery), key=Line.next_try).obstacle()

    def has_others(self, line: Line, delivery: Delivery) -> bool:
        """Whether the delivery can go to another line at once."""
        names = (*delivery.tried, *delivery.refused)
        return any(other.name not in names and other.is_used() for other in line.others)

    def is_refused_by_all_but(self, line: Line, delivery: Delivery) -> bool:
        """Whether no other line will ever take the delivery."""
        return all(other.name in delivery.refused for other in line.others)

    def _candidates(self, delivery: Delivery | None) -> Sequence[Line]:
        if delivery is None:
            return self.lines
        return _candidates(self.lines, self._by_name, delivery)

    def drops_repeats(self, delivery: Delivery) -> bool:
        """Whether a send that may have been made already can be made again: its provider would tell a repetition."""
        pinned = self._by_name.get(delivery.pinned)
        if pinned is not None:
            return pinned.provider.idempotent
        return len(self.lines) == 1 and self.lines[0].provider.idempotent

    def in_doubt(self, delivery: Delivery) -> Delivery:
        """The delivery as it goes on when an attempt of it may have been made: only to whom could tell, if anybody."""
        pinned = delivery.pinned
        if not pinned and len(self.lines) == 1 and self.lines[0].provider.idempotent:
            pinned = self.lines[0].name
        return msgspec.structs.replace(delivery, doubtful=True, pinned=pinned)

    def picking(self, lane: Lane) -> Picking:
        """Picks for the deliveries of one batch."""
        return Picking(self.lines, self._by_name, lane)


class Picking:
    """Picks lines for the deliveries of one batch, by what is known of them when it begins."""

    def __init__(self, lines: Sequence[Line], by_name: dict[str, Line], lane: Lane) -> None:
        self._lines = lines
        self._by_name = by_name
        self._share = {line: line.share() for line in lines}
        self._room = {line: line.room(lane, self._share[line]) for line in lines}
        self._ahead = {line: line.ahead(lane, self._share[line]) for line in lines}

    def line(self, delivery: Delivery, randomness: float) -> Line | None:
        """The line for a delivery, rather one that has not been tried. None: no line that may take it is used now."""
        candidates = _candidates(self._lines, self._by_name, delivery)
        fresh = [line for line in candidates if line.name not in delivery.tried]
        chosen = self._by_weight(fresh, randomness) or self._by_weight(candidates, randomness)
        if chosen is not None:
            self._room[chosen] -= 1
            self._ahead[chosen] -= 1
        return chosen

    def _by_weight(self, lines: Sequence[Line], randomness: float) -> Line | None:
        usable = [line for line in lines if self._is_usable(line)]
        if len(usable) <= 1:
            return usable[0] if usable else next((line for line in lines if line.is_used()), None)
        # A full line makes nobody wait who can go elsewhere; but the spare lines are not for overflow.
        with_room = (
            [line for line in usable if self._room[line] > 0 and line.weight]
            or [line for line in usable if self._ahead[line] > 0 and line.weight]
            or usable
        )
        mark = randomness * sum(line.weight for line in lines)
        for line in with_room:
            mark -= line.weight * self._share[line]
            if mark < 0.0:
                return line
        # What an ailing line should not get goes to the healthiest of the others.
        return max(with_room if self._all_well(with_room) else usable, key=lambda one: (self._share[one], one.weight))

    def _all_well(self, lines: Sequence[Line]) -> bool:
        return any(self._share[line] >= 1.0 for line in lines)

    def _is_usable(self, line: Line) -> bool:
        # While it recovers, more than its share must not even queue up there.
        share = self._share[line]
        return share >= 1.0 or (share > 0.0 and self._room[line] > 0)


def _candidates(lines: Sequence[Line], by_name: dict[str, Line], delivery: Delivery) -> Sequence[Line]:
    """The lines that may take the delivery: the pinned one, else those that have not refused it for good."""
    pinned = by_name.get(delivery.pinned)
    if pinned is not None:
        return (pinned,)
    return [line for line in lines if line.name not in delivery.refused] or lines
