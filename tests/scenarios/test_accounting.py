"""What is lost behind the system's back, on the real thing: it comes back, arrives once, and the sums close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pyreqwest.client import ClientBuilder

from support import eventually
from support_system import System, settings_for, tenant_with_key
from tidings.backends.memory.clock import SystemClock
from tidings.config import Settings
from tidings.model import topics
from tidings.model.vocabulary import Channel, Priority
from tidings.parts import Parts, open_parts
from tidings.pipeline.rounds.audit import Audit
from tidings.pipeline.runtime.reader import Reader
from tidings.ports.queue import Claim
from tidings.wiring import sandbox, serve_api
from tidings.working import audit, readings, work

SMS = {"sms": {"text": "Hello"}}
NUMBER = "+4915123456789"
REQUESTS = topics.requests(Priority.NORMAL)
TEXTS = topics.deliveries(Channel.SMS, Priority.NORMAL)


class Ahead(SystemClock):
    """The machine's time and three minutes: what was sent now has been still for a while."""

    def now(self) -> int:
        return super().now() + 180_000


class Half:
    """A system without its worker, whose part the test plays until `start_work`."""

    def __init__(self, system: System, parts: Parts, group: asyncio.TaskGroup, stopping: asyncio.Event) -> None:
        self.system = system
        self.parts = parts
        self.auditor: Audit = audit(parts, Ahead())
        self._group = group
        self._stopping = stopping

    async def claim(self, topic: str) -> Claim:
        """Take what is in a queue. Whoever ends this claim without outputs loses the items."""
        queue = self.parts.queue
        claim: Claim = await eventually(lambda: queue.claim(topic, topics.reader_of(topic), 100, 5.0, 600.0), 60)
        return claim

    async def pending(self) -> str:
        """A notification that is routed and recorded, and whose delivery is in its queue."""
        id = await self.system.send(to={"phone": NUMBER}, content=SMS)
        for stage in (topics.ROUTE, topics.RECORD):
            readers = [
                Reader(reading, self.parts.queue, self.parts.objects, self.parts.clock, self.parts.metrics)
                for reading in readings(self.parts)
                if reading.stage == stage and reading.topic in {REQUESTS, topics.OUTCOMES}
            ]
            await eventually(readers[0].once, 60)
        await self.system.in_state(id, "pending")
        return id

    def start_work(self) -> None:
        """Let the worker do its part. The audit stays the test's: it holds the rounds."""
        self._group.create_task(work(self.parts, self._stopping))

    def metric(self, name: str, **labels: str) -> float:
        return self.parts.metrics.value(name, labels) or 0.0

    async def audit_until(self, true: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
        """Make rounds: each comes as far as what the queue has committed allows."""

        async def once() -> Any:
            assert await self.auditor.once()
            found = true()
            return found if isinstance(found, bool) else await found

        await eventually(once, 60, every=0.5)

    async def account(self) -> Any:
        reply = await self.system.call("GET", "/v1/accounting")
        assert reply.status == 200, reply.body
        return reply.json["notifications"]


@asynccontextmanager
async def without_worker(settings: Settings) -> AsyncIterator[Half]:
    key = await tenant_with_key(str(settings.database.dsn))
    stopping, serving = asyncio.Event(), asyncio.Event()
    async with (
        ClientBuilder().no_proxy().build() as client,
        sandbox(settings),
        open_parts(settings) as parts,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(serve_api(parts, stopping, lambda _: serving.set()))
        try:
            async with asyncio.timeout(30):
                await serving.wait()
            yield Half(System(settings, key, client), parts, group, stopping)
        finally:
            stopping.set()


@pytest.fixture
async def half(tmp_path: Path, postgres_dsn: str, brokers: str | None) -> AsyncIterator[Half]:
    settings = settings_for(tmp_path, postgres_dsn, brokers, audit={"interval": 3600}, canary={"enabled": False})
    async with without_worker(settings) as half:
        yield half


async def test_a_delivery_that_is_lost_comes_back_and_arrives_once(half: Half) -> None:
    lost = await half.pending()
    await (await half.claim(TEXTS)).done()
    assert await half.parts.queue.depth(TEXTS, topics.DELIVER) in {0, 1}, "one of Kafka's is committed in a moment"
    await half.auditor.once()
    half.start_work()
    await half.audit_until(lambda: half.metric("tidings_swept_total", result="requeued") == 1)
    seen = await half.system.rested(lost)
    assert [entry["reason"] for entry in seen["timeline"] if entry["state"] == "deferred"] == ["swept"]
    fine = await half.system.send(to={"phone": NUMBER}, content=SMS)
    await half.system.rested(fine)
    for _ in range(3):
        await half.auditor.once()
    assert half.metric("tidings_swept_total", result="requeued") == 1
    assert len(await half.system.arrivals(channel="sms")) == 2
    await eventually(lambda: _counted(half, 2))
    whole = await half.account()
    assert (whole["accepted"], whole["recorded"], whole["missing"], whole["balanced"]) == (2, 2, 0, True)


async def test_a_slow_worker_keeps_what_it_holds(half: Half) -> None:
    held = await half.pending()
    claim = await half.claim(TEXTS)
    for _ in range(4):
        await half.auditor.once()
    assert half.metric("tidings_stuck", kind="backlog") == 1
    assert half.metric("tidings_swept_total", result="requeued") == 0
    half.start_work()
    await claim.release()
    await half.system.rested(held)
    await half.audit_until(lambda: half.metric("tidings_stuck", kind="backlog") == 0)
    assert half.metric("tidings_swept_total", result="requeued") == 0
    assert len(await half.system.arrivals(channel="sms")) == 1


async def test_a_request_that_is_lost_is_missing(half: Half) -> None:
    await half.system.send(to={"phone": NUMBER}, content=SMS)
    await (await half.claim(REQUESTS)).done()
    await eventually(lambda: _counted(half, 1))
    await half.auditor.once()
    half.start_work()
    await half.audit_until(lambda: half.metric("tidings_accounting_missing", tenant="shop") == 1)
    whole = await half.account()
    assert (whole["accepted"], whole["recorded"], whole["missing"], whole["balanced"]) == (1, 0, 1, False)


async def test_the_canary_goes_through_all_parts(system: System) -> None:
    async def arrived() -> bool:
        page = (await system.call("GET", "/metrics")).body.decode()
        return "tidings_canary_seconds_count 1.0" in page and "tidings_canary_failures_total 0.0" in page

    await eventually(arrived, 30)
    assert await system.arrivals() == [], "nobody sees it"


async def _counted(half: Half, count: int) -> bool:
    return bool((await half.account())["counted"] == count)
