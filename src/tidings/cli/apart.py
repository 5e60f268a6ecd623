"""A worker with two processes: one for the critical lane, one for all other work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tidings import wiring
from tidings.cli.child import Child
from tidings.config import Settings
from tidings.listening import Held, Ready
from tidings.model.duties import ALL_BUT_CRITICAL, CRITICAL_ALONE
from tidings.telemetry import metrics

NAME = "critical worker"


async def run(settings: Settings, roles: frozenset[str], ready: Ready, held: Held, *, operations: bool = False) -> None:
    """Run the roles like wiring.run, and the critical lane in a second process, which is restarted whenever it ends.

    The worker is ready when both processes are. They stop together.

    Raises:
        CannotGoOn: the second process does not start.
    """
    runs = ",".join(CRITICAL_ALONE.names())
    child = Child("worker", settings, None, _ignore, ended=metrics.forget_child, name=NAME, runs=runs)
    stopping = asyncio.Event()

    async def announce_both(addresses: Mapping[str, str]) -> None:
        await child.ready.wait()
        ready(addresses)

    async def stop() -> None:
        await stopping.wait()
        await child.stop()

    async with asyncio.TaskGroup() as group:
        group.create_task(child.keep())
        group.create_task(stop())

        def announce(addresses: Mapping[str, str]) -> None:
            if "worker" in addresses:
                announcing.append(group.create_task(announce_both(addresses)))
            else:
                ready(addresses)

        announcing: list[asyncio.Task[None]] = []
        try:
            await wiring.run(settings, roles, announce, held, ALL_BUT_CRITICAL, stopping, operations=operations)
        finally:
            stopping.set()
            for announcement in announcing:
                announcement.cancel()


def _ignore() -> None:
    pass
