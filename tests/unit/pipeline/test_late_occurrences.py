"""Occurrences that are sent long after their id's minute: the audit and the sweep still find a lost one."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

import pytest

from support.flow import MAIL, TENANT, Flow
from support.people import ADA, put_user, reached
from tidings.model import topics
from tidings.model.vocabulary import Channel
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.rounds.audit import Audit
from tidings.roles.worker import audit
from tidings.services.recurrences import Recurrences

pytestmark = pytest.mark.usefixtures("users_are_looked_up")


class TestLateIds:
    async def late(self, flow: Flow) -> Audit:
        """An occurrence that is sent twenty minutes late, long after the audit has looked at its minute."""
        bits = random.Random(7).getrandbits
        desk = Recurrences(flow.store.recurrences, flow.store.users, Composer(flow.renderer, bits), flow.clock, bits)
        await put_user(flow, email="a@example.com")
        body = {"rrule": "FREQ=HOURLY;COUNT=1", "request": {"to": ADA, "content": MAIL}}
        due = datetime.fromtimestamp(flow.clock.now() / 1000 + 600, UTC)
        body |= {"start": due.strftime("%Y-%m-%dT%H:%M:%S"), "timezone": "UTC"}
        await desk.create(TENANT, json.dumps(body).encode())
        auditor = audit(flow.parts(), flow.clock)
        for _ in range(30):
            await flow.clock.advance(60)
            assert await auditor.once()
        await flow.accepted.write()
        return auditor

    async def gaps(self, flow: Flow, auditor: Audit) -> list[tuple[int, bool]]:
        for _ in range(12):
            await flow.clock.advance(60)
            await flow.accepted.write()
            assert await auditor.once()
        return [(gap.missing, gap.confirmed) for gap in await flow.store.accounts.gaps()]

    async def test_a_late_occurrence_that_is_lost_is_a_gap(self, flow: Flow) -> None:
        auditor = await self.late(flow)
        await flow.settle("recur")
        lane = flow.broker.lane("requests.normal", topics.ROUTE)
        assert len(lane.waiting) == 1
        lane.clear()
        assert await self.gaps(flow, auditor) == [(1, True)]

    async def test_a_late_occurrence_that_arrives_is_none(self, flow: Flow) -> None:
        auditor = await self.late(flow)
        await flow.settle()
        assert reached(flow, Channel.EMAIL) == ["a@example.com"]
        assert await self.gaps(flow, auditor) == []

    async def test_a_late_occurrence_that_is_lost_after_it_was_routed_is_swept(self, flow: Flow) -> None:
        auditor = await self.late(flow)
        await flow.settle(topics.ROUTE)
        await flow.settle(topics.RECORD)
        flow.broker.lane("deliveries.email.normal", topics.DELIVER).clear()
        await self.gaps(flow, auditor)
        await flow.settle()
        assert reached(flow, Channel.EMAIL) == ["a@example.com"]
