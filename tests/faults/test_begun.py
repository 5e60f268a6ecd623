"""A worker is killed during its calls: only deliveries that a vendor was asked to send are in doubt."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from pyreqwest.client import ClientBuilder

from support import eventually
from support.judge import everything
from support.system import RESTING, Processes, System, settings_for, tenant_with_key

COUNT = 600
CONCURRENCY = 20
LEASE = 8
KILLS = 2


@pytest.mark.timeout(400)
async def test_a_killed_worker_leaves_in_doubt_only_what_a_vendor_was_asked(
    tmp_path: Path, postgres_dsn: str, brokers: str | None
) -> None:
    providers = {"fcm": {"concurrency": CONCURRENCY}}
    settings = settings_for(tmp_path, postgres_dsn, brokers, deliver={"lease": LEASE}, providers=providers)
    key = await tenant_with_key(postgres_dsn)
    processes = Processes(settings)
    async with ClientBuilder().no_proxy().build() as http:
        system = System(settings, key, http)
        try:
            for role, name in (("sandbox", "sandbox"), ("api", "api"), ("worker", "worker-0")):
                await processes.start(role, name)
            fault = {"vendor": "fcm", "kind": "latency", "seconds": 0.3}
            assert (await system.call("POST", f"{system.sandbox}/_sandbox/faults", fault)).status == 201
            await _accept(system)
            for number in range(KILLS):
                so_far = len(await system.arrivals())
                await eventually(partial(_arrived, system, so_far + 2 * CONCURRENCY), 120, every=0.02)
                await processes.kill(f"worker-{number}")
                await processes.start("worker", f"worker-{number + 1}")
            await eventually(lambda: _rests(system), 200, every=1.0)
            await _judge(system)
        finally:
            await processes.stop()


async def _accept(system: System) -> None:
    content = {"push": {"title": "a", "body": "b"}}
    pushes = [{"to": {"devices": [f"device-{number}"]}, "content": content} for number in range(COUNT)]
    key = {"idempotency-key": "all-of-them"}

    async def taken() -> bool:
        reply = await system.call("POST", "/v1/notifications/batch", {"notifications": pushes}, headers=key)
        assert reply.status == 202, reply.body
        return True

    await eventually(taken, 60, every=0.5)  # on a busy machine the first answers may be 503


async def _arrived(system: System, least: int) -> bool:
    return len(await system.arrivals()) >= least


async def _rests(system: System) -> bool:
    seen = [one async for one in everything(system)]
    return len(seen) == COUNT and all(one["state"] in RESTING for one in seen)


async def _judge(system: System) -> None:
    """Compare every state with the sandbox's log."""
    arrived = Counter([arrival["delivery"] for arrival in await system.arrivals()])
    states = {delivery["id"]: delivery["state"] async for seen in everything(system) for delivery in seen["deliveries"]}
    assert len(states) == COUNT
    assert set(states.values()) <= {"sent", "delivered", "uncertain"}, Counter(states.values())
    assert not [id for id, count in arrived.items() if count > 1], "nothing is sent twice"
    assert not [id for id, state in states.items() if state != "uncertain" and not arrived[id]], "sent is sent"
    doubted = [id for id, state in states.items() if state == "uncertain"]
    # A delivery is begun before its call, so some begun ones may not have been sent: at most as many as parallel calls.
    assert len(doubted) <= KILLS * CONCURRENCY, Counter(states.values())
    assert doubted, "no call was under way at the kill: this test shows nothing"
