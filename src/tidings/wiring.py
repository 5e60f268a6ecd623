"""The composition root: make adapters from the settings, stages from the adapters, and run the roles of the process.

Roles: `api` answers HTTP, `worker` does duties of the flow (model/duties.py), `sandbox` stands in for the vendors. A
process can have any of them. The settings alone decide which adapters serve the ports.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from importlib import import_module
from typing import TYPE_CHECKING

import structlog

from tidings.config import Settings
from tidings.listening import NONE_HELD, Held, Ready
from tidings.model.duties import EVERYTHING, WORKER, Duties
from tidings.model.errors import SettingsError, Unavailable
from tidings.pipeline.runtime.stopping import first_of
from tidings.telemetry import logs

if TYPE_CHECKING:
    from tidings.parts import Parts

ROLES = {"api": "tidings.roles.api", "worker": "tidings.roles.worker", "sandbox": "tidings.roles.sandbox"}
"""The module of each role. A process imports only what its roles need: all would double its start and its memory."""
_PARTS = "tidings.parts"
_OPERATIONS = "tidings.roles.operations"
_ANSWER_WITHIN_S = 60.0
"""A server that was killed recovers before it answers, and a broker loads the offsets of its groups."""
_PAUSE_S = 1.0
_log = structlog.get_logger("tidings")


async def run(
    settings: Settings,
    roles: frozenset[str],
    ready: Ready,
    held: Held = NONE_HELD,
    duties: Duties = EVERYTHING,
    stopping: asyncio.Event | None = None,
    *,
    operations: bool = False,
) -> None:
    """Run `roles` in this process until SIGTERM or SIGINT, then finish work under way.

    `held`: listening sockets that another process holds. `duties`: the duties of the worker. `stopping`: an event to
    use instead of a new one; setting it stops the process. `operations`: serve the operations on `operations.port` also
    if the process has no API.

    Raises:
        SettingsError: the settings cannot work.
        Unavailable: a part, such as the database, did not answer for a minute at the start.
    """
    unknown = roles - ROLES.keys()
    if unknown or not roles:
        raise SettingsError(
            f"no such role: {', '.join(sorted(unknown)) or '(none)'}; choose from {', '.join(sorted(ROLES))}"
        )
    telemetry = settings.telemetry
    logs.configure(
        telemetry.log_level, telemetry.log_format, "+".join(sorted(roles)), whole_messages=telemetry.whole_messages
    )
    stopping = stopping or asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    modules = {role: import_module(ROLES[role]) for role in roles}
    async with AsyncExitStack() as stack:
        if "sandbox" in roles:
            ready({"sandbox": await stack.enter_async_context(modules["sandbox"].sandbox(settings, held))})
        if roles & {"api", "worker"}:
            names = [*sorted(roles - {WORKER}), *(duties.names() if WORKER in roles else ())]
            parts = await _opened(stack, settings, names, stopping)
            if parts is None:
                return
            if operations and "api" not in roles:
                module = import_module(_OPERATIONS)
                asked = module.operating(parts, stopping)
                await stack.enter_async_context(module.serving_operations(asked, settings, ready))
            async with asyncio.TaskGroup() as group:
                _spare_the_collector()
                if "worker" in roles:
                    group.create_task(modules["worker"].work(parts, stopping, duties))
                    ready({"worker": ""})
                if "api" in roles:
                    group.create_task(modules["api"].serve_api(parts, stopping, ready, held))
        await stopping.wait()


async def _opened(
    stack: AsyncExitStack, settings: Settings, roles: Sequence[str], stopping: asyncio.Event
) -> Parts | None:
    """The parts, once all of them answer; None if the process is to stop before that."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ANSWER_WITHIN_S
    while not stopping.is_set():
        try:
            return await stack.enter_async_context(import_module(_PARTS).open_parts(settings, roles))
        except Unavailable as error:
            if loop.time() > deadline:
                raise
            _log.warning("a part does not answer yet; the process starts once it does", why=str(error))
        await first_of(asyncio.sleep(_PAUSE_S), stopping.wait())
    return None


def _spare_the_collector() -> None:
    """Collect garbage rarely: batches make many objects but few cycles, and a third of the CPU time would go there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
