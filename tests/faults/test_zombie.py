"""A worker freezes for longer than its lease and wakes up as a zombie: its work was taken over meanwhile.

The results that it knows are true and are recorded, but it may not start anything more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from pyreqwest.client import ClientBuilder

from support import eventually
from support.nemesis import frozen
from support.system import Processes, System, settings_for, tenant_with_key
from tidings.config import Settings

LEASE = 5
TAKEN_OVER_WITHIN = 60
PUSH = {"to": {"user_id": "ada"}, "channels": ["push"], "content": {"push": {"title": "a", "body": "b"}}}


def patient(folder: Path, dsn: str, brokers: str | None) -> Settings:
    """Settings with a provider timeout much longer than the lease, so that the call outlives the lease."""
    settings = settings_for(folder, dsn, brokers, deliver={"lease": LEASE}, providers={"fcm": {"timeout": 100}})
    assert settings.deliver.lease < TAKEN_OVER_WITHIN < 100
    return settings


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[System, Processes]]:
    """A system with one worker, `first`, that has already sent a notification."""
    key = await tenant_with_key(str(settings.database.dsn))
    processes = Processes(settings)
    async with ClientBuilder().no_proxy().build() as http:
        system = System(settings, key, http)
        try:
            for role, name in (("sandbox", "sandbox"), ("api", "api"), ("worker", "first")):
                await processes.start(role, name)
            await system.user("ada", devices=["device-1"])
            await system.in_state(await system.send(**PUSH), "sent")
            yield system, processes
        finally:
            await processes.stop()


async def test_a_zombie_that_had_called_a_provider(tmp_path: Path, postgres_dsn: str, brokers: str | None) -> None:
    settings = patient(tmp_path, postgres_dsn, brokers)
    async with running(settings) as (system, processes):
        slow = {"vendor": "fcm", "kind": "latency", "seconds": 2, "count": 1}
        assert (await system.call("POST", f"{system.sandbox}/_sandbox/faults", slow)).status == 201
        id = await system.send(**PUSH)
        await eventually(lambda: _arrived(system, 2))
        with frozen([processes.pid("first")]):
            await processes.start("worker", "second")
            taken_over = await system.in_state(id, "uncertain", TAKEN_OVER_WITHIN)
            assert taken_over["reason"] == "may_have_been_sent"
            assert "a lease was lost" not in processes.log("first").read_text()
        seen = await system.in_state(id, "sent")
        if brokers is None:
            assert "a lease was lost" in processes.log("first").read_text()
        # Kafka drops a silent member before the lease ends. When the zombie wakes, its puts still succeed.
        [delivery] = seen["deliveries"]
        told = {entry["state"] for entry in seen["timeline"] if entry["delivery"] == delivery["id"]}
        assert told == {"pending", "sent", "uncertain"}
        assert len(await system.arrivals()) == 2
        await _works(system)


async def test_a_zombie_that_was_routing(tmp_path: Path, postgres_dsn: str, brokers: str | None) -> None:
    settings = patient(tmp_path, postgres_dsn, brokers)
    async with running(settings) as (system, processes):
        blocker = await asyncpg.connect(postgres_dsn)
        try:
            transaction = blocker.transaction()
            await transaction.start()
            # `route` waits for the answer to its query for the user.
            await blocker.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            id = await system.send(**PUSH)
            await eventually(lambda: _waits_for_a_lock(blocker), 30)
            with frozen([processes.pid("first")]):
                await transaction.rollback()
                await processes.start("worker", "second")
                if brokers is not None:
                    await system.in_state(id, "sent", TAKEN_OVER_WITHIN)
                # On PostgreSQL the items are in an open transaction until the zombie goes on or ends.
        finally:
            await blocker.close()
        seen = await system.in_state(id, "sent", TAKEN_OVER_WITHIN)
        if brokers is not None:
            await eventually(lambda: "a lease was lost" in processes.log("first").read_text(), 30)
        await _works(system)
        assert len(seen["deliveries"]) == 1
        assert [arrival["delivery"] for arrival in await system.arrivals()].count(seen["deliveries"][0]["id"]) == 1


async def _arrived(system: System, count: int) -> bool:
    return len(await system.arrivals()) == count


async def _waits_for_a_lock(connection: Any) -> bool:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass"
    return bool(await connection.fetchval(waiting))


async def _works(system: System) -> None:
    """Wait until all earlier items have passed: a new item of the same key comes last in its lane."""
    for _ in range(3):
        await system.in_state(await system.send(**PUSH), "sent", TAKEN_OVER_WITHIN)
