"""An original that waits, comes back or comes late, and its copy: one of the two goes on, and the person gets one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.copies import (
    LEASE,
    RECORDED,
    SURPLUS,
    TOPIC,
    at_step,
    claimed,
    expect_sent_once,
    lose_original,
    routed,
    wait_besides_surplus,
    worker,
)
from support.flow import SMS, Flow, abandon, wait
from support.queues import depth
from tidings.model import topics
from tidings.model.user import Preferences, QuietHours
from tidings.model.vocabulary import Channel, State
from tidings.model.wire import decode_delivery
from tidings.pipeline.deliver.attempts import second_copy
from tidings.pipeline.runtime.packs import pack
from tidings.pipeline.runtime.reader import Reader
from tidings.policy.idempotency import RESERVATION_LEASE_S
from tidings.ports.queue import Item


async def test_both_puts_of_an_abandoned_key_in_a_backlog_are_sent_once(flow: Flow) -> None:
    await flow.user()
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": SMS}
    await abandon(flow, "k", **body)
    await flow.clock.advance(RESERVATION_LEASE_S)
    id = await flow.accept("k", **body)
    assert await flow.accept("k", **body) == id
    await flow.settle(only=topics.ROUTE)
    assert [await depth(flow.queue, topic, topics.DELIVER) for topic in (TOPIC, SURPLUS)] == [1, 1]
    first, second = worker(flow), worker(flow)
    await asyncio.gather(_one_item(flow, first, SURPLUS), _one_item(flow, second, TOPIC))
    await wait(flow, 2 * LEASE)
    await expect_sent_once(flow, id)


@pytest.mark.parametrize("original_in", ["requests", "deliveries"])
async def test_a_copy_stays_behind_an_original_that_waits_as_surplus(flow: Flow, original_in: str) -> None:
    """However long the original waits: the surplus of a flood may wait much longer than a copy does."""
    await flow.user()
    flow.spend_share()
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": SMS}
    await abandon(flow, "k", **body)
    if original_in == "deliveries":
        await flow.settle(only=topics.ROUTE)
    await flow.clock.advance(RESERVATION_LEASE_S)  # there is room in the share again: only the mark keeps the copy back
    id = await flow.accept("k", **body)
    await wait_besides_surplus(flow, 10 * LEASE)
    assert not flow.provider(Channel.SMS).sent
    await flow.settle()
    await wait(flow, 3 * LEASE)
    await expect_sent_once(flow, id)


async def test_a_copy_that_has_waited_comes_back_behind_an_original_that_came_back_unbegun(flow: Flow) -> None:
    await flow.user()
    flow.spend_share()
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": SMS}
    await abandon(flow, "k", **body)
    await flow.settle(only=topics.ROUTE)
    held = await claimed(flow, SURPLUS)
    await flow.clock.advance(RESERVATION_LEASE_S)
    id = await flow.accept("k", **body)
    await flow.settle()  # the copy is looked at, and waits
    assert not flow.provider(Channel.SMS).sent
    await held.release()
    await wait_besides_surplus(flow, 3 * LEASE)
    assert not flow.provider(Channel.SMS).sent
    await flow.settle()
    await wait(flow, 3 * LEASE)
    await expect_sent_once(flow, id)


@pytest.mark.parametrize("looked_at", [6, LEASE + RECORDED - 1], ids=["soon", "late"])
async def test_an_original_that_keeps_coming_back_unbegun_yields_to_its_copy(flow: Flow, looked_at: int) -> None:
    """No claim held it long enough to begin it, and none recorded a fact about it."""
    id, copy = await routed(flow)
    bouncing = await claimed(flow, lease_s=10 * LEASE)
    await wait(flow, looked_at)
    await flow.queue.put([copy])
    await flow.settle()
    await bouncing.release()
    bouncing = await claimed(flow, lease_s=10 * LEASE)
    await wait(flow, LEASE + RECORDED)
    assert len(flow.provider(Channel.SMS).sent) == 1, "the copy"
    await bouncing.release()
    await flow.settle()
    await wait(flow, 3 * LEASE)
    await expect_sent_once(flow, id)


async def test_an_original_yields_to_its_copy_before_the_copy_is_sent(flow: Flow) -> None:
    """Else two processes would send both at once, and the history could not tell either of the other."""
    id, copy = await routed(flow)
    held = await claimed(flow, lease_s=LEASE)
    await wait(flow, 6)
    await flow.queue.put([copy])
    await flow.settle()
    await held.release()
    assert await worker(flow).once() == 1
    assert not flow.provider(Channel.SMS).sent
    await wait(flow, LEASE + RECORDED)
    await expect_sent_once(flow, id)


async def test_an_original_that_is_put_after_its_copy_was_sent_is_not_sent(flow: Flow) -> None:
    """Its process stood still in the middle of the put."""
    id, copy = await routed(flow)
    await lose_original(flow, copy)
    await flow.settle()
    await wait(flow, LEASE + RECORDED)
    assert (await flow.view(id)).state is State.SENT
    await flow.queue.put([Item(TOPIC, copy.key, copy.body)])
    await flow.settle()
    await wait(flow, 3 * LEASE)
    assert len(flow.provider(Channel.SMS).sent) == 1


async def test_an_original_yields_to_a_copy_that_waits_for_the_end_of_quiet_hours(flow: Flow) -> None:
    id, copy = await routed(flow)
    held = await claimed(flow, lease_s=LEASE)
    await wait(flow, 6)
    # 22:13 UTC on 2023-11-14
    await flow.user("ada", Preferences(quiet_hours=QuietHours(22 * 60, 23 * 60)), timezone="UTC")
    await flow.queue.put([at_step(1, copy, SURPLUS)])
    await flow.settle()
    seen = (await flow.view(id)).deliveries[0]
    assert (seen.state, seen.reason) == (State.DEFERRED, "quiet_hours")
    await flow.user("ada", Preferences(), timezone="UTC")
    await held.release()
    await flow.settle()
    assert not flow.provider(Channel.SMS).sent
    await flow.advance(3600)
    await expect_sent_once(flow, id)


async def test_an_original_that_waits_yields_to_a_copy_that_does_not(flow: Flow) -> None:
    """Both waits may end together, in two processes."""
    id, copy = await routed(flow)
    await flow.user("ada", Preferences(quiet_hours=QuietHours(22 * 60, 23 * 60)), timezone="UTC")
    await flow.settle()
    assert (await flow.view(id)).deliveries[0].reason == "quiet_hours"
    original = at_step(1, copy)
    await flow.user("ada", Preferences(), timezone="UTC")
    # The copy was claimed before the original's wait was recorded.
    copy_waits = second_copy(decode_delivery(copy.body), flow.clock.now(), 70_000, surplus=True)
    await flow.queue.put(pack([copy_waits]))
    await flow.settle()
    await flow.queue.put([original])
    await flow.settle()
    assert not flow.provider(Channel.SMS).sent
    await wait(flow, LEASE + RECORDED)
    assert len(flow.provider(Channel.SMS).sent) == 1
    await flow.advance(3600)
    await expect_sent_once(flow, id)


async def _one_item(flow: Flow, reader: Reader[Any], topic: str) -> None:
    claim = await flow.queue.claim(topic, topics.DELIVER, 1, 0, LEASE)
    assert claim is not None
    await reader._finish_batch(claim)
