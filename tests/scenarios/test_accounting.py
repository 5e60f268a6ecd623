"""Items lost from real queues: the audit finds them, lost deliveries arrive once, and the accounts add up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pyreqwest.client import ClientBuilder

from support import eventually
from support.queues import depth
from support.system import System, settings_for, tenant_with_key
from tidings.backends.memory.clock import SystemClock
from tidings.config import Settings
from tidings.model import topics
from tidings.model.vocabulary import Channel, Priority
from tidings.parts import Parts, open_parts
from tidings.pipeline.rounds.audit import Audit
from tidings.pipeline.runtime.reader import Reader
from tidings.ports.queue import Claim
from tidings.roles.api import serve_api
from tidings.roles.sandbox import sandbox
from tidings.roles.worker import audit, readings, work

SMS = {"sms": {"text": "Hello"}}
NUMBER = "+4915123456789"
REQUESTS = topics.requests(Priority.NORMAL)
TEXTS = topics.deliveries(Channel.SMS, Priority.NORMAL)


class Ahead(SystemClock):
    """Three minutes ahead of the machine's time, so that the audit looks at notifications sent just now."""

    def now(self) -> int:
        return super().now() + 180_000


class Workerless:
    """A system without a worker. The test does the worker's work until `start_work`."""

    def __init__(self, system: System, parts: Parts, group: asyncio.TaskGroup, stopping: asyncio.Event) -> None:
        self.system = system
        self.parts = parts
        self.auditor: Audit = audit(parts, Ahead())
        self._group = group
        self._stopping = stopping

    async def claim(self, topic: str) -> Claim:
        """Claim the items of a queue. `done` without outputs loses them."""
        queue = self.parts.queue
        claim: Claim = await eventually(lambda: queue.claim(topic, topics.reader_of(topic), 100, 5.0, 600.0), 60)
        return claim

    async def pending(self) -> str:
        """The id of a new notification that is routed and recorded, and whose delivery is in its queue."""
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
        """Start the worker. Only the test's audit runs: it holds the lease of the rounds."""
        self._group.create_task(work(self.parts, self._stopping))

    def metric(self, name: str, **labels: str) -> float:
        return self.parts.metrics.value(name, labels) or 0.0

    async def audit_until(self, is_done: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
        """Repeat the audit until `is_done`: each round gets as far as the queue has committed."""

        async def once() -> Any:
            assert await self.auditor.once()
            result = is_done()
            return result if isinstance(result, bool) else await result

        await eventually(once, 60, every=0.5)

    async def account(self) -> Any:
        reply = await self.system.call("GET", "/v1/accounting")
        assert reply.status == 200, reply.body
        return reply.json["notifications"]


@asynccontextmanager
async def without_worker(settings: Settings) -> AsyncIterator[Workerless]:
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
            yield Workerless(System(settings, key, client), parts, group, stopping)
        finally:
            stopping.set()


@pytest.fixture
async def workerless(tmp_path: Path, postgres_dsn: str, brokers: str | None) -> AsyncIterator[Workerless]:
    settings = settings_for(tmp_path, postgres_dsn, brokers, audit={"interval": 3600}, canary={"enabled": False})
    async with without_worker(settings) as workerless:
        yield workerless


async def test_a_lost_delivery_is_swept_and_arrives_once(workerless: Workerless) -> None:
    lost = await workerless.pending()
    await (await workerless.claim(TEXTS)).done()
    assert await depth(workerless.parts.queue, TEXTS, topics.DELIVER) in {0, 1}, (
        "Kafka may commit the last item a moment later"
    )
    await workerless.auditor.once()
    workerless.start_work()
    await workerless.audit_until(lambda: workerless.metric("tidings_swept_total", result="requeued") == 1)
    seen = await workerless.system.rested(lost)
    assert [entry["reason"] for entry in seen["timeline"] if entry["state"] == "deferred"] == ["swept"]
    fine = await workerless.system.send(to={"phone": NUMBER}, content=SMS)
    await workerless.system.rested(fine)
    for _ in range(3):
        await workerless.auditor.once()
    assert workerless.metric("tidings_swept_total", result="requeued") == 1
    assert len(await workerless.system.arrivals(channel="sms")) == 2
    await eventually(lambda: _counted(workerless, 2))
    accounts = await workerless.account()
    assert (accounts["accepted"], accounts["recorded"], accounts["missing"], accounts["balanced"]) == (2, 2, 0, True)


async def test_a_slow_worker_keeps_its_claim(workerless: Workerless) -> None:
    held = await workerless.pending()
    claim = await workerless.claim(TEXTS)
    for _ in range(4):
        await workerless.auditor.once()
    assert workerless.metric("tidings_stuck", kind="backlog") == 1
    assert workerless.metric("tidings_swept_total", result="requeued") == 0
    workerless.start_work()
    await claim.release()
    await workerless.system.rested(held)
    await workerless.audit_until(lambda: workerless.metric("tidings_stuck", kind="backlog") == 0)
    assert workerless.metric("tidings_swept_total", result="requeued") == 0
    assert len(await workerless.system.arrivals(channel="sms")) == 1


async def test_a_lost_request_is_missing_in_the_accounts(workerless: Workerless) -> None:
    await workerless.system.send(to={"phone": NUMBER}, content=SMS)
    await (await workerless.claim(REQUESTS)).done()
    await eventually(lambda: _counted(workerless, 1))
    await workerless.auditor.once()
    workerless.start_work()
    await workerless.audit_until(lambda: workerless.metric("tidings_accounting_missing", tenant="shop") == 1)
    accounts = await workerless.account()
    assert (accounts["accepted"], accounts["recorded"], accounts["missing"], accounts["balanced"]) == (1, 0, 1, False)


async def test_the_canary_goes_through_all_parts(system: System) -> None:
    async def arrived() -> bool:
        page = (await system.call("GET", "/metrics")).body.decode()
        return "tidings_canary_seconds_count 1.0" in page and "tidings_canary_failures_total 0.0" in page

    await eventually(arrived, 30)
    assert await system.arrivals() == [], "the canary must not reach a vendor"


async def _counted(workerless: Workerless, count: int) -> bool:
    return bool((await workerless.account())["counted"] == count)
