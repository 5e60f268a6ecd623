"""Only a delivery whose call was begun may rest as `uncertain`: a copy that no provider is asked to send may not."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pytest

from support.flow import SMS, TENANT, Flow, Recorder
from tidings.backends.memory.queue import MemoryClaim
from tidings.model import topics
from tidings.model.sending import Retry
from tidings.model.user import Cap, Category, Preferences, QuietHours
from tidings.model.vocabulary import Channel, Excess, Priority, State
from tidings.pipeline.deliver.stage import RECORDED_WITHIN_S
from tidings.pipeline.runtime.reader import REPEATED
from tidings.ports.queue import Item

TOPIC = topics.deliveries(Channel.SMS, Priority.NORMAL)
CLAIMS_END = 60 + int(RECORDED_WITHIN_S) + 1


@pytest.fixture(params=["provider", "category"])
def harmless(request: pytest.FixtureRequest) -> str:
    """Why a repetition is harmless: the provider recognises it, or the category allows doubles."""
    return str(request.param)


async def prepare(flow: Flow, harmless: str, **category: Any) -> Recorder:
    """Create a user, a category `code` and a provider, so that a repetition is harmless."""
    provider = Recorder("sms-one", Channel.SMS, idempotent=harmless == "provider")
    flow.providers[Channel.SMS] = [provider]
    await flow.user(timezone="UTC")
    await flow.store.tenants.put_category(TENANT, Category("code", allow_doubles=harmless == "category", **category))
    return provider


async def copied(flow: Flow, **body: Any) -> Any:
    """A notification of which only a copy of its delivery is left, in its queue, marked as repeated."""
    id = await flow.accept(to={"user_id": "ada"}, content=SMS, category="code", **body)
    await flow.settle(only=topics.ROUTE)
    claim = await flow.queue.claim(TOPIC, topics.DELIVER, 10, 0)
    assert claim is not None
    [item] = claim.items
    await claim.done([Item(TOPIC, item.key, item.body, {REPEATED: "1"})])
    return id


async def states(flow: Flow, id: Any) -> list[State]:
    """All facts about the delivery."""
    record = await flow.store.history.get(TENANT, id)
    assert record is not None
    return [event.state for event in record.events if event.id != id]


async def outcome(flow: Flow, id: Any, seconds: int = CLAIMS_END) -> State:
    """The state in which the delivery rests. Asserts that it was never in doubt."""
    for _ in range(seconds):
        await flow.advance(1)
    found = await states(flow, id)
    assert State.UNCERTAIN not in found, found
    return (await flow.view(id)).deliveries[0].state


async def test_a_copy_that_a_cap_stops_is_suppressed(flow: Flow, harmless: str) -> None:
    provider = await prepare(flow, harmless, caps=(Cap(1, 3_600),))
    await flow.accept(to={"user_id": "ada"}, content=SMS, category="code")
    await flow.settle()
    id = await copied(flow)
    assert await outcome(flow, id) is State.SUPPRESSED
    assert len(provider.sent) == 1


async def test_a_copy_with_the_content_of_another_notification_is_suppressed(flow: Flow, harmless: str) -> None:
    provider = await prepare(flow, harmless, dedupe=3_600)
    await flow.accept(to={"user_id": "ada"}, content=SMS, category="code")
    await flow.settle()
    id = await copied(flow)
    assert await outcome(flow, id) is State.SUPPRESSED
    assert len(provider.sent) == 1


async def test_a_copy_that_a_cap_holds_can_be_cancelled(flow: Flow, harmless: str) -> None:
    provider = await prepare(flow, harmless, caps=(Cap(1, 300),), excess=Excess.HOLD)
    await flow.accept(to={"user_id": "ada"}, content=SMS, category="code")
    await flow.settle()
    id = await copied(flow)
    assert await outcome(flow, id, 2 * CLAIMS_END) is State.DEFERRED
    await flow.store.cancellations.cancel(TENANT, id, flow.clock.now())
    assert await outcome(flow, id) is State.CANCELLED
    assert len(provider.sent) == 1


async def test_a_copy_that_comes_in_quiet_hours_can_be_cancelled(flow: Flow, harmless: str) -> None:
    provider = await prepare(flow, harmless)
    id = await copied(flow)
    await flow.user("ada", Preferences(quiet_hours=QuietHours(0, 1_439)), timezone="UTC")
    assert await outcome(flow, id) is State.DEFERRED
    await flow.store.cancellations.cancel(TENANT, id, flow.clock.now())
    assert await outcome(flow, id) is State.CANCELLED
    assert provider.sent == []


async def test_a_copy_without_a_usable_provider_expires(flow: Flow, harmless: str) -> None:
    """The provider is unusable when the copy comes, and stays so."""
    provider = await prepare(flow, harmless)
    provider.answers = lambda _: Retry("unavailable")
    for _ in range(20):
        await flow.accept(to={"phone": "+4915123456780"}, content=SMS)
    await flow.settle()
    provider.answers = lambda _: Retry("unreachable")
    id = await copied(flow, expires_at=_in(flow, 600))
    assert await outcome(flow, id, 700) is State.EXPIRED


async def test_a_copy_that_no_provider_can_be_reached_for_expires(flow: Flow, harmless: str) -> None:
    """No call reaches the provider."""
    provider = await prepare(flow, harmless)
    provider.answers = lambda _: Retry("unreachable")
    id = await copied(flow, expires_at=_in(flow, 600))
    assert await outcome(flow, id, 700) is State.EXPIRED


async def test_a_copy_that_expires_right_before_its_call_expires(
    flow: Flow, harmless: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await prepare(flow, harmless)
    id = await copied(flow, expires_at=_in(flow, 5))
    begin = MemoryClaim.begin

    async def slow(self: MemoryClaim, places: Collection[int]) -> None:
        await begin(self, places)
        await flow.clock.advance(10)

    monkeypatch.setattr(MemoryClaim, "begin", slow)
    assert await outcome(flow, id) is State.EXPIRED
    assert provider.sent == []


async def test_a_begun_delivery_that_a_cap_stops_is_uncertain(flow: Flow) -> None:
    """The opposite: here a call may have been made."""
    provider = await prepare(flow, "provider", caps=(Cap(1, 3_600),))
    await flow.accept(to={"user_id": "ada"}, content=SMS, category="code")
    await flow.settle()
    id = await flow.accept(to={"user_id": "ada"}, content=SMS, category="code")
    await flow.settle(only=topics.ROUTE)
    claim = await flow.queue.claim(TOPIC, topics.DELIVER, 10, 0, lease_s=60)
    assert claim is not None
    await claim.begin([0])
    await flow.advance(CLAIMS_END)
    assert (await flow.view(id)).deliveries[0].state is State.UNCERTAIN
    assert len(provider.sent) == 1


def _in(flow: Flow, seconds: int) -> str:
    return datetime.fromtimestamp(flow.clock.now() / 1000 + seconds, UTC).isoformat()
