"""The schedule with real parts: local times, changes and recurrences, on PostgreSQL alone and with Kafka."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from support import eventually
from support.system import System

SMS = {"sms": {"text": "Hello"}}


def wall_clock(timezone: str, **later: int) -> str:
    """The local time in the timezone after `later`, to the second."""
    return (datetime.now(ZoneInfo(timezone)) + timedelta(**later)).strftime("%Y-%m-%dT%H:%M:%S")


async def test_a_local_time_is_in_the_users_timezone(system: System) -> None:
    island = "Australia/Lord_Howe"
    await system.user("ada", phone="+4915123456789", timezone=island)
    soon, tomorrow = wall_clock(island, seconds=3), wall_clock(island, days=1)
    first = await system.send(to={"user_id": "ada"}, content=SMS, send_at_local=soon)
    second = await system.send(to={"user_id": "ada"}, content=SMS, send_at_local=tomorrow)
    waiting = await system.in_state(second, "deferred")
    seen = await system.rested(first)
    for notification, local, at in (
        (waiting, tomorrow, waiting["next_at"]),
        (seen, soon, seen["deliveries"][0]["attempts"][0]["at"]),
    ):
        assert notification["send_at_local"] == local
        # A waiting delivery is due exactly then; a sent one went out then or, on a busy machine, later.
        due = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(island))
        assert datetime.fromisoformat(at) == due if notification is waiting else datetime.fromisoformat(at) >= due
    assert seen["state"] in {"sent", "delivered"}
    assert len(await system.arrivals(channel="sms")) == 1


async def test_a_waiting_notification_can_be_changed_until_it_is_sent(system: System) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    id = await system.send(to={"phone": "+4915123456789"}, content=SMS, send_at=later)
    await system.in_state(id, "deferred")
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    changed = await system.call("PATCH", f"/v1/notifications/{id}", {"send_at": soon, "metadata": {"a": 1}})
    assert changed.status == 200, changed.body
    assert (changed.json["reason"], changed.json["metadata"]) == ("changed", {"a": 1})
    seen = await system.rested(id)
    assert [entry["reason"] for entry in seen["timeline"]][:3] == ["accepted", "send_at", "changed"]
    assert (await system.call("PATCH", f"/v1/notifications/{id}", {"send_at": later})).status == 409
    assert len(await system.arrivals(channel="sms")) == 1


async def test_a_recurrence_is_sent_again_and_again_until_it_is_deleted(system: System) -> None:
    await system.user("ada", phone="+4915123456789", timezone="Europe/Berlin")
    start = datetime.now(ZoneInfo("Europe/Berlin")) - timedelta(minutes=5) + timedelta(seconds=2)
    body = {
        "rrule": "FREQ=MINUTELY",
        "start": start.strftime("%Y-%m-%dT%H:%M:%S"),
        "timezone": "user",
        "request": {"to": {"user_id": "ada"}, "content": SMS},
    }
    made = await system.call("POST", "/v1/recurrences", body)
    assert made.status == 201, made.body
    path = f"/v1/recurrences/{made.json['id']}"

    async def fired() -> Any:
        seen = (await system.call("GET", path)).json
        assert seen["last_fired_at"] == made.json["next"][0]["at"]
        return seen

    known = await eventually(fired, 30)
    assert known["next"] == [*made.json["next"][1:], known["next"][-1]]
    for sent in await eventually(lambda: _listed(system)):
        seen = await system.rested(sent["id"])
        assert seen["state"] in {"sent", "delivered"}
    assert (await system.call("DELETE", path)).status == 204
    assert len(await system.arrivals(channel="sms")) == 1


async def _listed(system: System) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await system.call("GET", "/v1/notifications?user_id=ada")).json["notifications"]
    assert len(found) == 1
    return found
