"""A line: one provider, as all lanes of a process share it.

It knows how well its provider is (policy/breaker.py), how many requests may be under way and how many sends a second
the vendor grants. A part of it is kept free for the more urgent lanes, so that bulk never takes all of it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from msgspec import Struct

from tidings.model.errors import LeaseLost, SettingsError, Unavailable
from tidings.model.sending import About, AnyDelivery, Retry, SendResult
from tidings.model.vocabulary import Lane, Reason
from tidings.pipeline.deliver.answers import answers_of, settled, told
from tidings.pipeline.runtime.stopping import Stopping
from tidings.policy.breaker import PROBES, Breaker, BreakerRules
from tidings.policy.inquiry import Inquiry
from tidings.policy.redaction import without_addresses
from tidings.policy.retry import BUSY, THROTTLED, is_fault
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
AHEAD = 250
"""Milliseconds of work that a line may be given in advance. Less, and fast calls pay a batch's statements for a few of
them; more, and another process stands idle while its deliveries wait here, or a killed one leaves more to its lease."""
_PACE = 8
"""Calls over which the pace of a line is averaged."""
_LANES = tuple(Lane)
"""The most urgent first."""
_LESS_URGENT = {lane: _LANES[place + 1 :] for place, lane in enumerate(_LANES)}
_STOPPED = Retry(BUSY, detail="it was not begun: the process is to stop")
_NO_TURN = Retry(BUSY, detail="it was not begun: its turn at the provider did not come")
_NOT_OURS = Retry(BUSY, detail="it was not begun: the queue did not confirm that it may be")
_UNBEGUN = (_STOPPED, _NO_TURN, _NOT_OURS)
_log = structlog.get_logger("tidings.provider")


def of_its_own(_name: str, rate: float, burst: float) -> TokenBucket:
    """A bucket that this process has for itself."""
    return TokenBucket(rate, burst)


async def nothing_to_begin() -> None:
    """For calls of which nobody need know."""


def is_unbegun(result: SendResult) -> bool:
    """Whether this is the answer of a line that made no call: the deliveries go back to the queue."""
    return any(result is one for one in _UNBEGUN)


class Routed(Struct, frozen=True):
    """A provider and how it is used.

    `weight` is how much of the traffic it gets beside the others; 0: only when they cannot. `patience` (seconds) bounds
    how long a send waits for its turn: what has waited longer goes back unbegun, so that no batch outlives its lease.
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
        self,
        routed: Routed,
        rules: BreakerRules,
        clock: Clock,
        meter: Meter,
        is_quiet: Callable[[], bool] = lambda: True,
    ) -> None:
        self.provider = routed.provider
        self.weight = routed.weight
        self._patience = round(routed.patience * 1000)
        self._clock = clock
        self._meter = meter
        self._is_quiet = is_quiet
        self._breaker = Breaker(rules)
        self._inquiry = Inquiry()
        rate = routed.provider.rate
        self._bucket = None if rate is None else routed.bucket(self.name, rate, max(1.0, rate * _BURST))
        self._under_way = 0
        self._under_way_of = dict.fromkeys(Lane, 0)
        self._queued = dict.fromkeys(Lane, 0)
        self._pace: float | None = None
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
        """How many more sends of this lane that waited are to begin now; 0 unless the provider is well, or says so."""
        is_well = self._inquiry.says_well if self._breaker.probing else not self._inquiry.fails
        room = self.room(lane, self.share()) if is_well else 0
        return self._throttling.let_out(room) if room else 0

    @property
    def fails(self) -> bool:
        """Whether the last call failed, and the provider has not said since that it is well."""
        return self._inquiry.fails

    def asks_in(self) -> float:
        """Seconds until the provider is to be asked whether it is well; infinite unless it fails."""
        due = self._inquiry.due(self._clock.elapsed())
        return math.inf if due is None else due / 1000

    async def ask(self) -> None:
        """Ask a provider that fails whether it is well again, when it is time to. Nothing is sent through it."""
        if not self._inquiry.begin(self._clock.elapsed()):
            return
        try:
            said = await self._stopping.ending(self.provider.check())
        except SettingsError as error:
            _log.debug("a provider is not well yet", provider=self.name, why=without_addresses(str(error)))
            return
        if said is not None:
            self._inquiry.answered_well()
            self._report()

    def is_used(self) -> bool:
        """Whether it may be used at all. One that is merely slow is better than nothing, when there is nothing else."""
        if self.share() > 0.0:
            return True
        if self._clock.elapsed() < self._paused_until:
            return False  # however slow it is: it asked for this
        return self._breaker.is_slow and not any(other.share() > 0.0 for other in self.others)

    def room(self, lane: Lane, share: float) -> int:
        """How many sends of this lane could begin at once, at this share."""
        return self._room(lane, share, 0)

    def ahead(self, lane: Lane, share: float) -> int:
        """How many more sends of this lane may come here: what can begin within `AHEAD`, less what waits already."""
        # Those who are less urgent let this lane pass.
        waiting = sum(self._queued[other] for other in _LANES[: _LANES.index(lane) + 1])
        return max(0, self._room(lane, share, AHEAD if share >= 1.0 else 0) - waiting)

    def _room(self, lane: Lane, share: float, within: int) -> int:
        """How many sends of this lane could begin within so many milliseconds, if nobody else waited."""
        if share <= 0.0:
            return 0
        if self._breaker.probing:
            return max(0, PROBES - self._under_way)
        provider, slots = self.provider, self._slots(lane, share)
        if self._pace is not None:
            slots = int(slots * max(1.0, within / max(self._pace, 1.0)))
        room = max(0, slots - self._under_way) * provider.batch_size // provider.parallel
        if not room and not self._waiting[lane] and self._less_urgent_are_under_way(lane):
            room = 1  # it waits at the head of the line: else those who take whatever becomes free keep it for ever
        if self._bucket is not None and provider.rate is not None:
            tokens = self._bucket.tokens(self._clock.elapsed()) - self._kept(lane)
            room = min(room, int(tokens + provider.rate * within / 1000))
        return max(0, room)

    def most_at_once(self, lane: Lane, count: int) -> int:
        """How many of `count` sends one call may hold."""
        if self._breaker.probing:
            return 1
        size = self.provider.batch_size
        if self.provider.one_by_one:
            # Few go out side by side, many in full calls.
            free = max(1, self._slots(lane, self.share()) - self._under_way)
            size = max(1, min(size, math.ceil(count / free)))
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

    async def call(
        self,
        outbound: Sequence[AnyDelivery],
        lane: Lane,
        begin: Callable[[], Awaitable[None]] = nothing_to_begin,
    ) -> Sequence[SendResult]:
        """Send when it is this call's turn; a result for each, in order.

        `begin` is awaited right before: when it raises LeaseLost or Unavailable no call is made (`is_unbegun`).
        """
        async with self._turn(lane, len(outbound)) as has_come:
            if not has_come:
                return [_STOPPED if self._stopping.is_set else _NO_TURN] * len(outbound)
            try:
                await begin()
            except (LeaseLost, Unavailable) as error:
                _log.warning("calls were not made", provider=self.name, count=len(outbound), why=str(error))
                return [_NOT_OURS] * len(outbound)
            began, probe = self._clock.elapsed(), self._breaker.probing
            number = self._breaker.begin(began, len(outbound))
            try:
                results = await answers_of(self.provider, outbound, self._clock.now())
            except BaseException:
                self._breaker.abandon(number)
                raise
            ended = self._clock.elapsed()
            self._pace = ended - began if self._pace is None else self._pace + (ended - began - self._pace) / _PACE
            faults = [result for result in results if is_fault(result)]
            self._fault = told(faults[-1]) if faults else self._fault
            self._breaker.end(number, ended, len(faults))
            self._note_health(ended, failed=len(faults) == len(results))
            self.share()
            results = settled(results, outbound, self._throttling, failing=probe or self._breaker.probing)
            self._leave_alone([one.after_s for one in results if isinstance(one, Retry) and one.about is About.ACCOUNT])
        for kind, count in Counter(type(result).__name__.lower() for result in results).items():
            self._meter.results(self.name, kind, count, (ended - began) / 1000)
        return results

    @asynccontextmanager
    async def _turn(self, lane: Lane, count: int) -> AsyncIterator[bool]:
        """Wait for slots and tokens for `count` sends; False when that takes too long, or the line is left alone."""
        deadline = self._clock.elapsed() + self._patience
        cost = min(count, self.provider.parallel)
        self._queued[lane] += count
        try:
            has_slot = await self._slot(lane, cost, deadline)
        finally:
            self._queued[lane] -= count
        if not has_slot:
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
            wait = bucket.wait_ms(count, now, kept)
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

    def _note_health(self, now: int, *, failed: bool) -> None:
        if failed and not self._inquiry.fails:
            self._inquiry.failed(now)
            self._report()
        elif not failed and not self._breaker.probing:
            self._inquiry.succeeded()

    def _report(self) -> None:
        for hear in self.on_change:
            hear()

    def _tell(self, share: float) -> None:
        """Log that it is left alone, and that it is back, once each: not whenever a probe fails."""
        self._told = share
        self._meter.health(self.name, share)
        if share == 0.0:
            self._inquiry.failed(self._clock.elapsed())
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
