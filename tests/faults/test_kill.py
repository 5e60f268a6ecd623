"""`kill -9` of any process under 20,000 notifications: nothing accepted is lost, nothing silently doubled.

Three ledgers are compared: what the client was told (202 with an id), what the vendors' stand-in took (its own file,
written before it answers), and what the system says of each notification.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from support import eventually
from support_kafka import KafkaBroker
from support_parts import require
from support_system import RESTING, Processes, System, settings_for, tenant_with_key
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.server import Server

NOTIFICATIONS = int(os.environ.get("TIDINGS_FAULT_NOTIFICATIONS", "20000"))
BATCH = 200
ROLES = ("api", "worker", "sandbox")
LEASE = 6


class Client:
    """Sends batches and keeps the ledger: tries again, with the same idempotency key, until it is answered."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.ledger: dict[str, str] = {}
        self.progress = asyncio.Event()

    async def send_all(self, count: int) -> None:
        """Send `count` notifications, four batches at a time."""
        starts = iter(range(0, count, BATCH))

        async def worker() -> None:
            for start in starts:
                await self._send(start, min(BATCH, count - start))

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(worker())

    async def _send(self, start: int, count: int) -> None:
        people = [f"+4915{number:09d}"[:14] for number in range(start, start + count)]
        body = {"notifications": [{"to": {"devices": [f"device-{p}"]}, "content": CONTENT} for p in people]}
        headers = {"idempotency-key": f"batch-{start}"}

        async def answered() -> list[Any]:
            try:
                reply = await self.system.call("POST", "/v1/notifications/batch", body, headers=headers)
            except PyreqwestError as error:
                raise AssertionError(f"no answer: {error}") from error
            assert reply.status == 202, reply.body
            found: list[Any] = reply.json["results"]
            return found

        for result, person in zip(await eventually(answered, 120, every=0.2), people, strict=True):
            self.ledger[result["id"]] = person
        self.progress.set()

    async def reached(self, count: int) -> None:
        """Return when the ledger has `count` lines."""
        while len(self.ledger) < count:
            self.progress.clear()
            await self.progress.wait()


CONTENT = {"push": {"title": "Order", "body": "On its way"}}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    started = Server(tmp_path / "postgres")
    await asyncio.to_thread(started.start)
    try:
        yield started
    finally:
        await asyncio.to_thread(started.stop)


@pytest.fixture(params=["postgres", "kafka"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KafkaBroker | None]:
    """None: PostgreSQL is the queue. A broker of its own, since it is killed too."""
    if request.param == "postgres":
        yield None
        return
    require("kafka")
    folder = tmp_path / "kafka"
    folder.mkdir()
    started = KafkaBroker(folder)
    await asyncio.to_thread(started.start)
    try:
        yield started
    finally:
        await asyncio.to_thread(started.kill)


@pytest.mark.timeout(600)
async def test_nothing_is_lost_and_nothing_silently_doubled(
    tmp_path: Path, server: Server, broker: KafkaBroker | None
) -> None:
    await migrate(server.dsn)
    brokers = None if broker is None else broker.bootstrap
    settings = settings_for(tmp_path, server.dsn, brokers, deliver={"backoff_base": 0.5, "lease": LEASE})
    processes = Processes(settings)
    key = await tenant_with_key(server.dsn)
    dice = random.Random(7)
    async with ClientBuilder().no_proxy().build() as http:
        system = System(settings, key, http)
        client = Client(system)
        try:
            for role in ROLES:
                await processes.start(role)
            sending = asyncio.create_task(client.send_all(NOTIFICATIONS))
            victims = [*ROLES, "postgres", "worker", "api"] + (["kafka"] if broker is not None else [])
            dice.shuffle(victims)
            for number, victim in enumerate(victims, 1):
                await client.reached(NOTIFICATIONS * number // (len(victims) + 2))
                if victim == "postgres":
                    await _kill_postgres(server)
                elif victim == "kafka" and broker is not None:
                    await asyncio.to_thread(broker.kill)
                    await asyncio.to_thread(broker.start)
                else:
                    await processes.kill(victim, signal.SIGKILL)
                    await processes.start(victim)
            await sending
            await eventually(lambda: _all_rest(system, len(client.ledger)), 240, every=0.5)
            await _compare(system, client.ledger, settings.data_dir / "sandbox" / "arrivals.jsonl")
        finally:
            await processes.stop()


async def _kill_postgres(server: Server) -> None:
    """Kill the postmaster; its supervisor starts it again."""
    os.kill(server.pid, signal.SIGKILL)
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)


async def _all_rest(system: System, accepted: int) -> bool:
    tally = (await system.call("GET", "/v1/accounting")).json["tally"]
    whole: Counter[str] = Counter()
    for line in tally:
        if line["channel"] is None:
            whole[line["state"]] += line["count"]
    assert sum(whole.values()) == accepted, whole
    assert set(whole) <= RESTING, whole
    return True


async def _compare(system: System, ledger: dict[str, str], log: Path) -> None:
    taken: Counter[str] = Counter()
    for line in (await asyncio.to_thread(log.read_text)).splitlines():
        arrival = json.loads(line)
        if arrival["status"] != "refused":
            taken[arrival["delivery"]] += 1
    states: Counter[str] = Counter()
    async for seen in _everything(system):
        assert seen["id"] in ledger
        [delivery] = seen["deliveries"]
        states[delivery["state"]] += 1
        copies = taken[delivery["id"]]
        assert copies <= 1, f"doubled: {seen}"
        if delivery["state"] in {"sent", "delivered"}:
            assert copies == 1, f"said to be sent, never arrived: {seen}"
        else:
            assert delivery["state"] in {"uncertain", "dead"}, seen
    assert sum(states.values()) == len(ledger) == NOTIFICATIONS
    # A killed worker leaves at most the batches that it had under way in doubt.
    assert states["sent"] + states["delivered"] > NOTIFICATIONS * 0.5, states
    print(f"accepted {len(ledger)}, lost 0, doubled 0, {dict(states)}")  # noqa: T201


async def _everything(system: System) -> AsyncIterator[Any]:
    cursor = ""
    while True:
        page = (await system.call("GET", f"/v1/notifications?limit=200{cursor}")).json
        for seen in page["notifications"]:
            yield seen
        if page["next"] is None:
            return
        cursor = f"&cursor={page['next']}"
