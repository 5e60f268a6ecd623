"""A line: one provider with its slots and its rate. All lanes of a process share it.

A line knows its provider's health (policy/breaker.py), how many requests may be under way, and how many sends a second
the vendor grants. Each lane leaves a part of both to the more urgent lanes, so that bulk never takes everything.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from tidings.model.errors import LeaseLost, SettingsError, Unavailable
from tidings.model.sending import About, AnyDelivery, Retry, SendResult
from tidings.model.vocabulary import Lane, Reason
from tidings.pipeline.deliver.answers import NO_TURN, NOT_OURS, STOPPED, answers_of, in_words, settled, takes_nothing
from tidings.pipeline.deliver.routed import Routed
from tidings.pipeline.runtime.stopping import Stopping
from tidings.policy.breaker import PROBES, Breaker, BreakerRules
from tidings.policy.inquiry import Inquiry
from tidings.policy.redaction import without_addresses
from tidings.policy.retry import THROTTLED, is_fault
from tidings.policy.throttling import Throttling
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter

_BURST_S = 1.0
"""A line may send as much at once as its rate grants in this many seconds."""
_KEPT = {
    Lane.CRITICAL: 0.0,
    Lane.CRITICAL_SURPLUS: 0.05,
    Lane.NORMAL: 0.1,
    Lane.NORMAL_SURPLUS: 0.2,
    Lane.BULK: 0.25,
    Lane.BULK_SURPLUS: 0.35,
}
"""The part of a line's slots and tokens that a lane leaves to the more urgent lanes."""
AHEAD_MS = 250
"""Milliseconds of work that a line may be given in advance. With less, a batch's SQL statements would serve only a few
fast calls. With more, deliveries would wait here while another process is idle, and a killed process would leave more
of them to its lease."""
_PACE_CALLS = 8
"""Calls over which the duration of a call is averaged."""
_SAID_AFTER_MS = 30_000
"""Milliseconds after which a failing provider is logged although its breaker is closed, for want of traffic."""
_SAID_PUT_OFF_AFTER_MS = 1_800_000
"""Milliseconds after which a provider that puts everything off is logged. A greylist is over sooner."""
_LANES = tuple(Lane)
"""The most urgent first."""
_LESS_URGENT = {lane: _LANES[place + 1 :] for place, lane in enumerate(_LANES)}
_log = structlog.get_logger("tidings.provider")


async def nothing_to_begin() -> None:
    """The `begin` of calls that need not be marked as begun."""


class Line:
    """See the module."""

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
        self._patience_ms = round(routed.patience_s * 1000)
        self._clock = clock
        self._meter = meter
        self._is_quiet = is_quiet
        self._breaker = Breaker(rules)
        self._inquiry = Inquiry()
        rate = routed.provider.rate
        self._bucket = None if rate is None else routed.bucket(self.name, rate, max(1.0, rate * _BURST_S))
        self._under_way = 0
        self._under_way_of = dict.fromkeys(Lane, 0)
        self._queued = dict.fromkeys(Lane, 0)
        self._pace_ms: float | None = None
        self._waiting: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        self._throttling = Throttling()
        self._longest_pause_s = routed.longest_pause_s
        self._paused_until = 0
        self._last_share = 1.0
        self._said_failing = False
        self._nothing_taken_since: int | None = None
        self._fault = ""
        self._stopping = Stopping()
        self.others: Sequence[Line] = ()
        self.on_change: list[Callable[[], None]] = []

    @property
    def name(self) -> str:
        """The provider's name."""
        return self.provider.name

    def share(self) -> float:
        """The part of its usual traffic that the provider should get now, from 0 (none) to 1."""
        now = self._clock.elapsed()
        share = self._breaker.share(now)
        if share != self._last_share:
            self._note_share(share)
        return 0.0 if now < self._paused_until else share

    def outlet(self, lane: Lane) -> int:
        """How many more held deliveries of this lane may begin now; 0 unless the provider works, or says it does."""
        is_well = self._inquiry.says_well if self._breaker.probing else not self._inquiry.fails
        room = self.room(lane, self.share()) if is_well else 0
        return self._throttling.let_out(room) if room else 0

    @property
    def fails(self) -> bool:
        """Whether the last call failed and the provider has not said since that it is well."""
        return self._inquiry.fails

    def asks_in_s(self) -> float:
        """Seconds until the next check of a failing provider; infinite unless it fails."""
        due = self._inquiry.due(self._clock.elapsed())
        return math.inf if due is None else due / 1000

    async def ask(self) -> None:
        """Check a failing provider if its check is due. This sends nothing to anybody."""
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
        """Whether it may be used at all. A provider that is merely slow may be, if there is no better one."""
        if self.share() > 0.0:
            return True
        if self._clock.elapsed() < self._paused_until:
            return False  # it asked the account to wait
        return self._breaker.is_slow and not any(other.share() > 0.0 for other in self.others)

    def room(self, lane: Lane, share: float) -> int:
        """How many sends of this lane could begin at once, at this share of the usual traffic."""
        return self._room(lane, share, 0)

    def ahead(self, lane: Lane, share: float) -> int:
        """How many more sends of this lane to claim: what can begin within `AHEAD_MS`, less what waits here."""
        # Less urgent lanes do not count: they let this lane pass.
        waiting = sum(self._queued[other] for other in _LANES[: _LANES.index(lane) + 1])
        return max(0, self._room(lane, share, AHEAD_MS if share >= 1.0 else 0) - waiting)

    def _room(self, lane: Lane, share: float, within_ms: int) -> int:
        """How many sends of this lane could begin within `within_ms`, if no other lane waited."""
        if share <= 0.0:
            return 0
        if self._breaker.probing:
            return max(0, PROBES - self._under_way)
        provider, slots = self.provider, self._slots(lane, share)
        if self._pace_ms is not None:
            slots = int(slots * max(1.0, within_ms / max(self._pace_ms, 1.0)))
        room = max(0, slots - self._under_way) * provider.batch_size // provider.parallel
        if not room and not self._waiting[lane] and self._less_urgent_are_under_way(lane):
            room = 1  # one waits first in line; else less urgent lanes would take every slot that becomes free
        if self._bucket is not None and provider.rate is not None:
            tokens = self._bucket.tokens(self._clock.elapsed()) - self._kept(lane)
            room = min(room, int(tokens + provider.rate * within_ms / 1000))
        return max(0, room)

    def most_at_once(self, lane: Lane, count: int) -> int:
        """How many of `count` deliveries one call may carry."""
        if self._breaker.probing:
            return 1
        size = self.provider.batch_size
        if self.provider.one_by_one:
            # Spread a few deliveries over the free slots; send many in full calls.
            free = max(1, self._slots(lane, self.share()) - self._under_way)
            size = max(1, min(size, math.ceil(count / free)))
        return size if self._bucket is None else max(1, min(size, int(self._bucket.burst - self._kept(lane))))

    def usable_in_s(self) -> float:
        """Seconds until the provider may be used again, as far as is known."""
        now = self._clock.elapsed()
        return (max(self._breaker.next_probe(now), self._paused_until, now) - now) / 1000

    def obstacle(self) -> tuple[str, str]:
        """The reason and detail why the provider may not be used now."""
        if self._breaker.probing or self._clock.elapsed() >= self._paused_until:
            return Reason.PROVIDER_OPEN, f"{self.name}: {self._fault or 'it fails'}"
        return THROTTLED, f"{self.name} asked for less"

    def stop(self) -> None:
        """Begin no other call, because the process is to stop. Calls under way go on."""
        self._stopping.set()
        self._wake()

    async def call(
        self,
        outbound: Sequence[AnyDelivery],
        lane: Lane,
        begin: Callable[[], Awaitable[None]] = nothing_to_begin,
    ) -> Sequence[SendResult]:
        """Wait for a turn, then call the provider; a result for each delivery, in order.

        `begin` is awaited right before the call. If it raises LeaseLost or Unavailable, no call is made. `is_unbegun`
        recognises the results of calls that were not made.
        """
        count, deadline = len(outbound), self._clock.elapsed() + self._patience_ms
        cost = min(count, self.provider.parallel)
        if not await self._turn(lane, count, cost, deadline):
            return self._unbegun(count)
        try:
            if not await self._tokens(lane, count, deadline):
                return self._unbegun(count)
            try:
                await begin()
            except (LeaseLost, Unavailable) as error:
                _log.warning("calls were not made", provider=self.name, count=count, why=str(error))
                return [NOT_OURS] * count
            return await self._ask(outbound)
        finally:
            self._under_way -= cost
            self._under_way_of[lane] -= cost
            self._wake()

    async def _ask(self, outbound: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        """Call the provider, and note what the answer says of it and of the account."""
        began, probe = self._clock.elapsed(), self._breaker.probing
        number = self._breaker.begin(began, len(outbound))
        try:
            results = await answers_of(self.provider, outbound, self._clock.now())
        except BaseException:
            self._breaker.abandon(number)
            raise
        ended = self._clock.elapsed()
        pace_ms = self._pace_ms
        self._pace_ms = ended - began if pace_ms is None else pace_ms + (ended - began - pace_ms) / _PACE_CALLS
        faults = [result for result in results if is_fault(result)]
        self._breaker.end(number, ended, len(faults))
        failing = probe or self._breaker.probing or self._nothing_taken_since is not None
        nothing_taken = takes_nothing(results)
        self._fault = in_words(faults[-1] if faults else results[-1]) if faults or nothing_taken else self._fault
        self._note_health(ended, failed=len(faults) == len(results), nothing_taken=nothing_taken)
        self.share()
        had_paused = self._throttling.pauses > 0
        results = settled(results, outbound, self._throttling, ended, failing=failing)
        if had_paused and not self._throttling.pauses:
            self._report()  # it takes something again after a pause
        self._leave_alone([one.after_s for one in results if isinstance(one, Retry) and one.about is About.ACCOUNT])
        for kind, number_of_kind in Counter(map(type, results)).items():
            self._meter.results(self.name, kind.__name__.lower(), number_of_kind, (ended - began) / 1000)
        return results

    def _unbegun(self, count: int) -> Sequence[SendResult]:
        return [STOPPED if self._stopping.is_set else NO_TURN] * count

    async def _turn(self, lane: Lane, count: int, cost: int, deadline: int) -> bool:
        """Wait for `cost` slots for `count` sends, and take them. False after `deadline`, or if unusable."""
        self._queued[lane] += count
        try:
            has_come = await self._slot(lane, cost, deadline)
        finally:
            self._queued[lane] -= count
        if has_come:
            self._under_way += cost
            self._under_way_of[lane] += cost
        self._wake()  # there may be room for one more
        return has_come

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
        """Wait until there may be a slot; False if the deadline (of `Clock.elapsed`) comes first."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[lane].append(turn)
        try:
            async with asyncio.timeout((deadline - self._clock.elapsed()) / 1000):
                await turn
        except TimeoutError:
            return False
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake()  # this waiter was woken and cannot use its turn: wake the next
            raise
        return True

    def _wake(self) -> None:
        """Wake the most urgent waiter, or all of them if the provider became unusable or the process is to stop."""
        if not any(self._waiting.values()):
            return
        everyone = self._stopping.is_set or not self.is_used()
        for waiting in self._waiting.values():
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    if not everyone:
                        return

    def _slots(self, lane: Lane, share: float) -> int:
        """How many slots may be in use at most once this lane begins a call; at least 1."""
        slots = self.provider.concurrency * self.provider.parallel * (share or 1.0)
        if lane.is_surplus and self._is_quiet():
            lane = Lane.of(lane.priority, surplus=False)
        return max(1, int(slots - int(slots * _KEPT[lane])))

    def _less_urgent_are_under_way(self, lane: Lane) -> bool:
        return any(self._under_way_of[other] for other in _LESS_URGENT[lane])

    def _kept(self, lane: Lane) -> int:
        """Tokens that this lane leaves to more urgent lanes."""
        return 0 if self._bucket is None else int(self._bucket.burst * _KEPT[lane])

    def _leave_alone(self, asked: Sequence[float | None]) -> None:
        """Pause the line if the provider asked the account to wait. `asked`: the seconds in each answer that did."""
        if not asked:
            return
        now = self._clock.elapsed()
        is_new = now >= self._paused_until
        seconds = self._throttling.pause_s(asked, self._longest_pause_s, goes_on=not is_new)
        self._paused_until = max(self._paused_until, now + int(seconds * 1000))
        if is_new and self._throttling.pauses == 1:
            _log.warning("a provider asks for less", provider=self.name, seconds=seconds)
            self._report()
        self._wake()

    def _note_health(self, now: int, *, failed: bool, nothing_taken: bool) -> None:
        """Note how a call went. `failed`: it failed whole, by the provider's fault. `nothing_taken`: or was put off."""
        since = self._nothing_taken_since
        takes_again = since is not None and not nothing_taken
        self._nothing_taken_since = (now if since is None else since) if nothing_taken else None
        said_after_ms = _SAID_AFTER_MS if failed else _SAID_PUT_OFF_AFTER_MS
        if nothing_taken and since is not None and now - since >= said_after_ms and not self._said_failing:
            _log.warning("a provider is failing", provider=self.name, why=self._fault)
            self._said_failing = True
        if failed:
            if not self._inquiry.fails:
                self._inquiry.failed(now)
                self._report()
            return
        if self._breaker.probing:
            return
        failed_until_now = self._inquiry.succeeded()
        if self._said_failing and not nothing_taken:
            self._say_it_is_back()
        elif failed_until_now or takes_again:
            self._report()

    def _report(self) -> None:
        for listener in self.on_change:
            listener()

    def _note_share(self, share: float) -> None:
        """Publish a changed share. Log once when the provider becomes unusable and once when it is back."""
        self._last_share = share
        self._meter.health(self.name, share)
        if share == 0.0:
            self._inquiry.failed(self._clock.elapsed())
            self._wake()
            if not self._said_failing:
                why = "slow" if self._breaker.is_slow else self._fault
                _log.warning("a provider is left alone", provider=self.name, why=why, seconds=self.usable_in_s())
                self._report()
            self._said_failing = True
        elif self._said_failing and not self._breaker.probing:
            self._say_it_is_back()

    def _say_it_is_back(self) -> None:
        _log.info("a provider is back", provider=self.name)
        self._said_failing = False
        self._report()
