"""The composition root: make adapters from the settings, stages from the adapters, and run the roles of the process.

Roles: `api` answers HTTP, `worker` does duties of the flow (model/duties.py), `sandbox` stands in for the vendors. A
process can have any of them. The settings alone decide which adapters serve the ports.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tidings.api import samples
from tidings.api.limits import Limiter
from tidings.api.services import Limits, Services
from tidings.api.vitals import Vitals
from tidings.backends.memory.tokens import MemoryTokens
from tidings.config import DEMO_KEY_FILE, Settings
from tidings.listening import Held
from tidings.model.duties import EVERYTHING, Duties
from tidings.model.errors import SettingsError
from tidings.parts import Parts, open_parts
from tidings.pipeline.accept.stage import Accept
from tidings.pipeline.changes.change import Change
from tidings.pipeline.changes.letters import DeadLetters
from tidings.pipeline.changes.recurrences import Recurrences
from tidings.report.accounting import Accounting
from tidings.report.notifications import Reports
from tidings.report.readiness import readiness
from tidings.sandbox import credentials as sandbox_credentials
from tidings.sandbox.server import serve as serve_sandbox
from tidings.serving import Ready, run_api
from tidings.telemetry import logs, metrics
from tidings.templating.templates import Templates
from tidings.working import accepting, composing, work

NONE_HELD = Held()
ROLES = frozenset({"api", "worker", "sandbox"})


async def run(
    settings: Settings,
    roles: frozenset[str],
    ready: Ready,
    held: Held = NONE_HELD,
    duties: Duties = EVERYTHING,
    stopping: asyncio.Event | None = None,
) -> None:
    """Run `roles` in this process until SIGTERM or SIGINT, then finish work under way.

    `held`: listening sockets that another process holds. `duties`: the duties of the worker. `stopping`: an event to
    use instead of a new one; setting it stops the process.

    Raises:
        SettingsError: the settings cannot work.
        Unavailable: a part, such as the database, did not answer at the start.
    """
    unknown = roles - ROLES
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
    async with AsyncExitStack() as stack:
        if "sandbox" in roles:
            ready({"sandbox": await stack.enter_async_context(sandbox(settings, held))})
        if roles & {"api", "worker"}:
            parts = await stack.enter_async_context(open_parts(settings))
            async with asyncio.TaskGroup() as group:
                _spare_the_collector()
                if "worker" in roles:
                    group.create_task(work(parts, stopping, duties))
                    ready({"worker": ""})
                if "api" in roles:
                    group.create_task(serve_api(parts, stopping, ready, held))
        await stopping.wait()


def _spare_the_collector() -> None:
    """Collect garbage rarely: batches make many objects but few cycles, and a third of the CPU time would go there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def serve_api(parts: Parts, stopping: asyncio.Event, ready: Ready, held: Held = NONE_HELD) -> None:
    """Serve the HTTP API until `stopping` is set, on the held socket if there is one; then answer open requests."""
    accept = accepting(parts)
    await run_api(services(parts, accept, stopping), accept, parts.settings, stopping, ready, held.api)


def services(parts: Parts, accept: Accept, stopping: asyncio.Event) -> Services:
    """The services that the API calls."""
    directory, shard, composer = parts.directory, parts.shard, composing(parts)
    return Services(
        accept=accept,
        reports=Reports(shard.history, shard.days, shard.schedule, parts.clock),
        accounting=Accounting(shard.history, directory.accounts, shard.days, parts.clock),
        users=shard.users,
        templates=Templates(directory.templates, parts.clock, parts.renderer),
        inbox=shard.inbox,
        tenants=directory.tenants,
        cancellations=shard.cancellations,
        letters=DeadLetters(directory, shard, parts.clock, parts.randomness.getrandbits),
        change=Change(shard.changes, shard.users, parts.renderer, parts.clock),
        recurrences=Recurrences(shard.recurrences, shard.users, composer, parts.clock, parts.randomness.getrandbits),
        clock=parts.clock,
        vitals=Vitals(parts.ping, parts.clock),
        readiness=lambda: readiness(parts.ping, parts.queue),
        stopping=stopping.is_set,
        metrics=lambda: (parts.metrics.exposition(), metrics.CONTENT_TYPE),
        limiter=Limiter(MemoryTokens(parts.clock), parts.settings.limits.rates()),
        public_url=parts.settings.public_url,
        limits=Limits(
            max_body_bytes=parts.settings.http.max_body_bytes, max_bodies_bytes=parts.settings.http.max_bodies_bytes
        ),
        accepted=parts.metrics.accepted,
        operations=parts.settings.operations.port is None,
        docs=parts.settings.http.docs,
    )


@asynccontextmanager
async def sandbox(settings: Settings, held: Held = NONE_HELD) -> AsyncIterator[str]:
    """Run the sandbox within the context; its URL."""
    place = settings.sandbox
    handle = await serve_sandbox(
        place.host,
        place.port,
        place.smtp_port,
        sandbox_credentials.load_or_create(settings.data_dir / "sandbox"),
        receipts_url=f"{settings.public_url}/v1/receipts",
        log_path=settings.data_dir / "sandbox" / "arrivals.jsonl",
        hint=samples.first_command(settings.http.local_url, settings.data_dir / DEMO_KEY_FILE),
        timeline=samples.timeline_command(settings.http.local_url, settings.data_dir / DEMO_KEY_FILE),
        held=held.sandbox,
        allowed_hosts=place.allowed_hosts,
    )
    try:
        yield handle.url
    finally:
        await handle.stop()
