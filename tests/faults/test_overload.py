"""Under overload, bulk is refused, critical never, and every accepted notification is delivered."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from support import eventually
from support.system import Reply, System, running, settings_for
from tidings.api import vitals
from tidings.model.ids import DELIVERY_PREFIX, NOTIFICATION_PREFIX, from_text, notification_of, to_text
from tidings.model.vocabulary import Priority
from tidings.pipeline.accept import admission
from tidings.pipeline.accept import stage as accept
from tidings.pipeline.accept.admission import Commits

BACKLOG = 200
BATCH = 10
SENDERS = 6
"""Concurrent senders for each lane."""
CRITICAL_REQUESTS = 12
CONTENT = {"push": {"title": "Order", "body": "On its way"}}


class Crowd:
    """Sends on every lane without a pause until enough was refused, and keeps a ledger."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.accepted: set[str] = set()
        self.answers: Counter[tuple[Priority, int]] = Counter()
        self._number = 0

    async def come(self) -> None:
        """Send on all lanes until it is over."""
        async with asyncio.TaskGroup() as group:
            for lane in Priority:
                for _ in range(SENDERS):
                    group.create_task(self._send(lane))

    async def _send(self, lane: Priority) -> None:
        while not self._is_over(lane):
            reply = await self.offer(lane)
            if reply.status == 202:
                self.accepted.update(result["id"] for result in reply.json["results"])
                continue
            assert reply.status == 503, reply
            assert reply.json["code"] == "overloaded", reply
            assert int(reply.headers["retry-after"]) >= 1

    def _is_over(self, lane: Priority) -> bool:
        if lane is Priority.CRITICAL:
            return self.answers[lane, 202] + self.answers[lane, 503] >= CRITICAL_REQUESTS
        return all(self.answers[one, 503] >= 3 for one in (Priority.NORMAL, Priority.BULK))

    async def offer(self, lane: Priority) -> Reply:
        """One request of the lane; the answer."""
        self._number += BATCH
        items = [
            {"to": {"devices": [f"device-{number}"]}, "content": CONTENT, "priority": lane.value}
            for number in range(self._number, self._number + BATCH)
        ]
        reply = await self.system.call("POST", "/v1/notifications/batch", {"notifications": items})
        self.answers[lane, reply.status] += 1
        return reply


@pytest.mark.timeout(300)
async def test_bulk_is_turned_away_critical_never_and_what_was_accepted_is_delivered_once(
    tmp_path: Path, postgres_dsn: str, brokers: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LOOK_EVERY_S", 0.05)
    # This machine may be busy with other things, and this test is not about a silent store.
    monkeypatch.setattr(vitals, "ANSWER_WITHIN_S", 60.0)
    monkeypatch.setattr(accept, "Commits", partial(Commits, within_s=60.0))
    settings = settings_for(tmp_path, postgres_dsn, brokers, overload={"backlog": BACKLOG, "lag": 0.9})
    log = settings.data_dir / "sandbox" / "arrivals.jsonl"
    async with running(settings) as system:
        slow = {"vendor": "fcm", "kind": "latency", "seconds": 0.8}
        assert (await system.call("POST", f"{system.sandbox}/_sandbox/faults", slow)).status < 300
        crowd = Crowd(system)
        for lane in reversed(Priority):
            await _is_taken(crowd, lane)
        await crowd.come()
        assert crowd.answers[Priority.CRITICAL, 503] == 0, crowd.answers
        assert all(crowd.answers[lane, 503] for lane in (Priority.NORMAL, Priority.BULK))
        # Bulk is refused at half of the backlog limit, normal at the limit. Each sender may have one request under way.
        bound = 1.5 * BACKLOG + CRITICAL_REQUESTS * BATCH + len(Priority) * SENDERS * BATCH
        assert len(crowd.accepted) - _taken(log).total() <= bound, crowd.answers
        await system.call("DELETE", f"{system.sandbox}/_sandbox/faults")
        for lane in reversed(Priority):
            await eventually(partial(_is_taken, crowd, lane), 60, every=0.1)
        await eventually(lambda: _all_rest(system, len(crowd.accepted)), 120, every=0.5)
        assert _taken(log) == Counter(crowd.accepted)


async def _is_taken(crowd: Crowd, lane: Priority) -> bool:
    reply = await crowd.offer(lane)
    assert reply.status == 202, reply
    crowd.accepted.update(result["id"] for result in reply.json["results"])
    return True


async def _all_rest(system: System, accepted: int) -> bool:
    states: Counter[str] = Counter()
    reply = await system.call("GET", "/v1/accounting")
    assert reply.status == 200, reply
    for line in reply.json["tally"]:
        if line["channel"] is None:
            states[line["state"]] += line["count"]
    assert sum(states.values()) == accepted, states
    assert set(states) <= {"sent", "delivered"}, states
    return True


def _taken(log: Path) -> Counter[str]:
    """How often each notification arrived."""
    arrivals = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return Counter(
        to_text(NOTIFICATION_PREFIX, notification_of(from_text(DELIVERY_PREFIX, arrival["delivery"])))
        for arrival in arrivals
        if arrival["status"] != "refused"
    )
