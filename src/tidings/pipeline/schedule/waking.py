"""When to look for what is due: as soon as the earliest is, and soon enough for what others write meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from tidings.model.errors import LeaseLost
from tidings.pipeline.runtime.setbacks import Setbacks
from tidings.pipeline.runtime.stopping import pause
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter

LONGEST_SLEEP = 0.5
"""Seconds. A row that another process writes is noticed this late at most."""
TAKEN_BY_OTHERS = 0.02
"""Seconds until the next look when what is due is in the hands of others."""
AT_ONCE = 3
"""How many batches move at the same time while there is more than one."""

SAFE = 0.5
"""The part of a lease after which nothing new is begun under it."""
_log = structlog.get_logger("tidings.schedule")


class Lease:
    """How long what was just leased for `seconds` may be worked on. To be made before it is leased.

    Both clocks count: a machine that is suspended may stop one of them.
    """

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._most = round(SAFE * seconds * 1000)
        self._clock = clock
        self._began = clock.elapsed(), clock.now()

    def check(self) -> None:
        """Raises LeaseLost when too much of it has passed."""
        elapsed, now = self._began
        passed = max(self._clock.elapsed() - elapsed, self._clock.now() - now)
        if passed >= self._most:
            raise LeaseLost(f"{passed} ms of a lease have passed; what is due is left to others")


async def keep_moving(
    stage: str,
    move: Callable[[], Awaitable[int]],
    next_due: Callable[[], Awaitable[int | None]],
    batch: int,
    clock: Clock,
    meter: Meter,
    stopping: asyncio.Event,
) -> None:
    """Call `move` whenever something is due, until `stopping` is set.

    `move` gives how many rows it moved, `batch` being the most. While nothing is due only `next_due` is asked, which
    reads the end of an index, however much waits. After a full batch several move at once.
    """
    moved = 0
    setbacks = Setbacks(_log, meter, stage)
    while not stopping.is_set():
        try:
            rest = 0.0
            earliest = await next_due()
            now = clock.now()
            if earliest is None or earliest > now:
                moved = 0
                rest = LONGEST_SLEEP if earliest is None else min(LONGEST_SLEEP, (earliest - now) / 1000)
            else:
                moved = await _move(move, AT_ONCE if moved >= batch else 1)
                rest = 0.0 if moved else TAKEN_BY_OTHERS
            setbacks.over()
        except LeaseLost as error:
            meter.failure(stage, "", "lease_lost")
            _log.warning("a lease was lost", stage=stage, why=str(error))
            rest = TAKEN_BY_OTHERS
        except Exception as error:
            rest = setbacks.note(error)
        if rest:
            await pause(rest, stopping, clock)


async def _move(move: Callable[[], Awaitable[int]], times: int) -> int:
    if times == 1:
        return await move()
    results = await asyncio.gather(*(move() for _ in range(times)), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return sum(result for result in results if isinstance(result, int))
