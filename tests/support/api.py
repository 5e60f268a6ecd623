"""The API over real HTTP: uvicorn on a free port, the memory adapters behind it, and a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from pyreqwest.client import Client, ClientBuilder

from support import eventually
from support.queues import depth
from tidings.api.app import create_app
from tidings.api.connections import Bounds, Server
from tidings.api.keys import mint
from tidings.api.limits import Limiter
from tidings.api.samples import DEMO_TEMPLATE, DEMO_USER, ORDER
from tidings.api.services import Limits, Operating, Services
from tidings.api.vitals import Vitals
from tidings.backends.memory.clock import SystemClock
from tidings.backends.memory.queue import MemoryBroker, MemoryQueue
from tidings.backends.memory.store import MemoryStore
from tidings.backends.memory.tokens import MemoryTokens
from tidings.model import topics
from tidings.model.errors import BadReceipt
from tidings.model.notification import Content, EmailContent, InappContent, PushContent, SmsContent
from tidings.model.sending import InboundRequest, Receipt
from tidings.model.template import TemplateVersion, Variable
from tidings.model.tenant import DefaultRates, Scope, Tenant
from tidings.model.user import Profile
from tidings.model.vocabulary import Channel
from tidings.pipeline.accept.accepted import AcceptedCounter
from tidings.pipeline.accept.stage import Accept
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.compose.recipients import Recipients
from tidings.policy.admission import AdmissionRules
from tidings.report.accounting import Accounting
from tidings.report.notifications import Reports
from tidings.services.change import Change
from tidings.services.letters import DeadLetters
from tidings.services.recurrences import Recurrences
from tidings.telemetry.metrics import CONTENT_TYPE, Metrics
from tidings.templating.renderer import TemplateRenderer
from tidings.templating.templates import Templates

TENANT = "shop"
OTHER = "rival"


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


@dataclass
class World:
    """The adapters behind the API, for tests to inspect and to break."""

    store: MemoryStore = field(default_factory=MemoryStore)
    clock: SystemClock = field(default_factory=SystemClock)
    parts: dict[str, str] = field(default_factory=lambda: {"store": "ok", "queue": "ok"})
    stopping: bool = False
    received: list[InboundRequest] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    bounds: Bounds = field(default=Bounds())
    limits: Limits = field(default=Limits(max_body_bytes=100_000, max_batch_bytes=400_000, max_bodies_bytes=600_000))
    rates: DefaultRates = field(default=DefaultRates())

    def __post_init__(self) -> None:
        self.queue = MemoryQueue(MemoryBroker(self.clock))
        self.accepted = AcceptedCounter(self.store.accounts, self.clock, uuid4)


class Api:
    """A client with one API key."""

    def __init__(self, world: World, services: Services, server: Server, client: Client, url: str) -> None:
        self.world = world
        self.server = server
        self.services = services
        self.url = url
        self._client = client
        self.keys: dict[tuple[str, frozenset[Scope]], str] = {}

    async def key(self, tenant: str = TENANT, *scopes: Scope) -> str:
        """The secret of a key with these scopes (all if none are given), created on first use."""
        wanted = frozenset(scopes or Scope)
        if (tenant, wanted) not in self.keys:
            secret, key = mint(tenant, wanted, "test", self.world.clock.now(), random.randbytes(32))
            await self.world.store.tenants.add_key(key)
            self.keys[tenant, wanted] = secret
        return self.keys[tenant, wanted]

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. `body` is bytes as they are, or anything else as JSON; `key` None sends none.

        `path` may be a whole URL, of another server.
        """
        request = self._client.request(method, path if path.startswith("http") else self.url + path)
        if key is not None:
            request = request.bearer_auth(key or await self.key())
        sent = dict(headers or {})
        if body is not None:
            if not any(name.lower() == "content-type" for name in sent):
                sent["content-type"] = "application/json"
            request = request.body_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
        for name, value in sent.items():
            request = request.header(name, value)
        response = await request.build().send()
        return Answer(
            response.status, {k.lower(): v for k, v in response.headers.items()}, bytes(await response.bytes())
        )

    async def get(self, path: str, **options: Any) -> Answer:
        """GET."""
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        """POST."""
        return await self.call("POST", path, body, **options)

    async def put(self, path: str, body: Any = None, **options: Any) -> Answer:
        """PUT."""
        return await self.call("PUT", path, body, **options)

    async def patch(self, path: str, body: Any = None, **options: Any) -> Answer:
        """PATCH."""
        return await self.call("PATCH", path, body, **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        """DELETE."""
        return await self.call("DELETE", path, **options)

    async def waiting(self) -> int:
        """The number of accepted notifications that wait in the queue."""
        total = 0
        for topic, groups in topics.subscriptions().items():
            if topic.startswith("requests."):
                total += await depth(self.world.queue, topic, groups[0])
        return total


def expect_problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The problem details in the answer. Fails unless they are well formed and have this status and code."""
    assert answer.status == status, (answer.status, answer.body)
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["code"] == code, problem
    assert problem["title"]
    assert problem["detail"]
    assert problem["type"] == f"urn:problem-type:tidings:{code}"
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


@contextlib.asynccontextmanager
async def running(world: World | None = None) -> AsyncIterator[Api]:
    """A server with two tenants, the demo user and the demo template."""
    world = world or World()
    await world.queue.declare(topics.subscriptions())
    for tenant in (TENANT, OTHER):
        await world.store.tenants.add(Tenant(tenant, tenant.title()))
    await world.store.users.upsert(TENANT, [(DEMO_USER, Profile(email="demo@example.com"), None)], world.clock.now())
    services = _services(world)
    version = await services.templates.create_version(TENANT, _demo_template())
    await services.templates.publish(TENANT, DEMO_TEMPLATE, version.version)
    with _socket() as listening:
        port = listening.getsockname()[1]
        server = Server(create_app(services), world.bounds)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await eventually(lambda: server.started)
            async with ClientBuilder().no_proxy().follow_redirects(False).build() as client:
                yield Api(world, services, server, client, f"http://127.0.0.1:{port}")
        finally:
            server.should_exit = True
            await serving


def _demo_template() -> TemplateVersion:
    """A template with the name and the variables of the demo template."""
    content = Content(
        email=EmailContent("Order {{ order.number }}", html="<p>Thank you, {{ name }}</p>"),
        sms=SmsContent("Order {{ order.number }}: {{ order.total }} {{ order.currency }}"),
        push=PushContent("Order {{ order.number }}", "Thank you, {{ name }}"),
        inapp=InappContent("Order {{ order.number }}", "Thank you, {{ name }}"),
    )
    variables = {name: Variable(example=ORDER["data"][name]) for name in ("name", "order")}
    return TemplateVersion(DEMO_TEMPLATE, 0, {"en": content}, variables=variables)


def _socket() -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.bind(("127.0.0.1", 0))
    return listening


def _services(world: World) -> Services:
    store = world.store
    renderer = TemplateRenderer(store.templates, world.clock)

    def signed(request: InboundRequest) -> list[Receipt]:
        world.received.append(request)
        if request.headers.get("x-signature") != "right":
            raise BadReceipt("the signature is wrong")
        return []

    async def readiness() -> Mapping[str, str]:
        return world.parts

    accept = Accept(
        world.queue,
        renderer,
        store.idempotency,
        store.history,
        world.clock,
        random.getrandbits,
        {"signer": (Channel.SMS, signed)},
        AdmissionRules(),
        world.accepted.add,
        recipients=Recipients(store.users, world.clock),
    )
    return Services(
        accept=accept,
        reports=Reports(store.history, store.days, store.schedule, world.clock),
        accounting=Accounting(store.history, store.accounts, store.days, world.clock),
        users=store.users,
        templates=Templates(store.templates, world.clock, renderer),
        inbox=store.inbox,
        tenants=store.tenants,
        cancellations=store.cancellations,
        letters=DeadLetters(store, store, world.clock, random.getrandbits),
        change=Change(store.changes, store.users, renderer, world.clock),
        recurrences=Recurrences(
            store.recurrences,
            store.users,
            Composer(renderer, random.getrandbits, recipients=Recipients(store.users, world.clock)),
            world.clock,
            random.getrandbits,
        ),
        clock=world.clock,
        vitals=Vitals(store.ping, world.clock),
        operating=Operating(
            readiness=readiness,
            metrics=lambda: (world.metrics.exposition(), CONTENT_TYPE),
            stopping=lambda: world.stopping,
            roles=("api",),
        ),
        limiter=Limiter(MemoryTokens(world.clock), world.rates),
        accepted=world.metrics.accepted,
        public_url="http://127.0.0.1:8400",
        limits=world.limits,
    )
