"""The API as a role of a process: its sockets, its servers, and the watchers that run beside them."""

from __future__ import annotations

import asyncio
import socket

from tidings.api.app import create_app
from tidings.api.leaving import Shutdown
from tidings.api.limits import Limiter
from tidings.api.server import serve
from tidings.api.services import Limits, Services
from tidings.api.vitals import Vitals
from tidings.backends.memory.tokens import MemoryTokens
from tidings.config import Settings
from tidings.listening import NONE_HELD, Held, Ready, listen
from tidings.parts import Parts
from tidings.pipeline.accept.stage import Accept
from tidings.report.accounting import Accounting
from tidings.report.notifications import Reports
from tidings.roles.accepting import accepting, composing
from tidings.roles.operations import bounds_of, operating, serving_operations
from tidings.services.change import Change
from tidings.services.letters import DeadLetters
from tidings.services.recurrences import Recurrences
from tidings.templating.templates import Templates


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
        operating=operating(parts, stopping),
        limiter=Limiter(MemoryTokens(parts.clock), parts.settings.limits.rates()),
        public_url=parts.settings.public_url,
        limits=Limits(
            max_body_bytes=parts.settings.http.max_body_bytes, max_bodies_bytes=parts.settings.http.max_bodies_bytes
        ),
        accepted=parts.metrics.accepted,
        operations=parts.settings.operations.port is None,
        docs=parts.settings.http.docs,
    )


async def run_api(
    services: Services,
    accept: Accept,
    settings: Settings,
    stopping: asyncio.Event,
    ready: Ready,
    listening: socket.socket | None,
) -> None:
    """Serve until `stopping` is set.

    Listens on `listening`, a socket that outlives this process, or, if it is None, on a socket of its own.

    Raises:
        SettingsError: the port cannot be listened on.
    """
    http, stop = settings.http, settings.stop
    shutdown = Shutdown(drain_s=stop.drain, grace_s=stop.grace, shared_socket=listening is not None)
    listener = listening or listen(http.host, http.port)
    never_set = asyncio.Event()  # the watchers run until the last answer is out; then they are cancelled
    async with serving_operations(services.operating, settings, ready), asyncio.TaskGroup() as group:
        watchers = [group.create_task(part.watch(never_set)) for part in (accept, services.vitals)]
        app, bounds = create_app(services), bounds_of(http)
        await serve(app, listener, bounds, shutdown, stopping, lambda url: ready({"api": url}))
        for watcher in watchers:
            watcher.cancel()
