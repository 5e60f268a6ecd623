"""One run: four processes of the real system over shared memory adapters, clients, vendors, and what befalls them."""

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
from tidings.channels.inapp.inbox import Inbox
from tidings.config import Settings
from tidings.model import topics
from tidings.model.errors import Unavailable
from tidings.model.history import InboxItem
from tidings.model.letters import LetterFilter
from tidings.model.tenant import ApiKey, Tenant
from tidings.model.user import Category, Preferences, Suppression
from tidings.model.vocabulary import Channel
from tidings.parts import Parts
from tidings.pipeline.accept.accepted import AcceptedCounter
from tidings.pipeline.changes.letters import DeadLetters
from tidings.pipeline.changes.recurrences import Recurrences
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.compose.recipients import Recipients
from tidings.pipeline.deliver.capping import EVERYTHING
from tidings.ports.provider import Provider
from tidings.sections import AuditSettings, CanarySettings
from tidings.simulation import drawing
from tidings.simulation import scenario as scenarios
from tidings.simulation.boundary import InboxPort, Port, QueuePort, SimulatedBroker, SimulatedStore, StorePort
from tidings.simulation.clients import APIS, Clients
from tidings.simulation.departures import Departures
from tidings.simulation.loop import VirtualLoop
from tidings.simulation.observers import Rule, Violation, Wishes
from tidings.simulation.processes import LOOK, PERIOD, Process, Storm
from tidings.simulation.scenario import (
    AddressBarred,
    Cancelled,
    CategorySet,
    Change,
    ClocksMoved,
    MoodChanged,
    Outage,
    PreferencesSet,
    Recurring,
    Replayed,
    Scenario,
    VendorDown,
)
from tidings.simulation.vendors import Call, SimulatedInbox, SimulatedProvider, Traits, Vendor
from tidings.templating.renderer import TemplateRenderer
from tidings.working import accepting, work

T = TypeVar("T")

WORKERS = ("worker-1", "worker-2")
SESSION = 10.0
"""Seconds after which a partitioned broker takes a silent client for dead."""
LONGEST_FREEZE_OF_AN_API = 10.0
"""Seconds. One that stands still past the lease of an idempotency key puts again what was put meanwhile (a limit)."""
LONGEST_CALM = 7 * 24 * 3600.0
"""Virtual seconds within which everything must have come to rest after the last fault."""
INBOX = Traits("inbox", Channel.INAPP, idempotent=True, batch_size=500, concurrency=8, timeout=Inbox.timeout)


class _Uncounted:
    """Metrics that nobody reads."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        """Any of their methods."""
        return _count_nothing


def _count_nothing(*_: object) -> None:
    """Not counted."""


async def _keep_writing(accepted: AcceptedCounter, process: Process) -> None:
    """As AcceptedCounter does in a process that serves; less often, for time costs nothing here."""
    while True:
        await process.sleep(PERIOD)
        with contextlib.suppress(Unavailable):
            await accepted.write()


class World:
    """Everything outside the processes, and the processes."""

    def __init__(self, scenario: Scenario, trace: Callable[[float, str], None]) -> None:
        self.loop = cast("VirtualLoop", asyncio.get_running_loop())
        self.scenario = scenario
        self.store = SimulatedStore(self.now)
        self.objects = MemoryObjects()
        self.broker = SimulatedBroker(self, scenario.partitions)
        self.wishes = Wishes()
        self.complaints = self.store.history.complaints
        self.inbox_log: list[Call] = []
        self.inbox_departures = Departures(INBOX.timeout)
        self.chance = random.Random(f"{scenario.seed}/world")
        self._ids = random.Random(f"{scenario.seed}/ids")
        self.storm = Storm(scenario.weather, random.Random(f"{scenario.seed}/storm"))
        self._outside: Context = copy_context()
        self._trace = trace
        self.clients = Clients(self, random.Random(f"{scenario.seed}/clients"))
        bits = random.Random(f"{scenario.seed}/recurrences").getrandbits
        composer = Composer(
            TemplateRenderer(self.store.templates, self), bits, recipients=Recipients(self.store.users, self)
        )
        self._recurrences = Recurrences(self.store.recurrences, self.store.users, composer, self, bits)
        self._letters = DeadLetters(self.store, self.store, self, bits)
        self.vendors = {
            traits.name: Vendor(traits, random.Random(f"{scenario.seed}/{traits.name}"), self.storm, self.clients.post)
            for traits in scenario.vendors
        }
        self._serving: dict[str, tuple[Process, Accepts]] = {}
        self._alive: dict[str, tuple[Process, QueuePort]] = {}
        self._answers: dict[Process, dict[asyncio.Future[Any], None]] = {}
        self._errands: dict[asyncio.Task[None], None] = {}
        self._outage = 0.0
        self._settings = Settings(
            deliver=scenario.delivering,
            fairness=scenario.fairness,
            breaker=scenario.breaker,
            audit=AuditSettings(interval=scenario.audit_every),
            canary=CanarySettings(enabled=False),
        )

    # --- the true time ---

    def now(self) -> int:
        """Milliseconds since the epoch, in truth."""
        return self.scenario.start + int(self.loop.time() * 1000)

    def elapsed(self) -> int:
        """Milliseconds of virtual time."""
        return int(self.loop.time() * 1000)

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)

    # --- the run ---

    async def run(self) -> None:
        """From the first start of the processes until everything rests."""
        await self._prepare()
        for name in (*APIS, *WORKERS):
            self._start(name)
        clients = [self.send(self.clients.ask(asked)) for asked in self.scenario.asked for _ in range(1 + asked.twice)]
        self.send(self._change_things())
        await asyncio.sleep(self.scenario.storm)
        self.storm.calm()
        self.log("the storm is over")
        for process, _ in self._alive.values():
            process.skew = 0
        try:
            async with asyncio.timeout(LONGEST_CALM):
                await asyncio.wait(clients)
                await self._rest()
        except TimeoutError:
            self.complain(Rule.RESTS, f"there are still {self._what_is_left()}")

    async def _prepare(self) -> None:
        await MemoryQueue(self.broker).declare(topics.subscriptions())
        for tenant in scenarios.TENANTS:
            await self.store.tenants.add(Tenant(tenant, tenant))
            overall = [Category(EVERYTHING, caps=caps) for name, caps in self.scenario.overall_caps if name == tenant]
            for category in (*scenarios.CATEGORIES, *overall):
                await self._apply(CategorySet(0.0, tenant, category))
            stored = await self.store.templates.add_version(tenant, scenarios.TEMPLATE)
            await self.store.templates.publish(tenant, stored.name, stored.version)
        for tenant, user_id in drawing.users():
            profile = drawing.profile(self.chance, user_id)
            preferences = drawing.preferences(self.chance)
            await self._apply(PreferencesSet(0.0, tenant, user_id, profile, preferences))

    async def _rest(self) -> None:
        """Return when no item, no row and no errand is left."""
        while (  # noqa: ASYNC110 - no event tells that nothing is left, and time costs nothing
            self._errands or any(len(lane) for _, _, lane in self.broker.lanes()) or self._due() is not None
        ):
            await asyncio.sleep(max(3.0, ((self._due() or 0) - self.now()) / 1000))

    def _due(self) -> int | None:
        """When the next thing is due that waits in the store."""
        known = (self.store.schedule.next, self.store.replays.next_ready, self.store.recurrences.next)
        return min((due for due in known if due is not None), default=None)

    def _what_is_left(self) -> str:
        lanes = [f"{len(lane)} items of {topic}" for topic, _, lane in self.broker.lanes() if len(lane)]
        rows = [] if self._due() is None else ["rows of the schedule"]
        running = [f"{name}{' (frozen)' if process.frozen else ''}" for name, (process, _) in self._alive.items()]
        errands = [str(errand.get_coro()) for errand in self._errands]
        return f"{', '.join([*lanes, *rows, *errands])}; running are {', '.join(running)}"

    def send(self, errand: Any) -> asyncio.Task[None]:
        """Run something outside the processes; the run does not end before it."""
        task: asyncio.Task[None] = self.loop.create_task(errand, context=self._outside.copy())
        self._errands[task] = None
        task.add_done_callback(self._back, context=self._outside.copy())
        return task

    def _back(self, errand: asyncio.Task[None]) -> None:
        del self._errands[errand]
        if not errand.cancelled() and (error := errand.exception()) is not None:
            self.complain(Rule.RUNS, f"the simulation itself failed: {error!r}")

    def log(self, line: str) -> None:
        """Put a line into the trace."""
        self._trace(self.loop.time(), line)

    def complain(self, rule: Rule, text: str) -> None:
        """A rule was broken."""
        self.complaints.append(Violation(rule, text))

    # --- processes ---

    def _process(self, name: str) -> Process:
        return Process(name, self.loop, self.storm, self.scenario.start, self._outside, self.log)

    def _start(self, name: str) -> None:
        process = self._process(name)
        process.on_end, process.on_freeze = self._ended, self._frozen
        if name in APIS:
            process.longest_freeze = LONGEST_FREEZE_OF_AN_API
        if self.storm.raging:
            process.skew = self._skew()
        queue = QueuePort(self.broker, process)
        parts = self._parts(process, queue)
        self._alive[name] = process, queue
        self.log(f"{name} starts")
        if name in APIS:
            self._serving[name] = process, accepting(parts)
            process.begin(_keep_writing(parts.accepted, process))
            self._answers[process] = {}
        else:
            running = process.begin(work(parts, asyncio.Event()))
            running.add_done_callback(lambda running: self._ran_out(name, running), context=self._outside.copy())

    def _ran_out(self, name: str, running: asyncio.Task[None]) -> None:
        if not running.cancelled():
            self.complain(Rule.RUNS, f"{name} ended by itself: {running.exception()!r}")

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
            metrics=cast("Any", _Uncounted()),
            accepted=AcceptedCounter(store.accounts, process, lambda: UUID(int=self._ids.getrandbits(128))),
            randomness=random.Random(self._ids.random()),
        )

    def _inbox_logger(self, process: Process) -> Callable[..., None]:
        def write(tenant: str, items: list[InboxItem]) -> None:
            for item in items:
                self.inbox_log.append(
                    Call(
                        vendor=INBOX,
                        at=self.loop.time(),
                        clock=process.now(),
                        process=process.name,
                        delivery=item.id,
                        tenant=tenant,
                        user_id=item.user_id,
                        to=item.user_id,
                        category=item.category,
                        attempt=0,
                        key=str(item.id),
                        look=LOOK.get(),
                        took=True,
                        said=item.title,
                    )
                )

        return write

    def _skew(self) -> int:
        most = self.scenario.weather.skew
        return self.chance.randint(-most, most)

    def _ended(self, process: Process) -> None:
        """A process was killed: its clients see it at once, a log of a queue only later; then it is started again."""
        _, queue = self._alive.pop(process.name)
        self._serving.pop(process.name, None)
        for answer in self._answers.pop(process, {}):
            if not answer.done():
                answer.set_exception(ConnectionResetError(f"{process.name} is gone"))
        outage = self._outage or self.chance.random() * self.scenario.weather.longest_outage
        noticed = SESSION if self.scenario.partitions else 0.0
        self.loop.call_later(noticed, queue.client.crash, context=self._outside.copy())
        self.loop.call_later(outage, self._start, process.name, context=self._outside.copy())

    def _frozen(self, process: Process, seconds: float) -> None:
        if process.name not in self._alive:
            return
        _, queue = self._alive[process.name]
        if self.scenario.partitions and seconds > SESSION:
            self.loop.call_later(SESSION, queue.client.evict, context=self._outside.copy())
        elif not self.scenario.partitions and seconds > HELD_WITHIN_S:
            self.loop.call_later(HELD_WITHIN_S, queue.client.cut, context=self._outside.copy())

    async def call(self, name: str, request: Callable[[Accepts], Awaitable[T]]) -> T:
        """Make a request to an API process. Raises what it raises, or ConnectionError."""
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

    # --- changes ---

    async def _change_things(self) -> None:
        for change in self.scenario.changes:
            await asyncio.sleep(max(0.0, change.at - self.loop.time()))
            await self._apply(change)

    async def _apply(self, change: Change) -> None:
        at, users = self.loop.time(), self.store.users
        if isinstance(change, PreferencesSet):
            key = change.tenant, change.user_id
            self.log(f"{change.tenant}/{change.user_id}: {change.profile} {change.preferences}")
            if change.profile is None:
                await users.delete(*key)
            else:
                await users.upsert(change.tenant, [(change.user_id, change.profile, change.preferences)], self.now())
            self.wishes.person(at, key, change.profile, change.preferences or Preferences())
        elif isinstance(change, AddressBarred):
            self.log(f"{change.tenant}/{change.address.value}: barred {change.barred}")
            if change.barred:
                await users.suppress([Suppression(change.tenant, change.address, "asked", self.now())])
            else:
                await users.unsuppress(change.tenant, change.address)
            self.wishes.address(at, change.tenant, change.address, barred=change.barred)
        elif isinstance(change, Cancelled):
            id = self.clients.ledger.id_of(change.number)
            if id is not None:
                self.log(f"{id} is cancelled")
                await self.store.cancellations.cancel(change.tenant, id, self.now())
                self.wishes.cancelled.setdefault(id, at)
        elif isinstance(change, Recurring):
            await self._recurrences.create(change.tenant, change.body)
        elif isinstance(change, Replayed):
            await self._letters.replay(ApiKey("key", change.tenant, "", b"", ()), LetterFilter(), 5, None, b"")
        elif isinstance(change, CategorySet):
            self.log(f"{change.tenant}: {change.category}")
            await self.store.tenants.put_category(change.tenant, change.category)
            self.wishes.category(at, change.tenant, change.category)
        elif isinstance(change, VendorDown):
            self.log(f"{change.vendor} takes nothing for {change.seconds} s: {change.reason}")
            self.vendors[change.vendor].go_down(change.seconds, change.reason)
        elif isinstance(change, MoodChanged):
            self.vendors[change.vendor].mood = change.mood
        elif isinstance(change, Outage) and self.storm.raging:
            self._outage = change.seconds
            for process in [process for name, (process, _) in self._alive.items() if name.startswith(change.role)]:
                process.kill()
            self._outage = 0.0
        elif isinstance(change, ClocksMoved) and self.storm.raging:
            for process, _ in self._alive.values():
                process.skew = self._skew()
                self.log(f"{process.name}: its clock is {process.skew} ms ahead")
