"""The loop that moves due rows: it sleeps until the earliest is due, and notices rows that others write meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from tidings.model.errors import LeaseLost
from tidings.pipeline.runtime.setbacks import Setbacks
from tidings.pipeline.runtime.stopping import pause
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter

LONGEST_SLEEP_S = 1.0
"""Longest pause between two looks. Rows that another process writes are noticed within it."""
LEASED_BY_OTHERS_S = 0.02
"""Pause while other processes hold all rows that are due."""
MOST_AT_ONCE = 3
"""How many batches are moved at the same time, at most, while more than one is due."""

SAFE = 0.5
"""The part of a lease within which work may be begun under it."""
_log = structlog.get_logger("tidings.schedule")


class Lease:
    """Checks that rows leased for `lease_s` may still be worked on. Make it before leasing them.

    It measures with both clocks, because one of them may stop while the machine is suspended.
    """

    def __init__(self, lease_s: float, clock: Clock) -> None:
        self._usable_ms = round(SAFE * lease_s * 1000)
        self._clock = clock
        self._began = clock.elapsed(), clock.now()

    def check(self) -> None:
        """Raises LeaseLost if more than the `SAFE` part of the lease has passed."""
        elapsed, now = self._began
        passed = max(self._clock.elapsed() - elapsed, self._clock.now() - now)
        if passed >= self._usable_ms:
            raise LeaseLost(f"{passed} ms of a lease have passed; the due rows are left to other processes")


async def keep_moving(
    stage: str,
    move: Callable[[], Awaitable[int]],
    next_due: Callable[[], Awaitable[int | None]],
    batch: int,
    clock: Clock,
    meter: Meter,
    stopping: asyncio.Event,
) -> None:
    """Call `move` whenever a row is due, until `stopping` is set.

    `move` returns how many rows it moved, at most `batch`. While nothing is due, only `next_due` is asked: it reads one
    end of an index, so it is cheap however many rows wait. After a full batch, up to `MOST_AT_ONCE` calls of `move` run
    at the same time.
    """
    moved = 0
    setbacks = Setbacks(_log, meter, stage)
    while not stopping.is_set():
        try:
            rest_s = 0.0
            earliest = await next_due()
            now = clock.now()
            if earliest is None or earliest > now:
                moved = 0
                rest_s = LONGEST_SLEEP_S if earliest is None else min(LONGEST_SLEEP_S, (earliest - now) / 1000)
            else:
                moved = await _move(move, MOST_AT_ONCE if moved >= batch else 1)
                rest_s = 0.0 if moved else LEASED_BY_OTHERS_S
            setbacks.over()
        except LeaseLost as error:
            meter.failure(stage, "", "lease_lost")
            _log.warning("a lease was lost", stage=stage, why=str(error))
            rest_s = LEASED_BY_OTHERS_S
        except Exception as error:
            rest_s = setbacks.note(error)
        if rest_s:
            await pause(rest_s, stopping, clock)


async def _move(move: Callable[[], Awaitable[int]], times: int) -> int:
    if times == 1:
        return await move()
    results = await asyncio.gather(*(move() for _ in range(times)), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return sum(result for result in results if isinstance(result, int))
