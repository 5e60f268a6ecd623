"""A provider fails under load: traffic shifts within seconds, comes back in steps, and the accounts close."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from support import eventually, ticks
from support.system import RESTING, System, running, settings_for

SHIFTS_WITHIN = 5.0
"""Seconds from the failure of a provider until (nearly) nothing is sent to it any more."""
A_SECOND = 100
MAIL = {"email": {"subject": "Order 7", "text": "On its way"}}
DEATHS: list[dict[str, Any]] = [
    {"kind": "reset"},
    {"kind": "status", "status": 503},
    {"kind": "status", "status": 401},
    {"kind": "hang", "seconds": 60},
    {"kind": "latency", "seconds": 4},
]


class Traffic:
    """A steady load that notes when each notification was accepted."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.accepted: dict[str, float] = {}
        self.now = 0.0
        self._stopping = False

    async def run(self) -> None:
        """Send until `stop`."""
        number = 0
        async with aclosing(ticks(0.1)) as beats:
            async for self.now in beats:
                if self._stopping:
                    return
                batch = [
                    {"to": {"email": f"u{number + at}@example.com"}, "content": MAIL} for at in range(A_SECOND // 10)
                ]
                number += len(batch)
                reply = await self.system.call("POST", "/v1/notifications/batch", {"notifications": batch})
                self.accepted |= {result["id"]: self.now for result in reply.json["results"]}

    def stop(self) -> None:
        self._stopping = True

    async def until(self, instant: float) -> None:
        await eventually(lambda: self.now >= instant, 60, every=0.1)

    async def attempts(self, since: float, until: float) -> Counter[str]:
        """The providers that were asked to send the notifications accepted in this span."""
        wanted = {id for id, at in self.accepted.items() if since <= at < until}
        found: Counter[str] = Counter()
        cursor = ""
        while wanted:
            page = (await self.system.call("GET", f"/v1/notifications?limit=200{cursor}")).json
            for seen in page["notifications"]:
                if seen["id"] in wanted:
                    wanted.remove(seen["id"])
                    found.update(attempt["provider"] for d in seen["deliveries"] for attempt in d["attempts"])
            cursor = f"&cursor={page['next']}"
            assert page["next"] or not wanted, f"{len(wanted)} are not recorded yet"
        return found


@pytest.fixture
async def system(tmp_path: Path, postgres_dsn: str) -> AsyncIterator[System]:
    settings = settings_for(tmp_path, postgres_dsn, None, channels={"email": {"sendgrid": 80, "smtp": 20}})
    async with running(settings) as started:
        yield started


@pytest.mark.timeout(180)
@pytest.mark.parametrize("death", DEATHS, ids=lambda death: f"{death['kind']}{death.get('status', '')}")
async def test_traffic_shifts_from_a_dead_provider_and_comes_back(system: System, death: dict[str, Any]) -> None:
    traffic = Traffic(system)
    async with asyncio.TaskGroup() as group:
        group.create_task(traffic.run())
        await traffic.until(2)
        reply = await system.call("POST", f"{system.sandbox}/_sandbox/faults", {"vendor": "sendgrid"} | death)
        assert reply.status < 300, reply.body
        died = traffic.now
        await traffic.until(died + SHIFTS_WITHIN + 4)
        await system.call("DELETE", f"{system.sandbox}/_sandbox/faults")
        well = traffic.now

        async def is_back() -> Any:
            asked = await traffic.attempts(traffic.now - 1.5, traffic.now - 0.5)
            assert asked["sendgrid"] > asked["smtp"], asked
            return True

        await eventually(is_back, 60, every=1)
        traffic.stop()
    before = await traffic.attempts(0, died - 0.5)
    assert before["sendgrid"] > 2 * before["smtp"] > 0, before
    after = await traffic.attempts(died + SHIFTS_WITHIN, well - 0.5)
    assert after["smtp"] >= 0.99 * sum(after.values()), after
    states = await eventually(lambda: _all_rest(system, len(traffic.accepted)), 60, every=0.5)
    # Deliveries that the provider took without answering are uncertain, and are never tried elsewhere.
    assert set(states) <= {"sent", "delivered", "uncertain"}, states
    assert states["sent"] + states["delivered"] > 0.8 * len(traffic.accepted), states


async def _all_rest(system: System, accepted: int) -> Any:
    tally = (await system.call("GET", "/v1/accounting")).json["tally"]
    states: Counter[str] = Counter()
    for line in tally:
        if line["channel"] is None:
            states[line["state"]] += line["count"]
    assert sum(states.values()) == accepted, states
    assert set(states) <= RESTING, states
    return states
