"""A worker that keeps the critical lane apart: in a process of its own, beside that of all other work."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

from tidings import wiring
from tidings.cli.child import Child
from tidings.config import Settings
from tidings.listening import Held
from tidings.serving import Ready
from tidings.telemetry import metrics
from tidings.working import LANES, URGENT

NAME = "critical worker"
_COMMAND = (sys.executable, "-m", "tidings.cli", "run", "--supervised", "--lane", "critical", "--role")


async def run(settings: Settings, roles: frozenset[str], ready: Ready, held: Held) -> None:
    """As wiring.run, with a second process for the critical lane, which is started again whenever it ends.

    The worker is ready when both are. They stop together.

    Raises:
        CannotGoOn: the second process does not start.
    """
    child = Child("worker", settings, None, _unchanged, _COMMAND, ended=metrics.forget_child, name=NAME)
    stopping = asyncio.Event()

    async def tell(addresses: Mapping[str, str]) -> None:
        await child.ready.wait()
        ready(addresses)

    async def stop() -> None:
        await stopping.wait()
        await child.stop()

    async with asyncio.TaskGroup() as group:
        group.create_task(child.keep())
        group.create_task(stop())

        def told(addresses: Mapping[str, str]) -> None:
            if "worker" in addresses:
                telling.append(group.create_task(tell(addresses)))
            else:
                ready(addresses)

        telling: list[asyncio.Task[None]] = []
        try:
            await wiring.run(settings, roles, told, held, LANES - URGENT, stopping)
        finally:
            stopping.set()
            for one in telling:
                one.cancel()


def _unchanged() -> None:
    """Nobody follows it."""
