"""A worker that keeps the critical lane apart: in a process of its own, beside that of all other work."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

from tidings import wiring
from tidings.cli.child import Child
from tidings.config import Settings
from tidings.listening import Held
from tidings.model.duties import ALL_BUT_CRITICAL, CRITICAL_ALONE, Duties
from tidings.serving import Ready
from tidings.telemetry import metrics

NAME = "critical worker"


def _options(duties: Duties) -> list[str]:
    """The options of `tidings run` for these duties, on every channel."""
    named = [("--duty", duty) for duty in sorted(duties.duties)] + [("--lane", lane) for lane in sorted(duties.lanes)]
    return [word for pair in named for word in pair]


_COMMAND = (sys.executable, "-m", "tidings.cli", "run", "--supervised", *_options(CRITICAL_ALONE), "--role")


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
            await wiring.run(settings, roles, told, held, ALL_BUT_CRITICAL, stopping)
        finally:
            stopping.set()
            for one in telling:
                one.cancel()


def _unchanged() -> None:
    """Nobody follows it."""
