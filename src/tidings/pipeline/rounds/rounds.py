"""The loop of a round: recurring work that one process at a time does for all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog

from tidings.model.errors import Unavailable
from tidings.pipeline.runtime.setbacks import Setbacks
from tidings.pipeline.runtime.stopping import pause
from tidings.ports.accounts import Rounds
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter

ROUNDS_MISSED = 3
"""How many rounds a process may miss before another process takes over."""

_log = structlog.get_logger("tidings.rounds")


async def repeat(
    name: str,
    once: Callable[[], Awaitable[object]],
    every_s: float,
    stopping: asyncio.Event,
    clock: Clock,
    meter: Meter,
) -> None:
    """Call `once` every `every_s` seconds until `stopping` is set. Failures are logged; the next call tries again."""
    setbacks = Setbacks(_log, meter, name)
    while not stopping.is_set():
        rest_s = every_s
        try:
            await once()
            setbacks.over()
        except Exception as error:
            rest_s = max(every_s, setbacks.note(error))
        await pause(rest_s, stopping, clock)


async def leave(rounds: Rounds, name: str, holder: UUID) -> None:
    """Let another process make the next round at once."""
    with contextlib.suppress(Unavailable):  # the lease ends by itself
        await rounds.release(name, holder)
