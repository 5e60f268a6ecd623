"""Heavy templates delay only their own tenant; the worker's event loop stays free for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from support.flow import TENANT, Flow
from tidings.model import topics
from tidings.model.delivery import Delivery
from tidings.model.errors import TemplateError
from tidings.model.notification import SmsContent
from tidings.model.sending import RenderedContent
from tidings.model.vocabulary import Channel, Priority
from tidings.pipeline.deliver.rendering import BUDGET_MS
from tidings.pipeline.runtime.turns import SLICE_MS, Turns, in_turn
from tidings.policy.shares import ShareRules, Shares
from tidings.roles.worker import readings

TOPIC = topics.deliveries(Channel.SMS, Priority.NORMAL)


class Heavy:
    """A renderer that blocks the event loop for so many milliseconds per delivery."""

    def __init__(self, flow: Flow, cost: int) -> None:
        self._clock = flow.clock
        self.cost = cost
        self.rendered: list[str] = []
        self.without_pause = 0
        self.most_without_pause = 0

    async def render(
        self, batch: Sequence[Delivery], within_ms: float | None = None
    ) -> Sequence[RenderedContent | TemplateError]:
        began, results = self._clock.elapsed(), list[RenderedContent | TemplateError]()
        for delivery in batch:
            self._clock._now += self.cost
            self.without_pause += self.cost
            self.rendered.append(delivery.tenant)
            results.append(SmsContent("Hello"))
            if within_ms is not None and self._clock.elapsed() - began >= within_ms:
                break
        self.most_without_pause = max(self.most_without_pause, self.without_pause)
        asyncio.get_running_loop().call_soon(self._others_have_their_turn)
        return results

    def _others_have_their_turn(self) -> None:
        self.without_pause = 0


@pytest.fixture(params=[1, 20, 200])
def heavy(request: pytest.FixtureRequest, flow: Flow, monkeypatch: pytest.MonkeyPatch) -> Heavy:
    made = Heavy(flow, request.param)
    monkeypatch.setattr(flow.renderer, "render", made.render)
    flow.shares = Shares(ShareRules(per_second=0))
    flow.accept_stage = flow._accept({})
    return made


async def put(flow: Flow, count: int, tenant: str = TENANT) -> None:
    """Put so many deliveries into their queue."""
    for _ in range(count):
        body = b'{"to": {"phone": "+4915123456789"}, "content": {"sms": {"text": "Hello"}}}'
        await flow.accept_stage.accept(tenant, body)
    await flow.settle(only=topics.ROUTE)


def reader(flow: Flow) -> Any:
    parts = flow.parts()
    [reading] = [one for one in readings(parts) if one.topic == TOPIC]
    return flow._reader(reading, parts)


async def test_deliveries_beyond_the_rendering_budget_go_back_unbegun_and_are_sent_later(
    flow: Flow, heavy: Heavy
) -> None:
    await put(flow, 40)
    deliver, batches = reader(flow), 0
    while await deliver.once():
        batches += 1
        assert batches <= 40, "every batch renders something"
        rendered, heavy.rendered = len(heavy.rendered), []
        assert 1 <= rendered <= BUDGET_MS // heavy.cost + SLICE_MS + 1
    await flow.settle()
    assert len(flow.provider(Channel.SMS).sent) == 40, "and nothing is rendered or sent twice"


async def test_nobody_waits_for_more_than_a_slice_however_many_batches_render(flow: Flow, heavy: Heavy) -> None:
    await put(flow, 400)
    flow.provider(Channel.SMS).batch_size = 50
    deliver = reader(flow)
    await asyncio.gather(*(deliver.once() for _ in range(4)))
    assert heavy.most_without_pause <= SLICE_MS + heavy.cost


async def test_tenants_render_in_turn(flow: Flow, heavy: Heavy) -> None:
    """A tenant with heavy templates does not delay another in the same batch."""
    await put(flow, 60)
    await put(flow, 1, "bank")
    deliver = reader(flow)
    while "bank" not in heavy.rendered:
        assert await deliver.once()
    assert heavy.rendered.index("bank") == 1, "the second of all, though it is the last of the queue"


def test_in_turn_keeps_the_order_of_each() -> None:
    items = [("a", 1), ("a", 2), ("b", 1), ("a", 3), ("c", 1), ("b", 2)]
    turns = in_turn(items, lambda item: item[0])
    assert turns == [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("a", 3)]
    assert in_turn([], str) == []


class TestTurns:
    async def test_those_of_one_name_work_one_after_the_other_and_others_come_in_between(self, flow: Flow) -> None:
        turns, told = Turns(flow.clock), list[str]()

        async def work(name: str, steps: int) -> None:
            async with turns.of(name) as turn:
                for _ in range(steps):
                    told.append(name)
                    flow.clock._now += 2
                    await turn.pause()

        await asyncio.gather(work("a", 30), work("a", 30), work("b", 3))
        first_b = told.index("b")
        assert first_b <= SLICE_MS // 2 + 1, "b waits for a slice, not for all of a"
        assert len(told) == 63
        assert not turns._locks, "nobody is remembered"
