"""SIGTERM under load, on both queues: nothing is lost, doubled or uncertain, or waits for a lease to end."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pyreqwest.client import ClientBuilder

from support import eventually
from support.system import RESTING, Processes, System, settings_for, tenant_with_key

NOTIFICATIONS = 3_000
BATCH = 250
LATENCY = 0.4
"""Seconds that the vendor takes to answer, so that at any time some calls are under way and many wait."""
LEASE = 120
RESTARTS = 4
ENDS_WITHIN = 15
"""Seconds. A call takes less than half a second, and the grace period is 20."""
CONTENT = {"push": {"title": "Order", "body": "On its way"}}


async def tally(system: System) -> Counter[str]:
    counted: Counter[str] = Counter()
    for line in (await system.call("GET", "/v1/accounting")).json["tally"]:
        if line["channel"] is None:
            counted[line["state"]] += line["count"]
    return counted


async def send_all(system: System) -> int:
    for start in range(0, NOTIFICATIONS, BATCH):
        body = [{"to": {"devices": [f"device-{at}"]}, "content": CONTENT} for at in range(start, start + BATCH)]
        reply = await system.call("POST", "/v1/notifications/batch", {"notifications": body})
        assert reply.status == 202, reply.body
    return NOTIFICATIONS


def taken(log: Path) -> Counter[str]:
    """How often the vendor took each delivery."""
    if not log.exists():
        return Counter()
    arrivals = [json.loads(line) for line in log.read_text().splitlines()]
    return Counter(arrival["delivery"] for arrival in arrivals if arrival["status"] != "refused")


async def reached(log: Path, count: int) -> None:
    await eventually(lambda: len(taken(log)) >= count, 60, every=0.05)


@pytest.mark.timeout(300)
async def test_a_busy_worker_is_stopped_and_started_again(
    tmp_path: Path, postgres_dsn: str, brokers: str | None
) -> None:
    settings = settings_for(tmp_path, postgres_dsn, brokers, deliver={"lease": LEASE}, stop={"drain": 0})
    log = tmp_path / "sandbox" / "arrivals.jsonl"
    processes = Processes(settings)
    key = await tenant_with_key(postgres_dsn)
    async with ClientBuilder().no_proxy().build() as http:
        system = System(settings, key, http)
        try:
            for role in ("sandbox", "api", "worker"):
                await processes.start(role)
            fault: dict[str, Any] = {"vendor": "fcm", "kind": "latency", "seconds": LATENCY}
            reply = await system.call("POST", f"{system.sandbox}/_sandbox/faults", fault)
            assert reply.status < 300, reply.body
            accepted = await send_all(system)
            took = []
            for number in range(1, RESTARTS + 1):
                goal = accepted * number // (RESTARTS + 2)
                await reached(log, goal)
                asked = time.monotonic()
                assert await processes.kill("worker", signal.SIGTERM) == 0
                took.append(time.monotonic() - asked)
                assert len(taken(log)) < accepted, "the worker was not busy: this test shows nothing"
                await processes.start("worker")
            assert max(took) < ENDS_WITHIN, took
            await system.call("DELETE", f"{system.sandbox}/_sandbox/faults")

            async def all_rest() -> Counter[str]:
                counted = await tally(system)
                assert sum(counted.values()) == accepted, counted
                assert set(counted) <= RESTING, counted
                return counted

            # Before any lease ends.
            counted = await eventually(all_rest, LEASE / 2, every=0.2)
            assert set(counted) <= {"sent", "delivered"}, counted
            copies = taken(log)
            assert len(copies) == accepted
            assert set(copies.values()) == {1}
            print(f"seconds from SIGTERM to the end of a busy worker: {[round(one, 2) for one in took]}")  # noqa: T201
        finally:
            await processes.stop()
