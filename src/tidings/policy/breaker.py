"""Whether a provider is well enough to be used, and by how much: a circuit breaker with stepwise recovery.

Closed, everything goes through. It opens when too large a share of the sends of the last seconds failed, or was slow; a
call that has been out for too long counts as slow before it ends, so that a provider which says nothing at all is left
within seconds. Open, nothing goes through until a pause is over; then a few sends probe. What succeeds opens the door
step by step, what fails closes it for twice as long.

Instants and spans are milliseconds of a clock that only goes forward. It keeps a state, but no time of its own: `now`
is an argument.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

PROBES = 3
"""Sends under way at once while probing."""
_FIRST_STEP = 0.05


class BreakerRules(Struct, frozen=True, kw_only=True):
    """When it opens and how it recovers.

    It opens when, of at least `least` sends of the last `window`, a share of `failing` failed or a share of `slow` was
    slower than `slow_after`. It stays open for `pause`, doubled up to `longest_pause` each time that probing fails.
    Each step of the recovery lets twice as much through, after `step` with traffic and without a new reason to open.
    """

    window: int = 4_000
    least: int = 5
    failing: float = 0.5
    slow: float = 0.5
    slow_after: int = 2_500
    pause: int = 2_000
    longest_pause: int = 60_000
    step: int = 2_000


class _Span(Struct):
    """What came back within a tenth of the window."""

    start: int
    total: int = 0
    failed: int = 0
    slow: int = 0


class _Call(Struct):
    began: int
    size: int
    counted_slow: bool = False


class Breaker:
    """The health of one provider, as this process sees it."""

    def __init__(self, rules: BreakerRules) -> None:
        self._rules = rules
        self._spans: deque[_Span] = deque()
        self._calls: dict[int, _Call] = {}
        self._numbers = 0
        self._share = 1.0
        self._pause = rules.pause
        self._open_until: int | None = None
        self._stepped_at = 0
        self._proven = False
        self._since = 0
        self._slow_only = False

    def share(self, now: int) -> float:
        """How much of its usual traffic the provider should get: 0 (open) to 1 (closed)."""
        self._count_slow(now)
        if self._open_until is not None:
            if now < self._open_until:
                return 0.0
            return _FIRST_STEP
        if self._share < 1.0:
            self._recover(now)
        return self._share

    @property
    def probing(self) -> bool:
        """Whether it was open and has not succeeded since: only a few sends may be under way."""
        return self._open_until is not None

    @property
    def is_slow(self) -> bool:
        """Whether it is open for slowness alone."""
        return self._slow_only and self._open_until is not None

    def next_probe(self, now: int) -> int:
        """When it may be used again: `now` unless it is open."""
        return now if self._open_until is None else max(now, self._open_until)

    def begin(self, now: int, size: int) -> int:
        """A call with `size` sends begins; the number under which it ends."""
        self._numbers += 1
        self._calls[self._numbers] = _Call(now, size)
        return self._numbers

    def end(self, number: int, now: int, failed: int) -> None:
        """The call is over, and `failed` of its sends failed by the provider's fault."""
        call = self._calls.pop(number)
        if call.began < self._since:
            return  # it began before the provider went down, and is no news
        span = self._span(now)
        slow = now - call.began >= self._rules.slow_after
        if not call.counted_slow:
            span.total += call.size
            span.slow += call.size if slow else 0
        span.failed += failed
        if self._open_until is not None:
            if call.began >= self._open_until:
                self._probed(now, well=failed < call.size and not slow)
            return
        self._proven = self._proven or (failed < call.size and not slow)
        self._judge(now)

    def abandon(self, number: int) -> None:
        """The call was broken off by us: it says nothing."""
        self._calls.pop(number, None)

    def _probed(self, now: int, *, well: bool) -> None:
        if well:
            self._open_until = None
            self._share = _FIRST_STEP
            self._stepped_at = self._since = now
            self._proven = False
            self._spans.clear()
        else:
            self._open(now, longer=True)

    def _recover(self, now: int) -> None:
        # A step needs proof: without traffic since the last one there is none.
        if now - self._stepped_at < self._rules.step or not self._proven:
            return
        self._share = min(1.0, self._share * 2)
        self._stepped_at, self._proven = now, False
        if self._share >= 1.0:
            self._pause = self._rules.pause

    def _count_slow(self, now: int) -> None:
        found = False
        for call in self._calls.values():
            if call.counted_slow or call.began < self._since:
                continue
            if now - call.began < self._rules.slow_after:
                break  # they are in the order in which they began
            call.counted_slow = found = True
            span = self._span(now)
            span.total += call.size
            span.slow += call.size
        if found and self._open_until is None:
            self._judge(now)

    def _judge(self, now: int) -> None:
        self._forget(now)
        total = sum(span.total for span in self._spans)
        if total < self._rules.least:
            return
        failing = sum(span.failed for span in self._spans) >= total * self._rules.failing
        if failing or sum(span.slow for span in self._spans) >= total * self._rules.slow:
            self._slow_only = not failing
            self._open(now, longer=self._share < 1.0)

    def _open(self, now: int, *, longer: bool) -> None:
        if longer:
            self._pause = min(self._pause * 2, self._rules.longest_pause)
        self._open_until = now + self._pause
        self._spans.clear()

    def _span(self, now: int) -> _Span:
        self._forget(now)
        width = max(1, self._rules.window // 10)
        if not self._spans or now - self._spans[-1].start >= width:
            self._spans.append(_Span(now))
        return self._spans[-1]

    def _forget(self, now: int) -> None:
        while self._spans and now - self._spans[0].start >= self._rules.window:
            self._spans.popleft()
