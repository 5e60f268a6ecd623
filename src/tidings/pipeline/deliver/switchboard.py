"""The providers of one channel, each with its line (line.py), and the choice of a line for each delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from tidings.model.delivery import Delivery
from tidings.model.vocabulary import Lane
from tidings.pipeline.deliver.line import Line
from tidings.pipeline.deliver.routed import Routed
from tidings.policy.breaker import BreakerRules
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter


class Switchboard:
    """The lines of one channel (at least one), in order of preference. All lanes of a process share them.

    `is_quiet` says whether nobody but the tenants with surplus has sent anything lately. Then a surplus lane leaves no
    more slots to others than the main lane of its priority does.
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
        """Begin no other call, because the process is to stop."""
        for line in self.lines:
            line.stop()

    def is_open(self) -> bool:
        """Whether any line may be used now."""
        return any(line.is_used() for line in self.lines)

    def room(self, lane: Lane) -> int:
        """How many deliveries of this lane to claim. Spare lines (weight 0) count only if no other may be used."""
        shares = {line: line.share() or float(line.is_used()) for line in self.lines}
        usual = [line for line in self.lines if line.weight and shares[line] > 0.0]
        return sum(line.ahead(lane, shares[line]) for line in usual or self.lines)

    def outlet(self, lane: Lane) -> int:
        """How many more held deliveries of this lane may begin now, at lines that are known to be well."""
        return sum(line.outlet(lane) for line in self.lines)

    def fails(self) -> bool:
        """Whether every provider failed its last call, and has not said since that it is well."""
        return all(line.fails for line in self.lines)

    def asks_in_s(self) -> float:
        """Seconds until the next check of a failing provider; infinite if none fails."""
        return min(line.asks_in_s() for line in self.lines)

    async def ask(self) -> None:
        """Check the failing providers whose check is due."""
        await asyncio.gather(*(line.ask() for line in self.lines))

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever a provider begins to fail, becomes unusable, or is back."""
        for line in self.lines:
            line.on_change.append(on_change)

    def usable_in_s(self, delivery: Delivery | None = None) -> float:
        """Seconds until a line (one that may take `delivery`, if given) may be used again, as far as is known."""
        return min(line.usable_in_s() for line in self._candidates(delivery))

    def obstacle(self, delivery: Delivery) -> tuple[str, str]:
        """The reason and detail why the delivery has to wait, from the line that may be used again first."""
        return min(self._candidates(delivery), key=Line.usable_in_s).obstacle()

    def has_others(self, line: Line, delivery: Delivery) -> bool:
        """Whether another line may be used now that has neither been tried nor refused the delivery."""
        names = (*delivery.tried, *delivery.refused)
        return any(other.name not in names and other.is_used() for other in line.others)

    def is_refused_by_all_but(self, line: Line, delivery: Delivery) -> bool:
        """Whether every other line has refused the delivery for good."""
        return all(other.name in delivery.refused for other in line.others)

    def _candidates(self, delivery: Delivery | None) -> Sequence[Line]:
        if delivery is None:
            return self.lines
        return _candidates(self.lines, self._by_name, delivery)

    def drops_repeats(self, delivery: Delivery) -> bool:
        """Whether it is harmless to send the delivery again: only a provider that recognises repetitions can get it."""
        if delivery.pinned:
            pinned = self._by_name.get(delivery.pinned)
            return pinned is not None and pinned.provider.idempotent
        return len(self.lines) == 1 and self.lines[0].provider.idempotent

    def has_lost_its_pin(self, delivery: Delivery) -> bool:
        """Whether only a provider that is not in the settings any more could recognise a repetition of the delivery."""
        return delivery.doubtful and bool(delivery.pinned) and delivery.pinned not in self._by_name

    def in_doubt(self, delivery: Delivery) -> Delivery:
        """The delivery marked as doubtful, and pinned to the provider that recognises repetitions, if that is known."""
        pinned = delivery.pinned
        if not pinned and len(self.lines) == 1 and self.lines[0].provider.idempotent:
            pinned = self.lines[0].name
        return msgspec.structs.replace(delivery, doubtful=True, pinned=pinned)

    def picking(self, lane: Lane) -> Picking:
        """A new choice of lines for the deliveries of one batch."""
        return Picking(self.lines, self._by_name, lane)


class Picking:
    """Chooses lines for the deliveries of one batch, by their health and room when the batch begins."""

    def __init__(self, lines: Sequence[Line], by_name: dict[str, Line], lane: Lane) -> None:
        self._lines = lines
        self._by_name = by_name
        self._share = {line: line.share() for line in lines}
        self._room = {line: line.room(lane, self._share[line]) for line in lines}
        self._ahead = {line: line.ahead(lane, self._share[line]) for line in lines}

    def line(self, delivery: Delivery, randomness: float) -> Line | None:
        """The line for a delivery, preferably one not tried yet; None if no line that may take it is usable."""
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
        # Prefer lines with room now, then lines with room soon. Spare lines do not take the overflow.
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
        # The traffic that an ailing line must not get goes to the healthiest of the others.
        return max(with_room if self._any_well(with_room) else usable, key=lambda one: (self._share[one], one.weight))

    def _any_well(self, lines: Sequence[Line]) -> bool:
        return any(self._share[line] >= 1.0 for line in lines)

    def _is_usable(self, line: Line) -> bool:
        # A recovering line gets no more than its share: not even a queue may build up there.
        share = self._share[line]
        return share >= 1.0 or (share > 0.0 and self._room[line] > 0)


def _candidates(lines: Sequence[Line], by_name: dict[str, Line], delivery: Delivery) -> Sequence[Line]:
    """The lines that may take the delivery: the pinned one, else those that have not refused it (all if all have)."""
    pinned = by_name.get(delivery.pinned)
    if pinned is not None:
        return (pinned,)
    return [line for line in lines if line.name not in delivery.refused] or lines
