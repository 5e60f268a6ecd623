"""The composition root: settings become adapters, adapters become stages, stages become the roles of a process.

Roles: `api` answers HTTP, `worker` runs route, deliver, record and schedule, `sandbox` stands in for the vendors. One
process may have any of them; which adapters serve the ports follows from the settings alone.
"""

from __future__ import annotations

import asyncio
import gc
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import uuid4

from tidings.api.limits import Limiter
from tidings.api.services import Limits, Services
from tidings.api.vitals import Vitals
from tidings.backends.kafka.queue import KafkaQueue
from tidings.backends.memory.clock import SystemClock
from tidings.backends.memory.tokens import MemoryTokens
from tidings.backends.objects.folder import Folder
from tidings.backends.postgres.queue import PostgresQueue
from tidings.backends.postgres.store import PostgresStore
from tidings.channels.registry import serving
from tidings.channels.tools import Tools
from tidings.config import Settings
from tidings.listening import Held
from tidings.model import topics
from tidings.model.errors import SettingsError
from tidings.model.tenant import CANARY_TENANT
from tidings.model.vocabulary import Channel, Priority
from tidings.model.wire import decode_delivery, decode_notification, decode_outcomes
from tidings.pipeline.accept import Accept
from tidings.pipeline.accepted import AcceptedCounter
from tidings.pipeline.audit import Audit
from tidings.pipeline.canary import Canary
from tidings.pipeline.capping import Capping
from tidings.pipeline.categories import Categories
from tidings.pipeline.change import Change
from tidings.pipeline.compose import Composer
from tidings.pipeline.deliver import Deliver, Needs
from tidings.pipeline.housekeeping import keep_house
from tidings.pipeline.letters import DeadLetters
from tidings.pipeline.packs import of_what_may_have_been_taken
from tidings.pipeline.record import Record
from tidings.pipeline.recur import Recur
from tidings.pipeline.recurrences import Recurrences
from tidings.pipeline.replay import Replaying
from tidings.pipeline.rounds import repeat
from tidings.pipeline.route import Route
from tidings.pipeline.schedule import Schedule
from tidings.pipeline.stage import Reader, Reading
from tidings.pipeline.stopping import finishing
from tidings.pipeline.switchboard import Routed, Switchboard
from tidings.ports.clock import Clock
from tidings.ports.objects import Objects
from tidings.ports.provider import Provider
from tidings.ports.queue import Queue
from tidings.ports.store import Inbox, Store
from tidings.report.accounting import Accounting
from tidings.report.notifications import Reports
from tidings.report.readiness import readiness
from tidings.sandbox import credentials as sandbox_credentials
from tidings.sandbox.mirror import MirroredInbox
from tidings.sandbox.server import serve as serve_sandbox
from tidings.serving import Ready, run_api
from tidings.telemetry import logs, metrics
from tidings.templating.renderer import TemplateRenderer
from tidings.templating.templates import Templates

NONE_HELD = Held()
ROLES = frozenset({"api", "worker", "sandbox"})
LANES, URGENT = frozenset(Priority), frozenset({Priority.CRITICAL})

ROUTE_BATCH = 500
DELIVER_BATCH = 500
MOST_BATCHES = 16
"""Batches of a lane that wait for slow providers at once, at most."""
SHARE_OF_LEASE = 0.8
RECORD_BATCH = 20
"""Packs, each of up to 200 outcomes."""
RECORD_LINGER = 0.05
"""Seconds. Nobody waits for the recorder but readers, and they wait for young ids; a larger batch is cheaper."""


@dataclass(frozen=True)
class Parts:
    """The adapters behind the ports."""

    settings: Settings
    clock: Clock
    queue: Queue
    store: Store
    objects: Objects
    providers: dict[Channel, list[Provider[Any]]]
    renderer: TemplateRenderer
    metrics: metrics.Metrics
    accepted: AcceptedCounter
    randomness: random.Random = field(default_factory=random.SystemRandom)


async def run(
    settings: Settings, roles: frozenset[str], ready: Ready, held: Held = NONE_HELD, lanes: frozenset[Priority] = LANES
) -> None:
    """Run `roles` in this process until SIGTERM or SIGINT, then finish what is under way.

    `held` are the sockets that somebody else holds, `lanes` those of a worker.

    Raises:
        SettingsError: the settings cannot work.
        Unavailable: a part did not answer at the start.
    """
    unknown = roles - ROLES
    if unknown or not roles:
        raise SettingsError(
            f"no such role: {', '.join(sorted(unknown)) or '(none)'}; choose from {', '.join(sorted(ROLES))}"
        )
    logs.configure(settings.telemetry.log_level, settings.telemetry.log_format, "+".join(sorted(roles)))
    stopping = asyncio.Event()
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
                    group.create_task(work(parts, stopping, lanes))
                    ready({"worker": ""})
                if "api" in roles:
                    group.create_task(serve_api(parts, stopping, ready, held))
        await stopping.wait()


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncIterator[Parts]:
    """Every adapter that the settings ask for, connected; closed at the end."""
    if settings.database.dsn is None:
        raise SettingsError("there is no database.dsn; `tidings up` starts the bundled PostgreSQL and sets it")
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        store = await PostgresStore.open(settings.database.dsn, settings.database.pool_size)
        stack.push_async_callback(store.close)
        queue = await _queue(settings)
        stack.push_async_callback(queue.close)
        await queue.declare(topics.subscriptions())
        accepted = await stack.enter_async_context(AcceptedCounter(store.accounts, clock, uuid4).running())
        inbox: Inbox = store.inbox
        if settings.sandbox.enabled:
            mirrored = MirroredInbox(inbox, _sandbox_url(settings), unseen=frozenset({CANARY_TENANT}))
            stack.push_async_callback(mirrored.close)
            inbox = mirrored
        known: dict[Channel, list[Provider[Any]]] = {}
        for channel, provider in build_providers(settings, inbox, clock):
            stack.push_async_callback(provider.close)
            known.setdefault(channel, []).append(provider)
        yield Parts(
            settings=settings,
            clock=clock,
            queue=queue,
            store=store,
            objects=Folder(settings.data_dir / "objects"),
            providers=known,
            renderer=TemplateRenderer(store.templates, clock),
            metrics=metrics.Metrics(),
            accepted=accepted,
        )


async def work(parts: Parts, stopping: asyncio.Event, lanes: frozenset[Priority] = LANES) -> None:
    """The reading stages, each topic in a loop, until `stopping` is set; what is under way then has the grace.

    A worker for the critical lane alone does nothing but route and deliver it: so nothing that waits elsewhere, however
    much it is, takes its turns.
    """
    store, composer = parts.store, Composer(parts.renderer, parts.randomness.getrandbits)
    recur = Recur(store.recurrences, store.users, composer, parts.queue, parts.clock, parts.metrics, parts.accepted.add)
    async with finishing(stopping, parts.settings.stop.grace) as group:
        for reading in readings(parts, lanes):
            reader = Reader(reading, parts.queue, parts.objects, parts.clock, parts.metrics)
            group.create_task(reader.run(stopping))
        if lanes == URGENT:
            return
        group.create_task(recur.run(stopping))
        group.create_task(Schedule(store.schedule, parts.queue, parts.clock, parts.metrics).run(stopping))
        group.create_task(Replaying(store, parts.queue, parts.clock, parts.metrics).run(stopping))
        group.create_task(audit(parts, parts.clock).run(stopping))
        if parts.settings.canary.enabled:
            group.create_task(canary(parts).run(stopping))
        house = partial(keep_house, parts.store, parts.clock)
        group.create_task(repeat("house", house, 3600, stopping, parts.clock, parts.metrics))


def audit(parts: Parts, clock: Clock) -> Audit:
    """The audit as a worker makes it; `clock` may be ahead of the others, to look at what is younger."""
    every = parts.settings.audit.interval
    return Audit(parts.store, parts.queue, parts.renderer, parts.objects, clock, parts.metrics, every)


def canary(parts: Parts) -> Canary:
    """The canary as a worker sends it."""
    settings, accept = parts.settings.canary, accepting(parts).accept
    return Canary(accept, parts.store, parts.clock, parts.metrics, settings.interval, settings.deadline)


def readings(parts: Parts, lanes: frozenset[Priority] = LANES) -> list[Reading[Any]]:
    """Which stage reads which topic, and how, in a worker for these lanes."""
    store, settings = parts.store, parts.settings.deliver
    ordered = [lane for lane in Priority if lane in lanes]
    categories = Categories(store.tenants, parts.clock)
    route = Route(store.users, store.cancellations, categories, parts.renderer, parts.clock)
    # Where outputs and acknowledgement are not one transaction, a crash may repeat a batch: it must come back marked.
    marked = None if parts.queue.atomic else settings.lease
    found: list[Reading[Any]] = [
        Reading(
            stage=topics.ROUTE,
            topic=topics.requests(priority),
            decode=decode_notification,
            work=route,
            max_items=ROUTE_BATCH,
            lease=marked,
        )
        for priority in ordered
    ]
    needs = Needs(
        users=store.users,
        cancellations=store.cancellations,
        history=store.history,
        categories=categories,
        capping=Capping(store.caps, categories),
        renderer=parts.renderer,
        clock=parts.clock,
        randomness=parts.randomness.random,
    )
    for channel in Channel:
        switchboard = _switchboard(parts, channel)
        for priority in ordered:
            deliver = Deliver(switchboard, priority, needs, settings.retry_policy(channel), settings.lease)
            found.append(
                Reading(
                    stage=topics.DELIVER,
                    topic=topics.deliveries(channel, priority),
                    decode=decode_delivery,
                    work=deliver,
                    stop=deliver.stop,
                    max_items=DELIVER_BATCH,
                    room=deliver.room,
                    lease=settings.lease,
                    in_flight=2,
                    most_in_flight=MOST_BATCHES,
                    after_loss=of_what_may_have_been_taken,
                )
            )
    recording = Reading(
        stage=topics.RECORD,
        topic=topics.OUTCOMES,
        decode=decode_outcomes,
        work=Record(store.history),
        max_items=RECORD_BATCH,
        linger=RECORD_LINGER,
    )
    return found if lanes == URGENT else [*found, recording]


def _switchboard(parts: Parts, channel: Channel) -> Switchboard:
    """The channel's providers by weight, as all lanes of this process share them."""
    settings = parts.settings
    weights = settings.channels.get(channel, {})
    routed = [
        Routed(
            provider,
            weight=weights.get(provider.name, int(place == 0)),
            patience=max(1.0, SHARE_OF_LEASE * settings.deliver.lease - provider.timeout),
        )
        for place, provider in enumerate(parts.providers[channel])
    ]
    return Switchboard(routed, settings.breaker.rules(), parts.clock, parts.metrics)


def _spare_the_collector() -> None:
    """Collect garbage rarely: batches make many objects and hardly a cycle; else a third of the CPU goes there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def serve_api(parts: Parts, stopping: asyncio.Event, ready: Ready, held: Held = NONE_HELD) -> None:
    """The HTTP API until `stopping` is set, on the socket that is held or on one of its own; requests are answered."""
    accept = accepting(parts)
    await run_api(services(parts, accept, stopping), accept, parts.settings, stopping, ready, held.api)


def accepting(parts: Parts) -> Accept:
    """The first stage."""
    store = parts.store
    return Accept(
        queue=parts.queue,
        renderer=parts.renderer,
        idempotency=store.idempotency,
        history=store.history,
        clock=parts.clock,
        randomness=parts.randomness.getrandbits,
        receipt_readers={
            provider.name: (channel, provider.receipts)
            for channel, serving in parts.providers.items()
            for provider in serving
        },
        rules=parts.settings.overload.rules(),
        count=parts.accepted.add,
    )


def services(parts: Parts, accept: Accept, stopping: asyncio.Event) -> Services:
    """What the API calls."""
    store, composer = parts.store, Composer(parts.renderer, parts.randomness.getrandbits)
    return Services(
        accept=accept,
        reports=Reports(store.history, store.schedule, parts.clock),
        accounting=Accounting(store.history, store.accounts, parts.clock),
        users=store.users,
        templates=Templates(store.templates, parts.clock, parts.renderer),
        inbox=store.inbox,
        tenants=store.tenants,
        cancellations=store.cancellations,
        letters=DeadLetters(store, parts.clock, parts.randomness.getrandbits),
        change=Change(store.changes, store.users, parts.renderer, parts.clock),
        recurrences=Recurrences(store.recurrences, store.users, composer, parts.clock, parts.randomness.getrandbits),
        clock=parts.clock,
        vitals=Vitals(store.ping, parts.clock),
        readiness=lambda: readiness(store, parts.queue),
        stopping=stopping.is_set,
        metrics=lambda: (parts.metrics.exposition(), metrics.CONTENT_TYPE),
        limiter=Limiter(MemoryTokens(parts.clock), parts.settings.limits.rates()),
        public_url=parts.settings.public_url,
        limits=Limits(
            max_body_bytes=parts.settings.http.max_body_bytes, max_bodies_bytes=parts.settings.http.max_bodies_bytes
        ),
        accepted=parts.metrics.accepted,
    )


@asynccontextmanager
async def sandbox(settings: Settings, held: Held = NONE_HELD) -> AsyncIterator[str]:
    """The vendors' stand-in; its address."""
    place = settings.sandbox
    handle = await serve_sandbox(
        place.host,
        place.port,
        place.smtp_port,
        sandbox_credentials.load_or_create(settings.data_dir / "sandbox"),
        receipts_url=f"{settings.public_url}/v1/receipts",
        log_path=settings.data_dir / "sandbox" / "arrivals.jsonl",
        held=held.sandbox,
    )
    try:
        yield handle.url
    finally:
        await handle.stop()


async def _queue(settings: Settings) -> Queue:
    if settings.queue.kind == "kafka":
        return await KafkaQueue.open(
            settings.queue.brokers,
            partitions=settings.queue.partitions,
            replication=settings.queue.replication,
            prefix=settings.queue.prefix,
        )
    return await PostgresQueue.open(str(settings.database.dsn))


def build_providers(settings: Settings, inbox: Inbox | None, clock: Clock) -> Iterator[tuple[Channel, Provider[Any]]]:
    """The providers of every channel, best first: those in the settings, else the sandbox's. Raises SettingsError."""
    stand_ins: dict[str, dict[str, Any]] = {}
    if settings.sandbox.enabled:
        credentials = sandbox_credentials.load_or_create(settings.data_dir / "sandbox")
        stand_ins = sandbox_credentials.provider_settings(
            credentials, _sandbox_url(settings), settings.sandbox.host, settings.sandbox.smtp_port
        )
    receipts = f"{settings.public_url}/v1/receipts"
    for channel in Channel:
        names = settings.channels.get(channel) or sandbox_credentials.CHANNELS[channel]
        for provider in serving(channel, names, settings.providers, stand_ins, Tools(receipts, clock, inbox)):
            yield channel, provider


def _sandbox_url(settings: Settings) -> str:
    return f"http://{settings.sandbox.host}:{settings.sandbox.port}"
