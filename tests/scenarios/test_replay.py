"""A vendor is down, deliveries become dead letters, the vendor is back, and a person replays them: on both queues."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from support import eventually
from support.system import System, running, settings_for

SMS = {"sms": {"text": "Hello"}}
COUNT = 12
RATE = 4


@pytest.fixture
async def system(tmp_path: Path, postgres_dsn: str, brokers: str | None) -> AsyncIterator[System]:
    """A system that waits three seconds for a provider that is out. Its breaker never opens."""
    more = {"deliver": {"backoff_base": 0.2, "outage_hold_s": 3}, "breaker": {"least": 10_000}}
    async with running(settings_for(tmp_path, postgres_dsn, brokers, **more)) as started:
        yield started


async def test_what_died_in_an_outage_is_sent_again_once_and_at_the_rate(system: System) -> None:
    fault = {"vendor": "twilio", "kind": "status", "status": 503}
    reply = await system.call("POST", f"{system.sandbox}/_sandbox/faults", fault)
    assert reply.status in {200, 201}, reply.body
    ids = [await system.send(to={"phone": f"+49151234567{place:02}"}, content=SMS) for place in range(COUNT)]
    for id in ids:
        await system.in_state(id, "dead")
    assert await _taken(system) == []
    listed = (await system.call("GET", "/v1/dead-letters?channel=sms&limit=100")).json["dead_letters"]
    assert {letter["notification_id"] for letter in listed} == set(ids)
    assert {letter["reason"] for letter in listed} == {"provider_failing"}
    assert all(letter["replayable"] for letter in listed)

    ended = await system.call("DELETE", f"{system.sandbox}/_sandbox/faults")
    assert ended.status in {200, 204}, ended.body
    # Replay one letter twice, then all of them: each must be sent once.
    for _ in range(2):
        assert (await system.call("POST", f"/v1/dead-letters/{listed[0]['id']}/replay")).status == 202
    asked = (await system.call("POST", "/v1/replays", {"filter": {"channel": "sms"}, "per_second": RATE})).json
    began = datetime.fromisoformat(asked["created_at"]).timestamp() * 1000

    async def finished() -> Any:
        replay = (await system.call("GET", f"/v1/replays/{asked['id']}")).json
        assert replay["state"] == "finished", replay
        return replay

    done = await eventually(finished, timeout=30)
    assert done["replayed"] in {COUNT - 1, COUNT}
    assert done["skipped"] == {}
    for id in ids:
        seen = await system.in_state(id, "delivered")
        attempts = seen["deliveries"][0]["attempts"]
        assert [attempt["number"] for attempt in attempts] == list(range(1, len(attempts) + 1))
        *deferred, dead, delivered = [attempt["state"] for attempt in attempts]
        assert (set(deferred) <= {"deferred"}, dead, delivered) == (True, "dead", "delivered")
        assert sum(entry["reason"] == "replayed" for entry in seen["timeline"]) == 1
    arrived = await _taken(system)
    assert sorted(arrival["to"] for arrival in arrived) == [f"+49151234567{place:02}" for place in range(COUNT)]
    # The replay keeps its rate.
    assert max(arrival["at"] for arrival in arrived) >= began + (COUNT - 2) * 1000 / RATE
    assert (await system.call("GET", "/v1/dead-letters")).json["dead_letters"] == []
    tallied = {
        (row["channel"], row["state"]): row["count"]
        for row in (await system.call("GET", "/v1/accounting")).json["tally"]
    }
    assert tallied == {("sms", "delivered"): COUNT, (None, "delivered"): COUNT}


async def _taken(system: System) -> list[dict[str, Any]]:
    """The arrivals that the sandbox took; it lists those that it refused as well."""
    return [arrival for arrival in await system.arrivals() if arrival["status"] != "refused"]
