"""What one claim of deliver does with each of its deliveries: send it, drop it, let it wait, or end it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest

from support.deliveries import make_delivery
from support.flow import TENANT, Flow, Recorder
from tidings.model.delivery import Delivery
from tidings.model.errors import LeaseLost
from tidings.model.notification import Content, SmsContent
from tidings.model.outcome import Outcome
from tidings.model.sending import AnyDelivery, Rejected, Retry, SendResult
from tidings.model.user import Category
from tidings.model.vocabulary import Channel, Lane, Priority, State
from tidings.model.wire import decode_delivery, decode_outcomes
from tidings.pipeline.deliver.capping import Capping
from tidings.pipeline.deliver.in_hand import Attempt
from tidings.pipeline.deliver.rendering import Rendering
from tidings.pipeline.deliver.routed import Routed
from tidings.pipeline.deliver.stage import MOST_WHILE_CLOSED, Deliver, Needs
from tidings.pipeline.deliver.switchboard import Switchboard
from tidings.pipeline.runtime.categories import Categories
from tidings.pipeline.runtime.reader import Claimed, Partly
from tidings.policy.breaker import BreakerRules
from tidings.policy.retry import RetryPolicy

NOW = 1_700_000_000_000
LEASE_S = 30.0
RULES = BreakerRules()


class Known:
    """A history that knows these attempts and waits."""

    def __init__(self) -> None:
        self.made: set[Attempt] = set()
        self.waits: dict[Attempt, int] = {}

    async def attempted(self, asked: Collection[Attempt]) -> set[Attempt]:
        return self.made & set(asked)

    async def waited(self, asked: Collection[Attempt]) -> Mapping[Attempt, int]:
        return {attempt: step for attempt, step in self.waits.items() if attempt in asked}

    async def arrived(self, _: object) -> set[UUID]:
        return set()


class Stage:
    """Deliver for text messages with one provider, and what became of a claim."""

    def __init__(self, flow: Flow, lane: Lane = Lane.NORMAL, *, idempotent: bool = False) -> None:
        self.history = Known()
        self.provider = Recorder("a", Channel.SMS, idempotent=idempotent)
        self.switchboard = Switchboard([Routed(self.provider)], RULES, flow.clock, flow.metrics)
        categories = Categories(flow.store.tenants, flow.clock)
        needs = Needs(
            standings=flow.store.standings,
            history=self.history,  # type: ignore[arg-type]
            categories=categories,
            capping=Capping(flow.store.caps, categories),
            rendering=Rendering(flow.renderer, flow.clock),
            clock=flow.clock,
            randomness=lambda: 0.5,
        )
        self.deliver = Deliver(self.switchboard, lane, needs, RetryPolicy(), LEASE_S)
        self.begun: list[int] = []
        self.unbegun: list[int] = []
        self.failed: dict[int, str] = {}
        self.fault: Exception | None = None

    async def __call__(self, *claims: Claimed[Delivery]) -> dict[UUID, Outcome]:
        """The facts, by delivery."""

        async def begin(places: Collection[int]) -> None:
            if self.fault is not None:
                raise self.fault
            self.begun += places

        placed = [msgspec.structs.replace(claim, place=place) for place, claim in enumerate(claims)]
        done = await self.deliver(placed, begin)
        if isinstance(done, Partly):
            self.unbegun += done.unbegun
            self.failed.update(done.failed)
        items = done.outputs if isinstance(done, Partly) else done
        return {fact.id: fact for item in items for fact in decode_outcomes(item.body)}

    def sent(self) -> list[UUID]:
        return [outbound.id for outbound in self.provider.sent]


def delivery(number: int = 1, **more: Any) -> Delivery:
    fields: dict[str, Any] = {"tenant": TENANT, "category": "news", "content": Content(sms=SmsContent("Hello"))} | more
    return make_delivery(number, NOW, **fields)


def end_of(fact: Outcome | None) -> tuple[State, str] | None:
    return None if fact is None else (fact.state, fact.reason)


IN_DOUBT = (State.UNCERTAIN, "may_have_been_sent")
COPY_WAITS = (State.PENDING, "may_have_been_sent")
SENT, EXPIRED, PUT_OFF = (State.SENT, ""), (State.EXPIRED, "expired"), (State.DEFERRED, "provider_open")


@pytest.mark.parametrize(
    ("claim", "made", "waited", "becomes"),
    [
        (Claimed(delivery(step=1)), True, None, None),
        (Claimed(delivery(), begun=True), True, None, None),
        (Claimed(delivery(), begun=True), False, None, IN_DOUBT),
        (Claimed(delivery(), begun=True, repeated=True), False, None, IN_DOUBT),
        (Claimed(delivery(step=2)), False, 3, None),
        (Claimed(delivery(step=2)), False, 2, SENT),
        (Claimed(delivery(step=2)), False, None, SENT),
        (Claimed(delivery(), repeated=True), False, None, COPY_WAITS),
        (Claimed(delivery(step=2), repeated=True), False, 3, None),
    ],
)
async def test_each_delivery_of_a_claim_is_judged_alone(
    flow: Flow, claim: Claimed[Delivery], made: bool, waited: int | None, becomes: tuple[State, str] | None
) -> None:
    stage = Stage(flow)
    attempt = claim.value.id, claim.value.attempt
    stage.history.made = {attempt} if made else set()
    stage.history.waits = {} if waited is None else {attempt: waited}
    last = delivery(9)
    facts = await stage(claim, Claimed(last))
    assert end_of(facts.get(claim.value.id)) == becomes
    assert end_of(facts[last.id]) == SENT
    assert stage.begun == ([0, 1] if becomes == SENT else [1])
    assert stage.sent() == ([claim.value.id, last.id] if becomes == SENT else [last.id])


async def test_of_several_copies_the_one_that_has_gone_furthest_is_sent_once(flow: Flow) -> None:
    stage = Stage(flow)
    last = delivery(9)
    steps = (0, 2, 1)
    facts = await stage(*[Claimed(delivery(step=step)) for step in steps], Claimed(last))
    assert facts[delivery().id].step == 2
    assert stage.sent() == [delivery().id, last.id]
    assert stage.begun == [1, 3]


@pytest.mark.parametrize("surplus", [False, True])
async def test_a_copy_waits_until_its_originals_claim_has_ended_and_is_recorded(flow: Flow, surplus: bool) -> None:
    stage = Stage(flow, Lane.of(Priority.NORMAL, surplus=surplus))
    [fact] = (await stage(Claimed(delivery(step=1), repeated=True))).values()
    assert fact.wait is not None
    assert fact.wait.due == NOW + (30 + 10) * 1000
    assert fact.wait.topic == ("deliveries.sms.normal.surplus" if surplus else "deliveries.sms.normal")
    assert decode_delivery(fact.wait.body).step == 3


FRESH: dict[str, bool] = {}
COPY, BEGUN = {"repeated": True}, {"begun": True}


@pytest.mark.parametrize(
    ("marks", "ends", "waits"),
    [
        (FRESH, EXPIRED, PUT_OFF),
        (COPY, COPY_WAITS, COPY_WAITS),
        (BEGUN, IN_DOUBT, PUT_OFF),
        (BEGUN | COPY, IN_DOUBT, PUT_OFF),
    ],
)
async def test_a_delivery_that_may_have_been_sent_never_ends_as_if_it_had_not(
    flow: Flow, marks: dict[str, bool], ends: tuple[State, str], waits: tuple[State, str]
) -> None:
    """Repetitions are harmless here: the only provider recognises them."""
    stage = Stage(flow, idempotent=True)
    late, first = delivery(1, expires_at=NOW), delivery(2)
    facts = await stage(Claimed(late, **marks), Claimed(first, **marks))
    assert (end_of(facts[late.id]), end_of(facts[first.id])) == (ends, SENT)
    stage.provider.answers = lambda _: Retry("unreachable")
    await stage(*[Claimed(delivery(number)) for number in range(10, 10 + RULES.least)])
    assert not stage.switchboard.is_open()
    late, second = delivery(3, expires_at=NOW), delivery(4)
    facts = await stage(Claimed(late, **marks), Claimed(second, **marks))
    assert (end_of(facts[late.id]), end_of(facts[second.id])) == (ends, waits)


async def test_while_no_provider_may_be_used_a_bounded_number_is_claimed(flow: Flow) -> None:
    stage = Stage(flow)
    assert stage.deliver.room() == stage.switchboard.room(Lane.NORMAL) != MOST_WHILE_CLOSED
    stage.provider.answers = lambda _: Retry("unreachable")
    await stage(*[Claimed(delivery(number)) for number in range(RULES.least)])
    assert stage.deliver.room() == MOST_WHILE_CLOSED


@pytest.mark.parametrize(("first_attempt", "suffix"), [(1, ""), (2, ".2"), (7, ".7")])
async def test_only_a_replay_has_a_key_of_its_own(flow: Flow, first_attempt: int, suffix: str) -> None:
    stage = Stage(flow)
    replayed = delivery(attempt=first_attempt + 1, first_attempt=first_attempt)
    await stage(Claimed(replayed))
    assert [sent.idempotency_key for sent in stage.provider.sent] == [f"{replayed.id}{suffix}"]
    assert [sent.attempt for sent in stage.provider.sent] == [first_attempt + 1]


async def test_an_answer_that_cannot_be_judged_leaves_the_delivery_uncertain_and_the_others_as_they_are(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, bad, good = Stage(flow), delivery(1), delivery(2)
    stage.provider.answers = lambda outbound: Retry("odd") if outbound.id == bad.id else Rejected("unregistered")

    def breaks(*_: object) -> Sequence[Outcome]:
        raise OverflowError("out of range")

    monkeypatch.setattr(RetryPolicy, "of", breaks)
    facts = await stage(Claimed(bad), Claimed(good))
    assert (end_of(facts[bad.id]), end_of(facts[good.id])) == (
        (State.UNCERTAIN, "error"),
        (State.FAILED, "unregistered"),
    )
    assert "out of range" in facts[bad.id].detail
    assert facts[bad.id].provider == "a"


@pytest.mark.parametrize("count", [1, 3, 4, 6, 7])
async def test_a_claim_is_sent_in_calls_of_the_size_that_the_provider_takes(flow: Flow, count: int) -> None:
    stage = Stage(flow)
    stage.provider.batch_size = 3
    facts = await stage(*[Claimed(delivery(number)) for number in range(count)])
    assert [end_of(fact) for fact in facts.values()] == [SENT] * count
    assert sorted(stage.begun) == list(range(count))
    assert (len(set(stage.sent())), len(stage.sent())) == (count, count)


async def test_a_delivery_whose_provider_is_closed_waits_and_the_others_are_sent(flow: Flow) -> None:
    stage = Stage(flow)
    other = Recorder("b", Channel.SMS)
    other.answers = lambda _: Retry("unreachable")
    stage.switchboard = Switchboard([Routed(stage.provider), Routed(other)], RULES, flow.clock, flow.metrics)
    stage.deliver.switchboard = stage.switchboard
    pinned = [delivery(number, pinned="b") for number in range(10, 10 + RULES.least)]
    await stage(*map(Claimed, pinned))
    late, waits, goes = delivery(1, expires_at=NOW), delivery(2, pinned="b"), delivery(3)
    facts = await stage(Claimed(late), Claimed(waits), Claimed(goes))
    assert [end_of(facts[aimed.id]) for aimed in (late, waits, goes)] == [EXPIRED, PUT_OFF, SENT]
    assert stage.sent() == [goes.id]


async def test_a_copy_that_comes_soon_after_its_original_is_dropped_or_waits_if_it_had_gone_further(flow: Flow) -> None:
    stage, last = Stage(flow), delivery(9)
    await stage(Claimed(delivery(step=1)))
    facts = await stage(Claimed(delivery(step=1)), Claimed(last))
    assert list(facts) == [last.id]
    facts = await stage(Claimed(delivery(step=2)), Claimed(delivery(8)))
    assert end_of(facts[delivery().id]) == COPY_WAITS
    assert stage.sent() == [delivery().id, last.id, delivery(8).id]
    assert stage.unbegun == []


async def test_a_call_that_fails_before_it_began_leaves_its_deliveries_for_another_try(flow: Flow) -> None:
    stage = Stage(flow)
    stage.provider.batch_size = 2
    stage.fault = OverflowError("out of range")
    batch = [Claimed(delivery(number)) for number in range(5)]
    assert await stage(*batch) == {}
    assert stage.failed == dict.fromkeys(range(5), repr(stage.fault))
    assert (stage.sent(), stage.unbegun) == ([], [])
    stage.fault = None
    assert [end_of(fact) for fact in (await stage(*batch)).values()] == [SENT] * 5


async def test_a_call_that_fails_after_it_began_leaves_its_deliveries_uncertain(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise OverflowError("out of range")

    stage = Stage(flow)
    monkeypatch.setattr(flow.metrics, "results", breaks)
    facts = await stage(*[Claimed(delivery(number)) for number in range(3)])
    assert [end_of(fact) for fact in facts.values()] == [(State.UNCERTAIN, "provider_error")] * 3
    assert all("out of range" in fact.detail for fact in facts.values())
    assert (stage.failed, stage.unbegun) == ({}, [])


@pytest.mark.parametrize("why", ["it is to stop", "the queue does not confirm"])
async def test_deliveries_whose_calls_were_not_made_all_go_back(flow: Flow, why: str) -> None:
    stage = Stage(flow)
    stage.provider.batch_size = 2
    if why == "it is to stop":
        stage.deliver.stop()
    else:
        stage.fault = LeaseLost("gone")
    assert await stage(*[Claimed(delivery(number)) for number in range(5)]) == {}
    assert (sorted(stage.unbegun), stage.failed, stage.sent()) == (list(range(5)), {}, [])


@pytest.mark.parametrize(
    ("step", "other", "waits", "given_back"),
    [(0, 0, False, [0]), (0, 4, True, []), (1, 2, True, []), (3, 2, False, [])],
)
async def test_of_the_copies_of_a_delivery_under_way_only_a_further_one_waits(
    flow: Flow, step: int, other: int, waits: bool, given_back: list[int]
) -> None:
    stage = Stage(flow)
    send = stage.provider.send
    waited: list[Outcome] = []

    async def meanwhile(batch: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        waited.extend((await stage(Claimed(delivery(step=other)))).values())
        return await send(batch)

    stage.provider.send = meanwhile  # type: ignore[method-assign]
    stage.provider.answers = lambda _: Retry("mailbox_busy")
    [fact] = (await stage(Claimed(delivery(step=step)))).values()
    assert (end_of(fact), fact.step) == ((State.DEFERRED, "retry"), step)
    assert [copy.step for copy in waited] == [other + 2] * waits  # a copy waits two steps on
    assert stage.unbegun == given_back
    assert len(stage.sent()) == 1


@pytest.mark.parametrize(
    ("more", "category", "becomes"),
    [
        ({"doubtful": True, "pinned": "gone"}, "news", IN_DOUBT),
        ({"doubtful": True, "pinned": "a"}, "news", SENT),
        ({"pinned": "gone"}, "news", SENT),
        ({"doubtful": True, "pinned": "gone"}, "alarms", SENT),
    ],
)
async def test_a_delivery_whose_pinned_provider_is_gone_is_not_given_to_another(
    flow: Flow, more: dict[str, Any], category: str, becomes: tuple[State, str]
) -> None:
    """The other one would not recognise the repetition, unless doubles do no harm."""
    await flow.store.tenants.put_category(TENANT, Category("alarms", allow_doubles=True))
    stage = Stage(flow, idempotent=True)
    [fact] = (await stage(Claimed(delivery(category=category, attempt=2, **more)))).values()
    assert end_of(fact) == becomes
    assert len(stage.sent()) == (becomes == SENT)
