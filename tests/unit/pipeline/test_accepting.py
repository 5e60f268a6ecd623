"""The accept stage: what a repeated request gets, which requests are counted, and who is turned away first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from support.flow import TENANT, Flow
from tidings.model import topics
from tidings.model.errors import Conflict, Invalid, NotFound, Overloaded, Unavailable
from tidings.model.ids import new_id
from tidings.model.notification import Content, SmsContent
from tidings.model.sending import NAMELESS, Handed, InboundRequest, Receipt
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, Lane, Priority, State
from tidings.model.wire import decode_notification, decode_outcomes
from tidings.pipeline.accept.admission import LATEST_S, SOONEST_S
from tidings.pipeline.accept.group_commit import GroupCommit
from tidings.pipeline.accept.stage import LATEST_PUT_MS, Accept
from tidings.pipeline.compose.recipients import Recipients
from tidings.pipeline.runtime.reader import REPEATED
from tidings.policy.admission import AdmissionRules
from tidings.policy.idempotency import RESERVATION_LEASE_S, fingerprint
from tidings.policy.shares import ShareRules, Shares

GOOD: dict[str, Any] = {"to": {"phone": "+4915123456789"}, "content": {"sms": {"text": "Hello"}}}
BAD: dict[str, Any] = {"to": {}, "content": {"sms": {"text": "Hello"}}}
ADA: dict[str, Any] = GOOD | {"to": {"user_id": "ada"}}
Told = list[tuple[str, list[UUID]]]


def one(body: dict[str, Any] = GOOD, **more: Any) -> bytes:
    return json.dumps(body | more).encode()


def batch(*items: Any) -> bytes:
    return json.dumps({"notifications": items}).encode()


def accepting(flow: Flow, **more: Any) -> Accept:
    """The accept stage of the flow, with these parts in place of its own."""
    parts: dict[str, Any] = {"rules": flow.settings.overload.rules(), "randomness": flow._random_bits} | more
    return Accept(
        flow.queue,
        flow.renderer,
        flow.store.idempotency,
        flow.store.history,
        flow.clock,
        parts.pop("randomness"),
        {},
        parts.pop("rules"),
        **parts,
    )


def plain(results: Sequence[UUID | Invalid]) -> list[Any]:
    return [(one.code, one.detail, one.path) if isinstance(one, Invalid) else one for one in results]


def waiting(flow: Flow, priority: Priority = Priority.NORMAL) -> list[tuple[UUID, bool]]:
    """The notifications in the queues of a priority, and whether each is marked as a possible copy."""
    lanes = [Lane.of(priority, surplus=surplus) for surplus in (False, True)]
    items = [item for lane in lanes for item in flow.broker.lane(topics.requests(lane), topics.ROUTE).waiting]
    return [(decode_notification(item.body).id, REPEATED in item.headers) for item in items]


async def died(flow: Flow, stage: Accept, body: bytes, *, is_batch: bool, key: str = "k") -> None:
    """A request whose process dies between its put and its answer; its lease ends."""

    async def dies(*_: object) -> None:
        raise ConnectionError("killed here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow.store.idempotency, "complete", dies)
        with pytest.raises(ConnectionError):
            await (stage.accept_batch if is_batch else stage.accept)(TENANT, body, key)
    await flow.clock.advance(RESERVATION_LEASE_S)


@contextmanager
def no_keys(flow: Flow) -> Iterator[None]:
    """No idempotency key may be reserved within the context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow.store.idempotency, "reserve", None)
        yield


class TestRepeatedRequests:
    async def test_a_repeated_batch_gets_the_same_answer_item_by_item(self, flow: Flow) -> None:
        body = batch(BAD, GOOD, 7, GOOD | {"colour": 1})
        first = await flow.accept_stage.accept_batch(TENANT, body, "k")
        again = await flow.accept_stage.accept_batch(TENANT, body, "k")
        assert plain(again.results) == plain(first.results)
        assert [type(result) for result in again.results] == [Invalid, UUID, Invalid, Invalid]
        assert (first.replayed, again.replayed) == (False, True)
        assert [id for id, _ in waiting(flow)] == [first.results[1]]

    async def test_a_key_that_was_used_for_something_else_is_a_conflict(self, flow: Flow) -> None:
        await flow.accept_stage.accept(TENANT, one(), "k")
        with pytest.raises(Conflict) as refused:
            await flow.accept_stage.accept(TENANT, one(category="news"), "k")
        assert refused.value.code == "idempotency_key_reused"
        assert (await flow.accept_stage.accept("bank", one(category="news"), "k")).replayed is False

    async def test_a_key_of_version_0_1_0_still_stands_for_its_batch(self, flow: Flow) -> None:
        body, seed = batch(GOOD), new_id(flow.clock.now(), 0, 7)
        await flow.store.idempotency.reserve(TENANT, "k", fingerprint(body, ""), seed, RESERVATION_LEASE_S)
        with pytest.raises(Conflict, match="under way"):
            await flow.accept_stage.accept_batch(TENANT, body, "k")
        with pytest.raises(Conflict, match="another body"):
            await flow.accept_stage.accept_batch(TENANT, batch(GOOD, GOOD), "k")

    async def test_of_an_abandoned_batch_only_what_was_lost_is_put_again_marked_as_a_possible_copy(
        self, flow: Flow
    ) -> None:
        body = batch(GOOD, BAD, GOOD, GOOD)
        await died(flow, flow.accept_stage, body, is_batch=True)
        first, *lost = [id for id, _ in waiting(flow)]
        flow.broker.lane(topics.requests(Priority.NORMAL), topics.ROUTE).clear()
        stored = await flow.store.history.get(TENANT, first)
        assert stored is None
        get = flow.store.history.get

        async def knows_the_first(tenant: str, id: UUID) -> Any:
            return "a record" if (tenant, id) == (TENANT, first) else await get(tenant, id)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flow.store.history, "get", knows_the_first)
            again = await flow.accept_stage.accept_batch(TENANT, body, "k")
        assert [result for result in again.results if isinstance(result, UUID)] == [first, *lost]
        assert waiting(flow) == [(id, True) for id in lost]
        assert again.replayed is False

    async def test_what_is_accepted_for_the_first_time_is_not_marked(self, flow: Flow) -> None:
        await flow.accept_stage.accept(TENANT, one())
        await flow.accept_stage.accept(TENANT, one(), "k")
        await flow.accept_stage.accept_batch(TENANT, batch(GOOD))
        await flow.accept_stage.accept_batch(TENANT, batch(GOOD), "l")
        assert [marked for _, marked in waiting(flow)] == [False] * 4

    @pytest.mark.parametrize("is_batch", [False, True])
    async def test_a_user_who_was_deleted_since_does_not_spoil_an_abandoned_request(
        self, flow: Flow, is_batch: bool
    ) -> None:
        stage = accepting(flow, recipients=Recipients(flow.store.users, flow.clock))
        send, body = (stage.accept_batch, batch(ADA)) if is_batch else (stage.accept, one(ADA))
        await flow.user()
        await died(flow, stage, body, is_batch=is_batch)
        [(first, _)] = waiting(flow)
        await flow.store.users.delete(TENANT, "ada")
        assert list((await send(TENANT, body, "k")).results) == [first]

    @pytest.mark.parametrize("key", [None, "k"])
    async def test_an_unknown_user_is_refused_with_and_without_a_key(self, flow: Flow, key: str | None) -> None:
        stage = accepting(flow, recipients=Recipients(flow.store.users, flow.clock))
        with pytest.raises(Invalid) as refused:
            await stage.accept(TENANT, one(ADA), key)
        assert refused.value.code == "unknown_user"
        [result] = (await stage.accept_batch(TENANT, batch(ADA), key)).results
        assert isinstance(result, Invalid)
        assert result.code == "unknown_user"

    async def test_a_refused_retry_of_an_abandoned_request_can_be_made_again_at_once(
        self, flow: Flow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await flow.template("hello", {"en": Content(sms=SmsContent("Hello"))})
        body = one({"to": GOOD["to"], "template": "hello"})
        await died(flow, flow.accept_stage, body, is_batch=False)
        [(first, _)] = waiting(flow)

        async def unpublished(*_: object) -> None:
            return None

        with monkeypatch.context() as patch:
            patch.setattr(flow.renderer, "published", unpublished)
            for _ in range(2):
                with pytest.raises(Invalid, match="no template"):
                    await flow.accept_stage.accept(TENANT, body, "k")
        assert (await flow.accept_stage.accept(TENANT, body, "k")).results == (first,)

    @pytest.mark.parametrize(("took_ms", "is_put"), [(LATEST_PUT_MS, True), (LATEST_PUT_MS + 1, False)])
    async def test_a_request_that_took_too_long_puts_nothing_because_another_may_have_its_key(
        self, flow: Flow, took_ms: int, is_put: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await flow.template("hello", {"en": Content(sms=SmsContent("Hello"))})
        published = flow.renderer.published

        async def slow(tenant: str, name: str) -> Any:
            flow.clock._now += took_ms
            return await published(tenant, name)

        monkeypatch.setattr(flow.renderer, "published", slow)
        body = one({"to": GOOD["to"], "template": "hello"})
        if is_put:
            await flow.accept_stage.accept(TENANT, body, "k")
        else:
            with pytest.raises(Unavailable, match="make the request again"):
                await flow.accept_stage.accept(TENANT, body, "k")
            await flow.accept_stage.accept(TENANT, one(), "k")  # the key is free again
        assert len(waiting(flow)) == 1


class TestCounting:
    @pytest.mark.parametrize("key", [None, "k"])
    async def test_what_is_durable_is_counted_once_for_its_tenant(self, flow: Flow, key: str | None) -> None:
        counted: Told = []
        revisited: Told = []
        stage = accepting(
            flow,
            count=lambda tenant, ids: counted.append((tenant, list(ids))),
            revisit=lambda tenant, ids: revisited.append((tenant, list(ids))),
        )
        one_of = await stage.accept(TENANT, one(), key)
        many = await stage.accept_batch("bank", batch(GOOD, BAD, GOOD), key)
        if key is not None:
            await stage.accept(TENANT, one(), key)
        valid = [result for result in many.results if isinstance(result, UUID)]
        assert counted == [(TENANT, list(one_of.results)), ("bank", valid)]
        assert (len(valid), revisited) == (2, [])

    async def test_an_abandoned_request_may_have_been_counted_so_it_is_only_looked_at_again(self, flow: Flow) -> None:
        counted: Told = []
        revisited: Told = []
        stage = accepting(
            flow,
            count=lambda tenant, ids: counted.append((tenant, list(ids))),
            revisit=lambda tenant, ids: revisited.append((tenant, list(ids))),
        )
        await died(flow, stage, batch(GOOD, BAD), is_batch=True)
        counted.clear()
        answer = await stage.accept_batch(TENANT, batch(GOOD, BAD), "k")
        assert (counted, revisited) == ([], [(TENANT, [answer.results[0]])])


class TestBatches:
    async def test_items_after_one_that_cannot_be_read_are_accepted(self, flow: Flow) -> None:
        results = (await flow.accept_stage.accept_batch(TENANT, batch(7, GOOD, 8, GOOD))).results
        assert [type(result) for result in results] == [Invalid, UUID, Invalid, UUID]
        assert [result.path for result in results if isinstance(result, Invalid)] == [
            "$.notifications[0]",
            "$.notifications[2]",
        ]

    async def test_the_stage_asks_whether_so_many_may_come_in_but_not_for_a_repeated_request(self, flow: Flow) -> None:
        asked: list[int] = []

        async def admit(count: int) -> None:
            asked.append(count)
            if count > 2:
                raise Overloaded("too many", 1.0)

        for key in (None, "k", "k"):
            await flow.accept_stage.accept_batch(TENANT, batch(GOOD, GOOD), key, admit)
        assert asked == [2, 2]
        for key in (None, "l"):
            with pytest.raises(Overloaded):
                await flow.accept_stage.accept_batch(TENANT, batch(GOOD, GOOD, GOOD), key, admit)
        assert len(waiting(flow)) == 4

    async def test_a_long_batch_does_not_delay_another_tenants(
        self, flow: Flow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await flow.template("hello", {"en": Content(sms=SmsContent("Hello"))})
        published, ended = flow.renderer.published, list[str]()

        async def slow(tenant: str, name: str) -> Any:
            flow.clock._now += 15
            return await published(TENANT, name)

        async def send(tenant: str, count: int) -> None:
            items = [{"to": GOOD["to"], "template": "hello"}] * count
            await flow.accept_stage.accept_batch(tenant, batch(*items))
            ended.append(tenant)

        monkeypatch.setattr(flow.renderer, "published", slow)
        await asyncio.gather(send(TENANT, 20), send(TENANT, 1), send("bank", 1))
        assert ended == ["bank", TENANT, TENANT]

    async def test_a_batch_of_several_priorities_does_not_delay_critical_requests(
        self, flow: Flow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lanes: list[Lane] = []
        of = flow.accept_stage._commits.of

        def noted(lane: Lane) -> GroupCommit:
            lanes.append(lane)
            return of(lane)

        monkeypatch.setattr(flow.accept_stage._commits, "of", noted)
        items = [GOOD | {"priority": priority} for priority in ("critical", "bulk", "critical")]
        await flow.accept_stage.accept_batch(TENANT, batch(*items))
        assert lanes[-1] is Lane.BULK
        assert [len(waiting(flow, priority)) for priority in Priority] == [2, 0, 1]


class TestOverload:
    @pytest.mark.parametrize("key", [None, "k"])
    async def test_retry_after_is_drawn_between_its_bounds(self, flow: Flow, key: str | None) -> None:
        stage = accepting(flow, rules=AdmissionRules(backlog=-1), randomness=lambda bits: 1 << (bits - 1))
        with pytest.raises(Overloaded) as refused:
            await stage.accept(TENANT, one(), key)
        assert refused.value.retry_after_s == (SOONEST_S + LATEST_S) / 2

    @pytest.mark.parametrize("key", [None, "k"])
    async def test_a_batch_is_refused_like_its_least_urgent_item_before_its_key_is_reserved(
        self, flow: Flow, key: str | None
    ) -> None:
        stage = accepting(flow, rules=AdmissionRules(backlog=10))
        stage._admission.count(Lane.BULK, 8)  # enough to refuse bulk, and no other lane
        bulk = GOOD | {"priority": "bulk"}
        with no_keys(flow):
            for refused in (stage.accept(TENANT, one(bulk), key), stage.accept_batch(TENANT, batch(GOOD, bulk), key)):
                with pytest.raises(Overloaded):
                    await refused
        assert [waiting(flow, priority) for priority in Priority] == [[], [], []]
        await stage.accept_batch(TENANT, batch(GOOD, GOOD | {"priority": "critical"}), key)
        await stage.accept(TENANT, one(), None if key is None else "l")
        assert [len(waiting(flow, priority)) for priority in Priority] == [1, 2, 0]

    @pytest.mark.parametrize("key", [None, "k"])
    async def test_what_is_wrong_with_a_body_is_said_under_overload_too(self, flow: Flow, key: str | None) -> None:
        stage = accepting(flow, rules=AdmissionRules(backlog=10))
        stage._admission.count(Lane.BULK, 8)
        for refused in (stage.accept(TENANT, b"{", key), stage.accept_batch(TENANT, b"{", key)):
            with pytest.raises(Invalid) as told:
                await refused
            assert told.value.code == "malformed_json"

    @pytest.mark.parametrize("key", [None, "k"])
    async def test_a_batch_within_the_tenants_share_is_let_in_where_surplus_is_not(
        self, flow: Flow, key: str | None
    ) -> None:
        shares = Shares(ShareRules(per_second=1, burst=3))
        stage = accepting(flow, rules=AdmissionRules(backlog=10), shares=shares)
        stage._admission.count(Lane.NORMAL_SURPLUS, 100)
        for tenant in (TENANT, "club"):
            shares.take(tenant, Priority.NORMAL, 2, flow.clock.elapsed())
        with no_keys(flow), pytest.raises(Overloaded):
            await stage.accept_batch(TENANT, batch(GOOD, GOOD), key)
        await stage.accept_batch(TENANT, batch(GOOD), key)
        with no_keys(flow), pytest.raises(Overloaded):
            await stage.accept(TENANT, one(), key)
        await stage.accept("club", one(), key)
        await stage.accept_batch("bank", batch(GOOD, GOOD, GOOD), key)
        assert len(waiting(flow)) == 5

    async def test_deliveries_that_are_held_for_providers_count_as_load(self, flow: Flow) -> None:
        async def held(most: int) -> dict[str, int]:
            return {topics.deliveries(channel, Lane.NORMAL): most for channel in GOOD["content"]}

        stage = accepting(flow, rules=AdmissionRules(backlog=10), held=held)
        await stage.accept(TENANT, one())
        await stage._admission._look()
        with pytest.raises(Overloaded):
            await stage.accept(TENANT, one())


class TestReceipts:
    async def test_an_unknown_provider_is_not_found(self, flow: Flow) -> None:
        with pytest.raises(NotFound) as refused:
            await flow.accept_stage.receipts("nobody", InboundRequest("", {}, {}, b""))
        assert (refused.value.kind, refused.value.name) == ("provider", "nobody")

    async def test_a_receipt_becomes_a_fact_of_its_provider_and_channel(self, flow: Flow) -> None:
        """The vendor's request is read as it came, and an unnamed delivery is looked up among those of the provider."""
        seen: list[InboundRequest] = []
        asked: list[str] = []
        delivery, request = UUID(int=7), InboundRequest("/r", {"a": "b"}, {}, b"body")
        receipt = Receipt(NAMELESS, "", State.SENT, "opened", reference="ref", address="+4915")

        def read(inbound: InboundRequest) -> list[Receipt]:
            seen.append(inbound)
            return [receipt]

        async def handed(provider: str, *_: object) -> list[Handed]:
            asked.append(provider)
            return [Handed(delivery, TENANT, 2, "ref", "+4915")]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flow.store.history, "handed", handed)
            assert await flow._accept({"two": (Channel.SMS, read)}).receipts("two", request) == 1
        [item] = flow.broker.lane(topics.OUTCOMES, topics.RECORD).waiting
        [fact] = decode_outcomes(item.body)
        assert (seen, asked) == ([request], ["two"])
        assert (fact.id, fact.tenant, fact.attempt, fact.provider) == (delivery, TENANT, 2, "two")
        assert (fact.at, fact.address) == (flow.clock.now(), Address(Channel.SMS, "+4915"))
