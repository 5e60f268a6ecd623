"""All stages over the memory adapters: killed processes, copies, repeated requests and unreadable items."""

from __future__ import annotations

from typing import Any

import pytest

from support.flow import MAIL, Flow, abandon
from tidings.model import topics
from tidings.model.errors import Conflict
from tidings.model.vocabulary import Channel, Priority, State
from tidings.ports.queue import Item

TOPIC = topics.deliveries(Channel.EMAIL, Priority.NORMAL)


async def test_a_delivery_that_a_killed_worker_had_claimed_but_not_begun_is_sent(flow: Flow) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle(only=topics.ROUTE)
    assert await flow.queue.claim(TOPIC, topics.DELIVER, 10, 0, lease_s=60) is not None
    await flow.advance(61)
    assert (await flow.view(id)).state is State.SENT
    assert len(flow.provider(Channel.EMAIL).sent) == 1


async def test_a_delivery_that_a_killed_worker_had_begun_is_uncertain_and_never_doubled(flow: Flow) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle(only=topics.ROUTE)
    claim = await flow.queue.claim(TOPIC, topics.DELIVER, 10, 0, lease_s=60)
    assert claim is not None
    await claim.begin([0])
    await flow.advance(61)
    seen = await flow.view(id)
    assert (seen.state, seen.reason) == (State.UNCERTAIN, "may_have_been_sent")
    assert not flow.provider(Channel.EMAIL).sent


async def test_a_second_copy_of_an_attempt_is_dropped(flow: Flow) -> None:
    await flow.user()
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle(only=topics.ROUTE)
    claim = await flow.queue.claim(TOPIC, topics.DELIVER, 10, 0)
    assert claim is not None
    body = claim.items[0].body
    await claim.release()
    await flow.queue.put([Item(TOPIC, "shop/ada", body, {"repeated": "1"})])
    await flow.settle()
    assert len(flow.provider(Channel.EMAIL).sent) == 1
    assert (await flow.view(id)).state is State.SENT


async def test_an_unreadable_item_goes_aside_and_the_rest_goes_on(flow: Flow) -> None:
    await flow.user()
    await flow.queue.put([Item("requests.normal", "x", b"\x00garbage")])
    id = await flow.accept(to={"user_id": "ada"}, content=MAIL)
    await flow.settle()
    assert (await flow.view(id)).state is State.SENT
    names = [name async for name in flow.objects.list("aside/")]
    assert len(names) == 2
    assert await flow.objects.get(next(name for name in names if name.endswith(".bin"))) == b"\x00garbage"


async def test_an_idempotency_key_answers_the_same(flow: Flow) -> None:
    await flow.user()
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": MAIL}
    first = await flow.accept("key-1", **body)
    again = await flow.accept("key-1", **body)
    await flow.settle()
    assert first == again
    assert len(flow.provider(Channel.EMAIL).sent) == 1
    with pytest.raises(Conflict, match="another body"):
        await flow.accept("key-1", to={"user_id": "eve"}, content=MAIL)


async def test_an_abandoned_idempotency_key_is_taken_over_with_the_same_id(flow: Flow) -> None:
    await flow.user()
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": MAIL}
    await abandon(flow, "key-1", **body)
    await flow.settle()
    with pytest.raises(Conflict, match="under way"):
        await flow.accept("key-1", **body)
    await flow.advance(31)
    id = await flow.accept("key-1", **body)
    await flow.settle()
    assert (await flow.view(id)).state is State.SENT
    assert len(flow.provider(Channel.EMAIL).sent) == 1
