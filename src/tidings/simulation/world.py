"""One run: four processes of the real system over shared memory adapters, clients, vendors, and faults."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any, TypeVar, cast
from uuid import UUID

from tidings.api.services import Accepts
from tidings.backends.memory.objects import MemoryObjects
from tidings.backends.memory.queue import MemoryQueue
from tidings.backends.parquet.files import ParquetFiles
from tidings.backends.postgres.queue import HELD_WITHIN_S
from tidings.channels.inapp.inbox import WRITE_S, Inbox
from tidings.model import topics
from tidings.model.errors import Unavailable
from tidings.model.history import InboxItem
from tidings.model.tenant import Tenant
from tidings.model.user import Category
from tidings.model.vocabulary import Channel
from tidings.parts import Parts
from tidings.pipeline.accept.accepted import AcceptedCounter
from tidings.pipeline.deliver.capping import EVERYTHING
from tidings.ports.provider import Provider
from tidings.roles.accepting import accepting
from tidings.roles.worker import work
from tidings.simulation import drawing
from tidings.simulation import scenario as scenarios
from tidings.simulation.boundary import InboxPort, Port, QueuePort, SimulatedBroker, SimulatedStore, StorePort
from tidings.simulation.clients import APIS, Clients
from tidings.simulation.departures import Departures
from tidings.simulation.interventions import Interventions
from tidings.simulation.loop import VirtualLoop
from tidings.simulation.observers import Rule, Violation, Wishes
from tidings.simulation.processes import BATCH_READS, WRITE_COUNTS_EVERY_S, Process, Storm
from tidings.simulation.scenario import CategorySet, PreferencesSet, Scenario
from tidings.simulation.vendors import Call, SimulatedInbox, SimulatedProvider, Traits, Vendor
from tidings.templating.renderer import TemplateRenderer

T = TypeVar("T")

WORKERS = ("worker-1", "worker-2")
SESSION_S = 10.0
"""A partitioned broker takes a client that is silent for so long for dead."""
LONGEST_API_FREEZE_S = 10.0
"""A known limit: an API that freezes past the lease of an idempotency key puts a request a second time."""
LONGEST_CALM_S = 7 * 24 * 3600.0
"""Everything must rest within this time after the storm."""
INBOX = Traits("inbox", Channel.INAPP, idempotent=True, batch_size=500, concurrency=8, timeout_s=Inbox.timeout_s)


class _NoMetrics:
    """Metrics that ignore everything."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        """A function that does nothing."""
        return lambda *_: None


async def _write_accepted_counts(accepted: AcceptedCounter, process: Process) -> None:
    """Write the counts of accepted notifications regularly, as a real API process does, but less often."""
    while True:
        await process.sleep(WRITE_COUNTS_EVERY_S)
        with contextlib.suppress(Unavailable):
            await accepted.write()


class World:
    """The processes, and everything outside them."""

    def __init__(self, scenario: Scenario, trace: Callable[[float, str], None]) -> None:
        self.loop = cast("VirtualLoop", asyncio.get_running_loop())
        self.scenario = scenario
        self.store = SimulatedStore(self.now)
        self.objects = MemoryObjects()
        self.broker = SimulatedBroker(self, scenario.partitions)
        self.wishes = Wishes()
        self.violations = self.store.history.violations
        self.inbox_log: list[Call] = []
        self.inbox_departures = Departures(WRITE_S)
        seed = scenario.seed
        self.chance = random.Random(f"{seed}/world")
        self._ids = random.Random(f"{seed}/ids")
        self.storm = Storm(scenario.weather, random.Random(f"{seed}/storm"), scenario.audit_every_s)
        self._outside: Context = copy_context()
        self._trace = trace
        self.clients = Clients(self, random.Random(f"{seed}/clients"))
        versions = random.Random(f"{seed}/versions")
        self._newer = {name for name in (*APIS, *WORKERS) if versions.random() < 0.2}
        """The processes that run the next version, as in a rolling upgrade."""
        self._interventions = Interventions(self)
        self.vendors = {
            traits.name: Vendor(traits, random.Random(f"{seed}/{traits.name}"), self.storm, self.clients.post_receipt)
            for traits in scenario.vendors
        }
        self._serving: dict[str, tuple[Process, Accepts]] = {}
        self._running: dict[str, tuple[Process, QueuePort]] = {}
        self._answers: dict[Process, dict[asyncio.Future[Any], None]] = {}
        self._activities: dict[asyncio.Task[None], None] = {}
        self._outage_s = 0.0
        self._settings = scenario.settings()

    # --- the true time ---

    def now(self) -> int:
        """The true time, in milliseconds since the epoch."""
        return self.scenario.start_at + int(self.loop.time() * 1000)

    def elapsed(self) -> int:
        """Milliseconds of virtual time."""
        return int(self.loop.time() * 1000)

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)

    # --- the run ---

    async def run(self) -> None:
        """Run from the first start of the processes until everything rests."""
        await self._prepare()
        for name in (*APIS, *WORKERS):
            self._start(name)
        clients = [
            self.spawn(self.clients.send_repeatedly(request))
            for request in self.scenario.requests
            for _ in range(1 + request.sent_twice)
        ]
        self.spawn(self._interventions.make())
        await asyncio.sleep(self.scenario.storm_s)
        self.storm.calm()
        self.log("the storm is over")
        for process, _ in self._running.values():
            process.skew_ms = 0
        try:
            async with asyncio.timeout(LONGEST_CALM_S):
                await asyncio.wait(clients)
                await self._rest()
        except TimeoutError:
            self.report_violation(Rule.RESTS, f"there are still {self._leftovers()}")

    async def _prepare(self) -> None:
        await MemoryQueue(self.broker).declare(topics.subscriptions())
        for tenant in scenarios.TENANTS:
            await self.store.tenants.add(Tenant(tenant, tenant))
            overall = [Category(EVERYTHING, caps=caps) for name, caps in self.scenario.overall_caps if name == tenant]
            for category in (*scenarios.CATEGORIES, *overall):
                await self._interventions.apply(CategorySet(0.0, tenant, category))
            stored = await self.store.templates.add_version(tenant, scenarios.TEMPLATE)
            await self.store.templates.publish(tenant, stored.name, stored.version)
        for tenant, user_id in drawing.users():
            profile = drawing.profile(self.chance, user_id)
            preferences = drawing.preferences(self.chance)
            await self._interventions.apply(PreferencesSet(0.0, tenant, user_id, profile, preferences))

    async def _rest(self) -> None:
        """Return when no queue item, no waiting row and no activity is left."""
        while (  # noqa: ASYNC110 - there is no event for this, and virtual time costs nothing
            self._activities or any(len(lane) for _, _, lane in self.broker.lanes()) or self._next_due_at() is not None
        ):
            await asyncio.sleep(max(3.0, ((self._next_due_at() or 0) - self.now()) / 1000))

    def _next_due_at(self) -> int | None:
        """When the next row of the store is due; None if there is none."""
        known = (self.store.schedule.next, self.store.replays.next_ready, self.store.recurrences.next)
        return min((due for due in known if due is not None), default=None)

    def _leftovers(self) -> str:
        lanes = [f"{len(lane)} items of {topic}" for topic, _, lane in self.broker.lanes() if len(lane)]
        rows = [] if self._next_due_at() is None else ["rows of the schedule"]
        running = [f"{name}{' (frozen)' if process.frozen else ''}" for name, (process, _) in self._running.items()]
        activities = [str(activity.get_coro()) for activity in self._activities]
        return f"{', '.join([*lanes, *rows, *activities])}; running are {', '.join(running)}"

    def spawn(self, activity: Any) -> asyncio.Task[None]:
        """Run `activity` outside the processes; the run waits for its end."""
        task: asyncio.Task[None] = self.loop.create_task(activity, context=self._outside.copy())
        self._activities[task] = None
        task.add_done_callback(self._on_activity_end, context=self._outside.copy())
        return task

    def _on_activity_end(self, activity: asyncio.Task[None]) -> None:
        del self._activities[activity]
        if not activity.cancelled() and (error := activity.exception()) is not None:
            self.report_violation(Rule.RUNS, f"the simulation itself failed: {error!r}")

    def log(self, line: str) -> None:
        """Put a line into the trace."""
        self._trace(self.loop.time(), line)

    def report_violation(self, rule: Rule, text: str) -> None:
        """Note that a rule was broken."""
        self.violations.append(Violation(rule, text))

    # --- processes ---

    def stop(self, role: str, seconds: float) -> None:
        """Kill the processes whose names start with `role`; they start again after `seconds`."""
        self._outage_s = seconds
        for process in [process for name, (process, _) in self._running.items() if name.startswith(role)]:
            process.kill()
        self._outage_s = 0.0

    def set_clocks(self) -> None:
        """Set the clocks of all processes forwards or backwards."""
        for process, _ in self._running.values():
            process.skew_ms = self._draw_skew_ms()
            self.log(f"{process.name}: its clock is now {process.skew_ms} ms ahead")

    def _process(self, name: str) -> Process:
        return Process(name, self.loop, self.storm, self.scenario.start_at, self._outside, self.log)

    def _start(self, name: str) -> None:
        process = self._process(name)
        process.on_end, process.on_freeze = self._on_process_end, self._on_process_freeze
        if name in APIS:
            process.longest_freeze_s = LONGEST_API_FREEZE_S
        process.is_newer = name in self._newer
        if self.storm.raging:
            process.skew_ms = self._draw_skew_ms()
        queue = QueuePort(self.broker, process)
        parts = self._parts(process, queue)
        self._running[name] = process, queue
        self.log(f"{name} starts")
        if name in APIS:
            self._serving[name] = process, accepting(parts)
            process.begin(_write_accepted_counts(parts.accepted, process))
            self._answers[process] = {}
        else:
            running = process.begin(work(parts, asyncio.Event()))
            running.add_done_callback(lambda running: self._worker_ended(name, running), context=self._outside.copy())

    def _worker_ended(self, name: str, running: asyncio.Task[None]) -> None:
        if not running.cancelled():
            self.report_violation(Rule.RUNS, f"{name} ended by itself: {running.exception()!r}")

    def _parts(self, process: Process, queue: QueuePort) -> Parts:
        store = StorePort(self.store, process)
        store.inbox = InboxPort(self.store.inbox, process, self.inbox_departures, self._inbox_logger(process))
        inbox = SimulatedInbox(store.inbox, process, self.inbox_departures)
        providers: dict[Channel, list[Provider[Any]]] = {Channel.INAPP: [inbox]}
        longest_pause_s = scenarios.longest_pause_s(self.scenario.delivering)
        for vendor in self.vendors.values():
            providers.setdefault(vendor.traits.channel, []).append(SimulatedProvider(vendor, process, longest_pause_s))
        return Parts(
            settings=self._settings,
            clock=process,
            queue=queue,
            directory=store,
            shard=store,
            ping=store.ping,
            objects=cast("Any", Port("objects", self.objects, process)),
            providers=providers,
            archive=ParquetFiles(),
            renderer=TemplateRenderer(store.templates, process),
            metrics=cast("Any", _NoMetrics()),
            accepted=AcceptedCounter(store.accounts, process, lambda: UUID(int=self._ids.getrandbits(128))),
            randomness=random.Random(self._ids.random()),
        )

    def _inbox_logger(self, process: Process) -> Callable[..., None]:
        def write(tenant: str, items: list[InboxItem]) -> None:
            for item in items:
                self.inbox_log.append(
                    Call(
                        vendor=INBOX,
                        at_s=self.loop.time(),
                        clock_ms=process.now(),
                        process=process.name,
                        delivery=item.id,
                        tenant=tenant,
                        user_id=item.user_id,
                        to=item.user_id,
                        category=item.category,
                        attempt=0,
                        key=str(item.id),
                        reads=BATCH_READS.get(),
                        took=True,
                        first_text=item.title,
                    )
                )

        return write

    def _draw_skew_ms(self) -> int:
        most = self.scenario.weather.skew_ms
        return self.chance.randint(-most, most)

    def _on_process_end(self, process: Process) -> None:
        """Start a killed process again later. Its clients see the end at once, a partitioned broker after SESSION_S."""
        _, queue = self._running.pop(process.name)
        self._serving.pop(process.name, None)
        for answer in self._answers.pop(process, {}):
            if not answer.done():
                answer.set_exception(ConnectionResetError(f"{process.name} is gone"))
        outage_s = self._outage_s or self.chance.random() * self.scenario.weather.longest_outage_s
        noticed_after_s = SESSION_S if self.scenario.partitions else 0.0
        self.loop.call_later(noticed_after_s, queue.client.crash, context=self._outside.copy())
        self.loop.call_later(outage_s, self._start, process.name, context=self._outside.copy())

    def _on_process_freeze(self, process: Process, seconds: float) -> None:
        if process.name not in self._running:
            return
        _, queue = self._running[process.name]
        if self.scenario.partitions and seconds > SESSION_S:
            self.loop.call_later(SESSION_S, queue.client.evict, context=self._outside.copy())
        elif not self.scenario.partitions and seconds > HELD_WITHIN_S:
            self.loop.call_later(HELD_WITHIN_S, queue.client.cut, context=self._outside.copy())

    async def call(self, name: str, request: Callable[[Accepts], Awaitable[T]]) -> T:
        """The answer of an API process. Raises the API's errors, or ConnectionError if the process is down or dies."""
        if name not in self._serving:
            raise ConnectionRefusedError(f"{name} is down")
        process, accept = self._serving[name]
        answer: asyncio.Future[T] = self.loop.create_future()
        self._answers[process][answer] = None

        async def serve() -> None:
            try:
                result = await request(accept)
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        process.begin(serve())
        try:
            return await answer
        finally:
            self._answers.get(process, {}).pop(answer, None)
