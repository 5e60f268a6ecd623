"""Rounds: work that comes again and again, and that one process at a time does for all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog

from tidings.model.errors import Unavailable
from tidings.pipeline.stopping import pause
from tidings.ports.accounts import Rounds
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter

ROUNDS_MISSED = 3
"""How many rounds a process may miss before another one makes them."""

_log = structlog.get_logger("tidings.rounds")


async def repeat(
    name: str, once: Callable[[], Awaitable[object]], every: float, stopping: asyncio.Event, clock: Clock, meter: Meter
) -> None:
    """Call `once` every so many seconds until `stopping` is set; what fails is told, and tried again next time."""
    while not stopping.is_set():
        try:
            await once()
        except Unavailable as error:
            meter.failure(name, "", "unavailable")
            _log.warning("waiting for a part", round=name, why=str(error))
        except Exception:
            meter.failure(name, "", "error")
            _log.exception("a round failed", round=name)
        await pause(every, stopping, clock)


async def leave(rounds: Rounds, name: str, holder: UUID) -> None:
    """Let another process make the next round at once."""
    with contextlib.suppress(Unavailable):  # the lease ends by itself
        await rounds.release(name, holder)
