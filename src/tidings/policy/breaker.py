"""A circuit breaker with stepwise recovery: how much of its traffic a provider gets.

Closed, it lets everything through. It opens when too large a share of the recent sends failed or was slow. A call
counts as slow while it is still out, so a provider that says nothing at all is left within seconds. Open, it lets
nothing through until a pause is over; then a few sends probe. After a success the provider gets its traffic back step
by step; after a failure the breaker opens for twice as long.

Instants (`now`) are milliseconds of a clock that only goes forward.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

PROBES = 3
"""How many sends may be under way at once while probing."""
_FIRST_SHARE = 0.05
"""The share of its traffic that a provider gets first after a pause."""


class BreakerRules(Struct, frozen=True, kw_only=True):
    """When a breaker opens and how it recovers.

    It opens when, of at least `least` sends in the last `window_ms`, the share `failing` failed or the share `slow`
    took longer than `slow_after_ms`. It stays open for `pause_ms`, doubled up to `longest_pause_ms` each time that
    probing fails. It lets twice as much through after each `step_ms` in which a send succeeded and nothing made it open
    again.
    """

    window_ms: int = 4_000
    least: int = 5
    failing: float = 0.5
    slow: float = 0.5
    slow_after_ms: int = 2_500
    pause_ms: int = 2_000
    longest_pause_ms: int = 60_000
    step_ms: int = 2_000


class _Span(Struct):
    """Counts of the sends that ended within one tenth of the window."""

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
        self._last_number = 0
        self._share = 1.0
        self._pause_ms = rules.pause_ms
        self._open_until: int | None = None
        self._stepped_at = 0
        self._succeeded_since_step = False
        self._recovering_since = 0
        self._slow_only = False

    def share(self, now: int) -> float:
        """How much of its usual traffic the provider should get: 0 (open) to 1 (closed)."""
        self._count_slow(now)
        if self._open_until is not None:
            if now < self._open_until:
                return 0.0
            return _FIRST_SHARE
        if self._share < 1.0:
            self._recover(now)
        return self._share

    @property
    def probing(self) -> bool:
        """Whether it was open and no send has succeeded since: only `PROBES` sends may be under way."""
        return self._open_until is not None

    @property
    def is_slow(self) -> bool:
        """Whether it is open only because the provider is slow."""
        return self._slow_only and self._open_until is not None

    def next_probe(self, now: int) -> int:
        """When the provider may be used again: `now` unless the breaker is open."""
        return now if self._open_until is None else max(now, self._open_until)

    def begin(self, now: int, size: int) -> int:
        """Note that a call with `size` sends begins; returns its number, for `end` or `abandon`."""
        self._last_number += 1
        self._calls[self._last_number] = _Call(now, size)
        return self._last_number

    def end(self, number: int, now: int, failed: int) -> None:
        """Note that the call is over, and that `failed` of its sends failed by the provider's fault."""
        call = self._calls.pop(number)
        if call.began < self._recovering_since:
            return  # it began before the provider recovered, so it says nothing about the provider's health now
        span = self._span(now)
        slow = now - call.began >= self._rules.slow_after_ms
        if not call.counted_slow:
            span.total += call.size
            span.slow += call.size if slow else 0
        span.failed += failed
        if self._open_until is not None:
            if call.began >= self._open_until:
                self._probed(now, well=failed < call.size and not slow)
            return
        self._succeeded_since_step = self._succeeded_since_step or (failed < call.size and not slow)
        self._judge(now)

    def abandon(self, number: int) -> None:
        """Forget a call that Tidings itself broke off: it says nothing about the provider."""
        self._calls.pop(number, None)

    def _probed(self, now: int, *, well: bool) -> None:
        if well:
            self._open_until = None
            self._share = _FIRST_SHARE
            self._stepped_at = self._recovering_since = now
            self._succeeded_since_step = False
            self._spans.clear()
        else:
            self._open(now, longer=True)

    def _recover(self, now: int) -> None:
        if now - self._stepped_at < self._rules.step_ms or not self._succeeded_since_step:
            return
        self._share = min(1.0, self._share * 2)
        self._stepped_at, self._succeeded_since_step = now, False
        if self._share >= 1.0:
            self._pause_ms = self._rules.pause_ms

    def _count_slow(self, now: int) -> None:
        newly_slow = False
        for call in self._calls.values():
            if call.counted_slow or call.began < self._recovering_since:
                continue
            if now - call.began < self._rules.slow_after_ms:
                break  # the calls are in the order in which they began
            call.counted_slow = newly_slow = True
            span = self._span(now)
            span.total += call.size
            span.slow += call.size
        if newly_slow and self._open_until is None:
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
            self._pause_ms = min(self._pause_ms * 2, self._rules.longest_pause_ms)
        self._open_until = now + self._pause_ms
        self._spans.clear()

    def _span(self, now: int) -> _Span:
        self._forget(now)
        width_ms = max(1, self._rules.window_ms // 10)
        if not self._spans or now - self._spans[-1].start >= width_ms:
            self._spans.append(_Span(now))
        return self._spans[-1]

    def _forget(self, now: int) -> None:
        while self._spans and now - self._spans[0].start >= self._rules.window_ms:
            self._spans.popleft()
