"""The providers of one channel, and which of them a delivery goes through.

Every provider has a line. A line knows how well its provider is (policy/breaker.py), how many requests may be under way
and how many sends a second the vendor grants. All lanes of a process share the lines; a part of each is kept free for
the more urgent lanes, so that bulk never takes all of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from tidings.model.delivery import Delivery
from tidings.model.sending import About, AnyDelivery, Retry, SendResult
from tidings.model.vocabulary import Lane, Reason
from tidings.pipeline.answers import answers_of, settled, told
from tidings.pipeline.stopping import Stopping
from tidings.policy.breaker import PROBES, Breaker, BreakerRules
from tidings.policy.retry import THROTTLED, is_fault
from tidings.policy.throttling import Throttling
from tidings.policy.token_bucket import TokenBucket
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.provider import Provider

_BURST = 1.0
"""Seconds of its rate that a line may send at once."""
_KEPT = {
    Lane.CRITICAL: 0.0,
    Lane.CRITICAL_SURPLUS: 0.05,
    Lane.NORMAL: 0.1,
    Lane.NORMAL_SURPLUS: 0.2,
    Lane.BULK: 0.25,
    Lane.BULK_SURPLUS: 0.35,
}
"""The share of a line that a lane leaves to the more urgent ones."""
_LESS_URGENT = {lane: tuple(Lane)[place + 1 :] for place, lane in enumerate(Lane)}
STOPPED = Retry("busy", detail="it was not begun: the process is to stop")
"""The answer for what goes back to the queue."""
_NOT_BEGUN = Retry("busy", detail="its turn at the provider did not come")
_log = structlog.get_logger("tidings.provider")


def of_its_own(_name: str, rate: float, burst: float) -> TokenBucket:
    """A bucket that this process has for itself."""
    return TokenBucket(rate, burst)


class Routed(Struct, frozen=True):
    """A provider and how it is used.

    `weight` is how much of the traffic it gets beside the others; 0: only when they cannot. `patience` (seconds) bounds
    how long a send waits for its turn: what has waited longer is put off instead, so that no batch outlives its lease.
    `longest_pause_s`: a provider that asks the account to wait for longer is asked again sooner.
    `bucket` makes the one that keeps the vendor's rate, of a name, tokens a second, and tokens at once.
    """

    provider: Provider[Any]
    weight: int = 1
    patience: float = 10.0
    longest_pause_s: float = 900.0
    bucket: Callable[[str, float, float], TokenBucket] = of_its_own


class Line:
    """One provider, as all lanes of this process share it."""

    def __init__(
        self, routed: Routed, rules: BreakerRules, clock: Clock, meter: Meter, is_quiet: Callable[[], bool]
    ) -> None:
        self.provider = routed.provider
        self.weight = routed.weight
        self._patience = round(routed.patience * 1000)
        self._clock = clock
        self._meter = meter
        self._is_quiet = is_quiet
        self._breaker = Breaker(rules)
        rate = routed.provider.rate
        self._bucket = None if rate is None else routed.bucket(self.name, rate, max(1.0, rate * _BURST))
        self._under_way = 0
        self._under_way_of = dict.fromkeys(Lane, 0)
        self._waiting: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        self._throttling = Throttling()
        self._longest_pause = routed.longest_pause_s
        self._paused_until = 0
        self._told = 1.0
        self._left_alone = False
        self._fault = ""
        self._stopping = Stopping()
        self.others: Sequence[Line] = ()
        self.on_change: list[Callable[[], None]] = []

    @property
    def name(self) -> str:
        """The provider's."""
        return self.provider.name

    def share(self) -> float:
        """How much of its usual traffic it should get now: 0 (none) to 1."""
        now = self._clock.elapsed()
        share = self._breaker.share(now)
        if share != self._told:
            self._tell(share)
        return 0.0 if now < self._paused_until else share

    def outlet(self, lane: Lane) -> int:
        """How many more sends of this lane that waited are to begin now; 0 unless it is known to be well."""
        room = 0 if self._breaker.probing else self.room(lane, self.share())
        return self._throttling.let_out(room) if room else 0

    def is_used(self) -> bool:
        """Whether it may be used at all. One that is merely slow is better than nothing, when there is nothing else."""
        if self.share() > 0.0:
            return True
        return self._breaker.is_slow and not any(other.share() > 0.0 for other in self.others)

    def room(self, lane: Lane, share: float) -> int:
        """How many sends of this lane could begin at once, at this share."""
        if share <= 0.0:
            return 0
        if self._breaker.probing:
            return max(0, PROBES - self._under_way)
        provider = self.provider
        room = max(0, self._slots(lane, share) - self._under_way) * provider.batch_size // provider.parallel
        if not room and not self._waiting[lane] and self._less_urgent_are_under_way(lane):
            room = 1  # it waits at the head of the line: else those who take whatever becomes free keep it for ever
        if self._bucket is not None:
            room = min(room, int(self._bucket.tokens(self._clock.elapsed()) - self._kept(lane)))
        return max(0, room)

    def most_at_once(self, lane: Lane) -> int:
        """How many sends one call may hold."""
        if self._breaker.probing:
            return 1
        size = self.provider.batch_size
        return size if self._bucket is None else max(1, min(size, int(self._bucket.burst - self._kept(lane))))

    def next_try(self) -> float:
        """Seconds until it may be used again, as far as is known."""
        now = self._clock.elapsed()
        return (max(self._breaker.next_probe(now), self._paused_until, now) - now) / 1000

    def obstacle(self) -> tuple[str, str]:
        """The reason for which nothing may go through it now, and what is known about it."""
        if self._breaker.probing or self._clock.elapsed() >= self._paused_until:
            return Reason.PROVIDER_OPEN, f"{self.name}: {self._fault or 'it fails'}"
        return THROTTLED, f"{self.name} asked for less"

    def stop(self) -> None:
        """The process is to stop: what is under way goes on, no other call is begun."""
        self._stopping.set()
        self._wake()

    async def call(self, outbound: Sequence[AnyDelivery], lane: Lane) -> Sequence[SendResult]:
        """Send when it is this call's turn; a result for each, in order. Raises only CancelledError."""
        async with self._turn(lane, len(outbound)) as has_come:
            if not has_come:
                return [STOPPED if self._stopping.is_set else _NOT_BEGUN] * len(outbound)
            began, probe = self._clock.elapsed(), self._breaker.probing
            number = self._breaker.begin(began, len(outbound))
            try:
                results = await answers_of(self.provider, outbound)
            except BaseException:
                self._breaker.abandon(number)
                raise
            ended = self._clock.elapsed()
            faults = [result for result in results if is_fault(result)]
            self._fault = told(faults[-1]) if faults else self._fault
            self._breaker.end(number, ended, len(faults))
            self.share()
            results = settled(results, outbound, self._throttling, failing=probe or self._breaker.probing)
            self._leave_alone([one.after for one in results if isinstance(one, Retry) and one.about is About.ACCOUNT])
        for kind, count in Counter(type(result).__name__.lower() for result in results).items():
            self._meter.results(self.name, kind, count, (ended - began) / 1000)
        return results

    @asynccontextmanager
    async def _turn(self, lane: Lane, count: int) -> AsyncIterator[bool]:
        """Wait for slots and tokens for `count` sends; False when that takes too long, or the line is left alone."""
        deadline = self._clock.elapsed() + self._patience
        cost = min(count, self.provider.parallel)
        if not await self._slot(lane, cost, deadline):
            self._wake()
            yield False
            return
        self._under_way += cost
        self._under_way_of[lane] += cost
        self._wake()  # there may be room for one more
        try:
            yield await self._tokens(lane, count, deadline)
        finally:
            self._under_way -= cost
            self._under_way_of[lane] -= cost
            self._wake()

    async def _slot(self, lane: Lane, cost: int, deadline: int) -> bool:
        while self.is_used() and not self._stopping.is_set:
            if not self._under_way or self._under_way + cost <= self._slots(lane, self.share()):
                return True
            if not await self._woken(lane, deadline):
                break
        return False

    async def _tokens(self, lane: Lane, count: int, deadline: int) -> bool:
        bucket, kept = self._bucket, self._kept(lane)
        while bucket is not None and not bucket.take(count, now := self._clock.elapsed(), kept):
            wait = bucket.wait(count, now, kept)
            if now + wait > deadline:
                return False
            await self._stopping.ending(self._clock.sleep(wait / 1000))
            if self._stopping.is_set or not self.is_used():
                return False
        return True

    async def _woken(self, lane: Lane, deadline: int) -> bool:
        """Wait until there may be room; False when the deadline comes first."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[lane].append(turn)
        try:
            async with asyncio.timeout((deadline - self._clock.elapsed()) / 1000):
                await turn
        except TimeoutError:
            return False
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake()  # it was our turn: pass it on
            raise
        return True

    def _wake(self) -> None:
        """Let the most urgent of those who wait look again; all of them when the line is left alone."""
        everyone = self._stopping.is_set or not self.is_used()
        for lane in Lane:
            waiting = self._waiting[lane]
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    if not everyone:
                        return

    def _slots(self, lane: Lane, share: float) -> int:
        """How many requests may be under way when this lane begins one."""
        slots = self.provider.concurrency * self.provider.parallel * (share or 1.0)
        if lane.is_surplus and self._is_quiet():
            lane = Lane.of(lane.priority, surplus=False)
        return max(1, int(slots - int(slots * _KEPT[lane])))

    def _less_urgent_are_under_way(self, lane: Lane) -> bool:
        return any(self._under_way_of[other] for other in _LESS_URGENT[lane])

    def _kept(self, lane: Lane) -> int:
        """Tokens that this lane leaves to more urgent ones."""
        return 0 if self._bucket is None else int(self._bucket.burst * _KEPT[lane])

    def _leave_alone(self, asked: Sequence[float | None]) -> None:
        """Nothing goes through for as long as the provider asked, if it asked the account to wait."""
        if not asked:
            return
        now = self._clock.elapsed()
        is_new = now >= self._paused_until
        seconds = self._throttling.pause_s(asked, self._longest_pause, goes_on=not is_new)
        self._paused_until = max(self._paused_until, now + int(seconds * 1000))
        if is_new and self._throttling.pauses == 1:
            _log.warning("a provider asks for less", provider=self.name, seconds=seconds)
            self._report()
        self._wake()

    def _report(self) -> None:
        for hear in self.on_change:
            hear()

    def _tell(self, share: float) -> None:
        """Log that it is left alone, and that it is back, once each: not whenever a probe fails."""
        self._told = share
        self._meter.health(self.name, share)
        if share == 0.0:
            self._wake()
            if not self._left_alone:
                why = "slow" if self._breaker.is_slow else self._fault
                _log.warning("a provider is left alone", provider=self.name, why=why, seconds=self.next_try())
                self._report()
            self._left_alone = True
        elif self._left_alone and not self._breaker.probing:
            _log.info("a provider is back", provider=self.name)
            self._report()
            self._left_alone = False


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
        """How many deliveries of this lane could begin at once. The spare lines count when no other may be used."""
        shares = {line: line.share() or float(line.is_used()) for line in self.lines}
        usual = [line for line in self.lines if line.weight and shares[line] > 0.0]
        return sum(line.room(lane, shares[line]) for line in usual or self.lines)

    def outlet(self, lane: Lane) -> int:
        """How many more deliveries of this lane that waited are to begin now: at lines that are known to be well."""
        return sum(line.outlet(lane) for line in self.lines)

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever a line is left alone, and when it is back."""
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

    def line(self, delivery: Delivery, randomness: float) -> Line | None:
        """The line for a delivery, rather one that has not been tried. None: no line that may take it is used now."""
        candidates = _candidates(self._lines, self._by_name, delivery)
        fresh = [line for line in candidates if line.name not in delivery.tried]
        chosen = self._by_weight(fresh, randomness) or self._by_weight(candidates, randomness)
        if chosen is not None:
            self._room[chosen] -= 1
        return chosen

    def _by_weight(self, lines: Sequence[Line], randomness: float) -> Line | None:
        usable = [line for line in lines if self._is_usable(line)]
        if len(usable) <= 1:
            return usable[0] if usable else next((line for line in lines if line.is_used()), None)
        # A full line makes nobody wait who can go elsewhere; but the spare lines are not for overflow.
        with_room = [line for line in usable if self._room[line] > 0 and line.weight] or usable
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
