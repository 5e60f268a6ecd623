"""One tenant's flood never delays another tenant's single notification."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from support.flow import SMS, TENANT, Flow, is_surplus, takes_it
from support.queues import depth
from tidings.model import topics
from tidings.model.errors import Overloaded
from tidings.model.sending import Retry
from tidings.model.user import Preferences, Profile
from tidings.model.vocabulary import Channel, Lane, Priority, State
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.runtime.reader import REPEATED
from tidings.pipeline.runtime.sharing import shared_out
from tidings.policy.shares import ShareRules, Shares
from tidings.ports.queue import Item
from tidings.report.notifications import Reports
from tidings.services.recurrences import Recurrences

OTHER = "bank"
BURST = ShareRules().burst


async def flood(flow: Flow, count: int = 1_000, tenant: str = TENANT, **fields: Any) -> None:
    """Accept so many notifications of a tenant in one request."""
    one = {"to": {"phone": "+4915123456789"}, "content": SMS, **fields}
    answer = await flow.accept_stage.accept_batch(tenant, json.dumps({"notifications": [one] * count}).encode())
    assert len(answer.results) == count


async def single(flow: Flow, **fields: Any) -> Any:
    """Accept one notification of the other tenant."""
    body = {"to": {"phone": "+4915199999999"}, "content": SMS, **fields}
    return (await flow.accept_stage.accept(OTHER, json.dumps(body).encode())).results[0]


async def depths(flow: Flow) -> dict[str, int]:
    """The depths of the queues that are not empty, without `outcomes`."""
    found = {topic: await depth(flow.queue, topic, topics.reader_of(topic)) for topic in topics.LANES}
    return {topic: depth for topic, depth in found.items() if depth}


async def behind(flow: Flow, id: Any) -> int:
    """How many items still wait once workers that ignore the surplus have sent the notification."""
    await flow.settle(besides_surplus=True)
    view = await Reports(flow.store.history, flow.store.days, flow.store.schedule, flow.clock).get(OTHER, id)
    assert view.state is State.SENT
    return sum((await depths(flow)).values())


@pytest.mark.parametrize("priority", list(Priority))
async def test_a_single_notification_passes_a_flood_in_its_lane(flow: Flow, priority: Priority) -> None:
    await flood(flow, priority=priority)
    id = await single(flow, priority=priority)
    assert await behind(flow, id) == 1_000 - BURST
    await flow.settle()
    assert not await depths(flow)
    assert len(flow.provider(Channel.SMS).sent) == 1_001


async def test_many_single_requests_count_as_a_flood(flow: Flow) -> None:
    for _ in range(BURST + 50):
        await flow.accept(to={"phone": "+4915123456789"}, content=SMS)
    assert await behind(flow, await single(flow)) == 50


async def test_notifications_that_fall_due_together_count_as_a_flood(flow: Flow) -> None:
    at = flow.clock.now() // 1000 + 3_600
    for _ in range(10):
        await flood(flow, 100, send_at=_rfc3339(at))
        await flow.advance(60)
    assert not await depths(flow)
    id = await single(flow, send_at=_rfc3339(at))
    await flow.settle()
    await flow.clock.advance(at - flow.clock.now() / 1000)
    assert await behind(flow, id) == 1_000 - BURST


async def test_retries_that_fall_due_together_count_as_a_flood(flow: Flow) -> None:
    """Retries come back together after an outage."""
    provider = flow.provider(Channel.SMS)
    provider.answers = lambda _: Retry("mailbox_busy")
    await flood(flow)
    await flow.settle()
    assert len(provider.sent) == 1_000
    provider.answers = takes_it
    await flow.clock.advance(10)
    assert await behind(flow, await single(flow)) >= 1_000 - 2 * BURST


async def test_recurrences_that_fall_due_together_count_as_a_flood(flow: Flow) -> None:
    bits = flow._random_bits
    recurrences = Recurrences(flow.store.recurrences, flow.store.users, Composer(flow.renderer, bits), flow.clock, bits)
    await flow.store.users.upsert(TENANT, [("ada", Profile(phone="+4915123456789"), Preferences())], flow.clock.now())
    body = {
        "rrule": "FREQ=DAILY",
        "start": _rfc3339(flow.clock.now() // 1000 + 3_600)[:16],
        "timezone": "UTC",
        "request": {"to": {"user_id": "ada"}, "content": SMS},
    }
    for _ in range(BURST + 100):
        await recurrences.create(TENANT, json.dumps(body).encode())
    due = await flow.store.recurrences.next_due()
    assert due is not None
    await flow.clock.advance((due - flow.clock.now()) / 1000)
    assert await behind(flow, await single(flow)) == 100


async def test_a_tenant_within_its_share_does_not_fill_a_vendor_that_takes_less(flow: Flow) -> None:
    flow.provider(Channel.SMS).rate = 10
    await flood(flow, BURST)
    await flow.settle(only=topics.ROUTE)
    assert await depths(flow) == {"deliveries.sms.normal": 5, "deliveries.sms.normal.surplus": BURST - 5}
    await single(flow)
    await flow.settle(only=topics.ROUTE)
    assert (await depths(flow))["deliveries.sms.normal"] == 6
    await flow.accept(to={"email": "ada@example.com"}, content=MAIL)
    await flow.settle(only=topics.ROUTE)
    assert "deliveries.email.normal.surplus" in await depths(flow), "that one exceeds the share of the lane"


async def test_surplus_stays_surplus_through_all_stages(flow: Flow) -> None:
    flow.spend_share()
    await flow.accept(to={"phone": "+4915123456789", "email": "ada@example.com"}, content={**SMS, **MAIL})
    assert set(await depths(flow)) == {"requests.normal.surplus"}
    await flow.settle(only=topics.ROUTE)
    assert set(await depths(flow)) == {"deliveries.sms.normal.surplus", "deliveries.email.normal.surplus"}


MAIL = {"email": {"subject": "Hello", "text": "Hello"}}


async def test_a_wait_gets_a_share_when_it_is_over(flow: Flow) -> None:
    flow.spend_share()
    await flow.accept(to={"phone": "+4915123456789"}, content=SMS, send_at=_rfc3339(flow.clock.now() // 1000 + 60))
    await flow.settle()
    await flow.clock.advance(60)
    await flow.settle(besides_surplus=True)
    assert len(flow.provider(Channel.SMS).sent) == 1


class TestAdmission:
    """The backlog of surplus is full."""

    async def full(self, flow: Flow) -> None:
        backlog = flow.settings.overload.backlog
        await flow.queue.put([Item("requests.normal.surplus", "shop/x", b"")] * (backlog + 1))
        await flow.accept_stage._admission._look()

    async def test_who_is_within_its_share_is_let_in(self, flow: Flow) -> None:
        await self.full(flow)
        flow.spend_share()
        with pytest.raises(Overloaded, match="exceeds the tenant's share"):
            await flow.accept(to={"phone": "+4915123456789"}, content=SMS)
        with pytest.raises(Overloaded, match="exceeds the tenant's share"):
            await flood(flow)
        await flow.accept("a-key", to={"phone": "+4915123456789"}, content=SMS, priority="critical")
        id = await single(flow)
        await flow.settle(besides_surplus=True)
        assert await flow.store.history.get(OTHER, id) is not None

    async def test_a_batch_that_exceeds_the_share_is_let_in_whole_and_owed(self, flow: Flow) -> None:
        await self.full(flow)
        await flood(flow, 1_000)
        assert (await depths(flow))["requests.normal"] == BURST
        with pytest.raises(Overloaded):
            await flood(flow, 1)
        await flow.clock.advance(5)
        with pytest.raises(Overloaded):
            await flood(flow, 1)
        await flow.clock.advance(5)
        await flood(flow, 1)

    async def test_what_is_refused_costs_nothing_of_the_share(self, flow: Flow) -> None:
        await self.full(flow)
        flow.spend_share()
        await flow.clock.advance(0.5)
        for _ in range(20):
            with pytest.raises(Overloaded):
                await flood(flow, 100)
        await flood(flow, 50)


class TestSharedOut:
    def items(self, *kinds: tuple[str, str]) -> list[Item]:
        return [Item(topic, key, b"%d" % number) for number, (topic, key) in enumerate(kinds)]

    def topics_of(self, items: Sequence[Item], burst: int = 1) -> list[str]:
        return [one.topic for one in shared_out(items, Shares(ShareRules(per_second=1, burst=burst)), 0)]

    def test_each_tenant_and_lane_has_its_own_share_and_the_first_are_within_it(self) -> None:
        sms, mail = topics.deliveries(Channel.SMS, Lane.NORMAL), topics.deliveries(Channel.EMAIL, Lane.NORMAL)
        bulk = topics.requests(Lane.BULK)
        items = self.items((sms, "a/1"), (mail, "a/2"), (bulk, "a/3"), (sms, "b/1"), (bulk, "a/4"))
        assert self.topics_of(items) == [sms, mail + ".surplus", bulk, sms, bulk + ".surplus"]

    def test_what_has_a_place_already_keeps_it(self) -> None:
        surplus = topics.requests(Lane.CRITICAL_SURPLUS)
        items = self.items((topics.OUTCOMES, "a"), (surplus, "a/1"), (topics.requests(Lane.CRITICAL), "a/1"))
        assert self.topics_of(items) == [one.topic for one in items], "and takes nothing of the share"

    def test_a_copy_goes_with_the_surplus_and_takes_nothing_of_the_share(self) -> None:
        normal = topics.requests(Lane.NORMAL)
        copy, fresh = Item(normal, "a/1", b"", {REPEATED: "1"}), Item(normal, "a/1", b"")
        assert self.topics_of([copy, fresh]) == [normal + ".surplus", normal]

    def test_the_tenant_ends_at_the_first_slash_of_the_key(self) -> None:
        normal = topics.requests(Lane.NORMAL)
        items = self.items((normal, "a/x/1"), (normal, "a/y/1"), (normal, "b/x/1"))
        assert self.topics_of(items) == [normal, normal + ".surplus", normal]

    def test_without_shares_nothing_moves(self) -> None:
        normal = topics.requests(Lane.NORMAL)
        items = [Item(normal, "a/1", b"", {REPEATED: "1"}), *[Item(normal, "a/1", b"")] * 1_000]
        placed = shared_out(items, Shares(ShareRules(per_second=0)), 0)
        assert Counter(is_surplus(one.topic) for one in placed) == {False: 1_001}


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
