"""Repeated requests with one `Idempotency-Key`: each is accepted once, and a failed one can be repeated."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from support.flow import SMS, TENANT, Flow, abandon, wait
from tidings.model.errors import Conflict, Invalid, Unavailable
from tidings.model.notification import Content, SmsContent
from tidings.model.vocabulary import Channel, State
from tidings.policy.idempotency import KEPT_MS, RESERVATION_LEASE_S
from tidings.ports.queue import Item

LEASE = 60


async def test_a_request_whose_put_failed_can_be_repeated_at_once(flow: Flow) -> None:
    """It is sent once, whether the first put was durable or not."""
    await flow.user()
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": SMS}
    put = flow.queue.put

    async def fails(items: Sequence[Item]) -> None:
        raise Unavailable("gone")

    async def comes_through_and_fails(items: Sequence[Item]) -> None:
        await put(items)
        raise Unavailable("silent")

    ids = []
    for key, broken in (("lost", fails), ("stored", comes_through_and_fails)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flow.queue, "put", broken)
            with pytest.raises(Unavailable):
                await flow.accept(key, **body)
        ids.append(await flow.accept(key, **body))
    await flow.settle()
    await wait(flow, 2 * LEASE)
    assert [(await flow.view(id)).state for id in ids] == [State.SENT, State.SENT]
    assert len(flow.provider(Channel.SMS).sent) == 2


async def test_the_answer_outlives_the_template(flow: Flow) -> None:
    await flow.user()
    await flow.template("hello", {"en": Content(sms=SmsContent("Hello"))})
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "template": "hello"}
    first = await flow.accept("k", **body)

    async def unpublished(*_: object) -> None:
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow.renderer, "published", unpublished)
        with pytest.raises(Invalid, match="no template"):
            await flow.accept(**body)
        assert await flow.accept("k", **body) == first


async def test_a_refused_request_frees_its_key(flow: Flow) -> None:
    await flow.user()
    with pytest.raises(Invalid):
        await flow.accept("k", to={"user_id": "ada"})
    await flow.accept("k", to={"user_id": "ada"}, content=SMS)


async def test_a_key_stands_for_one_operation(flow: Flow) -> None:
    body = b'{"to": {"user_id": "ada"}, "content": {"sms": {"text": "Hello"}}}'
    await flow.accept_stage.accept(TENANT, body, "k")
    with pytest.raises(Conflict, match="another route"):
        await flow.accept_stage.accept_batch(TENANT, body, "k")


async def test_a_key_of_yesterday_accepts_anew(flow: Flow) -> None:
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": SMS}
    first = await flow.accept("k", **body)
    await flow.clock.advance(KEPT_MS / 1000 - 1)
    assert await flow.accept("k", **body) == first
    await flow.clock.advance(1)
    assert await flow.accept("k", **body) != first


async def test_a_retry_of_an_abandoned_key_is_judged_as_of_the_first_request(flow: Flow) -> None:
    await flow.user()
    soon = (flow.clock.now() + 10_000) // 1000
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "content": SMS, "expires_at": f"{_rfc3339(soon)}"}
    await abandon(flow, "k", **body)
    await flow.clock.advance(RESERVATION_LEASE_S)
    id = await flow.accept("k", **body)
    await flow.settle()
    await wait(flow, 2 * LEASE)
    assert (await flow.view(id)).state is State.EXPIRED
    assert not flow.provider(Channel.SMS).sent


async def test_a_refused_retry_of_an_abandoned_key_does_not_free_it(flow: Flow) -> None:
    await flow.user()
    await flow.template("hello", {"en": Content(sms=SmsContent("Hello"))})
    body: dict[str, Any] = {"to": {"user_id": "ada"}, "template": "hello"}
    await abandon(flow, "k", **body)
    await flow.clock.advance(RESERVATION_LEASE_S)

    async def unpublished(*_: object) -> None:
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow.renderer, "published", unpublished)
        with pytest.raises(Invalid, match="no template"):
            await flow.accept("k", **body)
    with pytest.raises(Conflict, match="another body"):
        await flow.accept("k", to={"user_id": "ada"}, content=SMS)


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
