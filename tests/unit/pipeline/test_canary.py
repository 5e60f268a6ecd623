"""The canary over the memory adapters, and rounds that repeat."""

from __future__ import annotations

import asyncio

import pytest

from support.flow import Flow
from support.queues import depth
from tidings.model import topics
from tidings.model.errors import Unavailable
from tidings.model.sending import Sent
from tidings.model.tenant import CANARY_TENANT
from tidings.model.vocabulary import Channel
from tidings.pipeline.rounds.canary import USER, Canary
from tidings.pipeline.rounds.rounds import repeat
from tidings.roles.worker import canary


def value(flow: Flow, name: str) -> float:
    return flow.metrics.value(name, {}) or 0.0


async def through(flow: Flow, bird: Canary, seconds: float = 1.0) -> bool:
    """One canary while all stages work."""
    flying = asyncio.create_task(bird.once())
    for _ in range(round(seconds * 10)):
        await flow.clock.settle()
        if flying.done():
            break
        await flow.advance(0.1)
    assert flying.done()
    return await flying


@pytest.fixture
def bird(flow: Flow) -> Canary:
    flow.provider(Channel.INAPP).answers = lambda _: Sent(delivered=True)
    return canary(flow.parts())


async def test_a_canary_arrives_and_leaves_nothing_behind(flow: Flow, bird: Canary) -> None:
    for number in range(1, 4):
        assert await through(flow, bird)
        assert value(flow, "tidings_canary_seconds_count") == number
        assert not await flow.store.inbox.list(CANARY_TENANT, USER, None, 10, archived=True, unread_only=False)
        await flow.advance(30)
    assert value(flow, "tidings_canary_failures_total") == 0
    assert value(flow, "tidings_canary_timestamp_seconds") > 0
    assert [tenant.id for tenant in await flow.store.tenants.list()] == [CANARY_TENANT]


async def test_a_canary_that_does_not_arrive_is_reported(flow: Flow, bird: Canary) -> None:
    flying = asyncio.create_task(bird.once())
    await flow.clock.advance(flow.settings.canary.deadline + 1)
    assert await flying
    assert value(flow, "tidings_canary_failures_total") == 1
    assert value(flow, "tidings_canary_seconds_count") == 0
    await flow.settle()
    assert await through(flow, bird), "the next one does"
    assert value(flow, "tidings_canary_seconds_count") == 1


async def test_a_canary_that_is_not_accepted_is_reported(flow: Flow, bird: Canary) -> None:
    flow.queue.crash()
    with pytest.raises(Unavailable):
        await bird.once()
    assert value(flow, "tidings_canary_failures_total") == 1


async def test_one_process_at_a_time(flow: Flow, bird: Canary) -> None:
    assert await through(flow, bird)
    assert not await canary(flow.parts()).once()


async def test_a_failed_round_is_reported_and_repeated(flow: Flow) -> None:
    stopping, made = asyncio.Event(), 0

    async def once() -> None:
        nonlocal made
        made += 1
        if made == 1:
            raise Unavailable("gone")
        if made == 2:
            raise RuntimeError("a mistake")

    running = asyncio.create_task(repeat("test", once, 30, stopping, flow.clock, flow.metrics))
    await flow.clock.advance(29)
    assert made == 1
    await flow.clock.advance(61)
    assert made == 4
    stopping.set()
    await running
    for kind in ("unavailable", "error"):
        assert flow.metrics.value("tidings_stage_failures_total", {"stage": "test", "topic": "", "kind": kind}) == 1


async def test_the_accounts_count_the_canary(flow: Flow, bird: Canary) -> None:
    await through(flow, bird)
    await flow.accepted.write()
    found = await flow.store.accounts.accepted(0, 2**40)
    assert [(one.tenant, one.count) for one in found] == [(CANARY_TENANT, 1)]
    assert await depth(flow.queue, topics.OUTCOMES, topics.RECORD) == 0
