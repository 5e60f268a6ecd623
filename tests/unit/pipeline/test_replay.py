"""Replays of dead letters over the memory adapters: which letters are sent again, how fast, and how often."""

from __future__ import annotations

import pydoc
import random
from collections import Counter
from typing import Any

import pytest

from support.flow import MAIL, TENANT, Flow, takes_it
from tidings.model import topics
from tidings.model.errors import Conflict, NotFound, Unavailable
from tidings.model.ids import delivery_id, notification_of
from tidings.model.letters import LetterFilter, Replay, ReplayState
from tidings.model.outcome import Outcome
from tidings.model.sending import AnyDelivery, Rejected, Retry, SendResult, Uncertain
from tidings.model.tenant import ApiKey, Scope
from tidings.model.user import Address, Suppression
from tidings.model.vocabulary import Channel, Priority, State
from tidings.pipeline.runtime.packs import pack
from tidings.pipeline.schedule.replay import Replaying
from tidings.roles.worker import audit
from tidings.services.letters import DeadLetters
from tidings.telemetry.metrics import Metrics

KEY = ApiKey("key-1", TENANT, "tk_abcd", b"", tuple(Scope))
TEXT = {"sms": {"text": "Hello"}}
EVERYTHING = LetterFilter()


def refuses(outbound: AnyDelivery) -> SendResult:
    return Rejected("landline", detail="code 7")


def puts_off(outbound: AnyDelivery) -> SendResult:
    return Retry("mailbox_busy")


@pytest.fixture
def desk(flow: Flow) -> DeadLetters:
    return DeadLetters(flow.store, flow.store, flow.clock, random.Random(7).getrandbits)


async def died(flow: Flow, count: int = 1, **body: Any) -> list[Any]:
    """Notifications whose text message is refused; their deliveries' ids. The provider works again afterwards."""
    flow.provider(Channel.SMS).answers = refuses
    ids = []
    for number in range(count):
        request: dict[str, Any] = {"to": {"phone": f"+49151234{number:05}"}, "content": TEXT} | body
        ids.append(delivery_id(await flow.accept(**request), 2))
    await flow.settle()
    flow.provider(Channel.SMS).answers = takes_it
    flow.provider(Channel.SMS).sent.clear()
    return ids


def sent(flow: Flow) -> Counter[Any]:
    return Counter(one.id for one in flow.provider(Channel.SMS).sent)


async def replay(
    desk: DeadLetters, filter: LetterFilter = EVERYTHING, per_second: int = 50, key: str | None = None
) -> Replay:
    asked, _ = await desk.replay(KEY, filter, per_second, key, b"{}")
    return asked


async def test_a_delivery_that_is_lost_after_its_replay_is_found(flow: Flow, desk: DeadLetters) -> None:
    [id] = await died(flow)
    await flow.clock.advance(3 * 3600)
    auditor = audit(flow.parts(), flow.clock)
    await auditor.once()
    await desk.replay_one(KEY, id)
    await Replaying(flow.store, flow.store, flow.queue, flow.clock, Metrics()).once()
    await flow.settle(topics.RECORD)
    lane = flow.broker.lane(topics.deliveries(Channel.SMS, Priority.NORMAL), topics.DELIVER)
    assert len(lane.waiting) == 1
    lane.clear()
    for _ in range(2):
        await flow.clock.advance(150)
        await auditor.once()
        await flow.settle()
    assert [outbound.attempt for outbound in flow.provider(Channel.SMS).sent] == [2]
    assert (await flow.view(notification_of(id))).state is State.SENT


async def test_a_replayed_delivery_that_is_lost_keeps_the_tries_of_its_replay(flow: Flow, desk: DeadLetters) -> None:
    [id] = await died(flow)
    auditor = audit(flow.parts(), flow.clock)
    flow.provider(Channel.SMS).answers = lambda _: Retry("mailbox_busy")
    await desk.replay_one(KEY, id)
    await Replaying(flow.store, flow.store, flow.queue, flow.clock, Metrics()).once()
    await flow.settle()
    await flow.store.schedule.settle([row.id for row in await flow.store.schedule.due(2**60, 10, 0.0)])
    for _ in range(2):
        await flow.clock.advance(150)
        await auditor.once()
        await flow.advance(150)
    assert [outbound.attempt for outbound in flow.provider(Channel.SMS).sent] == [2, 3, 4]


async def test_a_replayed_letter_is_sent_once(flow: Flow, desk: DeadLetters) -> None:
    flow.provider(Channel.SMS).answers = puts_off
    id = await flow.accept(to={"phone": "+4915123456789"}, content=TEXT)
    await flow.settle()
    for _ in range(2):
        await flow.advance(3600)
    assert (await flow.view(id)).state is State.DEAD
    before = len(flow.provider(Channel.SMS).sent)
    flow.provider(Channel.SMS).answers = takes_it
    asked = await desk.replay_one(KEY, delivery_id(id, 2))
    await flow.settle()
    assert len(flow.provider(Channel.SMS).sent) == before + 1
    seen = await flow.view(id)
    assert seen.state is State.SENT
    assert seen.deliveries[0].attempts[-1].number == 4
    [told] = [entry for entry in seen.timeline if entry.reason == "replayed"]
    assert told.state is State.DEFERRED
    assert told.detail.startswith("rpl_")
    done = await desk.known(TENANT, asked.id)
    assert (done.state, done.found, done.replayed, done.skipped) == (ReplayState.FINISHED, 1, 1, {})
    assert (done.key_id, done.key_prefix) == (KEY.id, KEY.prefix)
    with pytest.raises(NotFound):
        await desk.get(TENANT, delivery_id(id, 2))
    tallied = {(row.channel, row.state): row.count for row in await flow.store.history.tally(TENANT)}
    assert tallied == {("sms", State.SENT): 1, (None, State.SENT): 1}


async def test_a_letter_replayed_twice_at_once_is_sent_once(flow: Flow, desk: DeadLetters) -> None:
    [id] = await died(flow)
    asked = [await desk.replay_one(KEY, id), await replay(desk), await desk.replay_one(KEY, id)]
    replaying = Replaying(flow.store, flow.store, flow.queue, flow.clock, Metrics())
    # All three find the letter still dead: nothing is recorded in between.
    assert [await replaying.once() for _ in range(4)] == [True, True, True, False]
    assert [(await desk.known(TENANT, one.id)).replayed for one in asked] == [1, 1, 1]
    await flow.settle()
    await flow.advance(60)
    assert sent(flow) == {id: 1}


async def test_replaying_a_letter_again_after_it_was_sent_does_nothing(flow: Flow, desk: DeadLetters) -> None:
    [id] = await died(flow)
    await replay(desk)
    await flow.settle()
    again = await replay(desk)
    await flow.settle()
    assert (await desk.known(TENANT, again.id)).found == 0
    assert sent(flow) == {id: 1}


async def test_a_crash_between_put_and_progress_repeats_harmlessly(
    flow: Flow, desk: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await died(flow, 3)
    asked = await replay(desk)
    replaying = Replaying(flow.store, flow.store, flow.queue, flow.clock, Metrics())

    async def crash(*_: object) -> bool:
        raise Unavailable("the process died")

    with monkeypatch.context() as broken:
        broken.setattr(flow.store.replays, "progress", crash)
        with pytest.raises(Unavailable):
            await replaying.once()
    # When the lease ends, another worker repeats the page, before any of its facts was recorded.
    await flow.clock.advance(61)
    assert await replaying.once()
    await flow.settle()
    await flow.advance(60)
    assert sent(flow) == dict.fromkeys(ids, 1)
    done = await desk.known(TENANT, asked.id)
    assert (done.state, done.replayed) == (ReplayState.FINISHED, 3)


async def test_the_rate_is_kept_across_pages(flow: Flow, desk: DeadLetters) -> None:
    ids = await died(flow, 25)
    asked = await replay(desk, per_second=2)
    begun = flow.clock.now()
    assert asked.expected == 25
    await flow.settle()
    for second in range(1, 14):
        assert len(flow.provider(Channel.SMS).sent) <= 2 * second - 1, second
        await flow.advance(1)
    assert sent(flow) == dict.fromkeys(ids, 1)
    done = await desk.known(TENANT, asked.id)
    assert (done.state, done.replayed) == (ReplayState.FINISHED, 25)
    assert done.finished_at is not None
    assert done.finished_at - begun >= 10_000


async def test_an_outage_of_the_worker_is_not_caught_up_at_once(flow: Flow, desk: DeadLetters) -> None:
    await died(flow, 12)
    await replay(desk, per_second=1)
    await flow.settle()
    await flow.clock.advance(3600)
    await flow.settle()
    # The page that was planned before the outage is due as a whole; the next page begins anew.
    assert len(flow.provider(Channel.SMS).sent) == 3


async def test_cancel_stops_at_the_next_page(flow: Flow, desk: DeadLetters) -> None:
    await died(flow, 20)
    asked = await replay(desk, per_second=2)
    await flow.settle()
    cancelled = await desk.cancel(TENANT, asked.id)
    assert cancelled.state is ReplayState.CANCELLED
    for _ in range(20):
        await flow.advance(1)
    assert len(flow.provider(Channel.SMS).sent) == 4
    assert (await desk.known(TENANT, asked.id)).replayed == 4
    with pytest.raises(Conflict, match="nothing is left to stop"):
        await desk.cancel(TENANT, asked.id)


async def test_a_letter_with_an_obstacle_is_skipped_with_the_reason(flow: Flow, desk: DeadLetters) -> None:
    expiring = "2023-11-14T23:00:00Z"
    [expired] = await died(flow, expires_at=expiring)
    [cancelled] = await died(flow)
    await flow.user("gone")
    [orphan] = await died(flow, to={"user_id": "gone"})
    [bounced] = await died(flow, to={"phone": "+4915100000009"})
    [good] = await died(flow, to={"phone": "+4915100000008"})
    await flow.store.cancellations.cancel(TENANT, notification_of(cancelled), flow.clock.now())
    await flow.store.users.delete(TENANT, "gone")
    number = Address(Channel.SMS, "+4915100000009")
    await flow.store.users.suppress([Suppression(TENANT, number, "bounced", flow.clock.now())])
    await flow.advance(3600)
    judged, _ = await desk.find(TENANT, EVERYTHING, None, 50)
    why = {one.letter.id: one.obstacle for one in judged}
    assert why == {
        expired: "expired",
        cancelled: "cancelled",
        orphan: "unknown_user",
        bounced: "address_suppressed",
        good: None,
    }
    asked = await replay(desk)
    await flow.settle()
    done = await desk.known(TENANT, asked.id)
    assert (done.found, done.replayed) == (5, 1)
    assert done.skipped == {"expired": 1, "cancelled": 1, "unknown_user": 1, "address_suppressed": 1}
    assert sent(flow) == {good: 1}
    with pytest.raises(Conflict, match="suppression list"):
        await desk.replay_one(KEY, bounced)


async def test_a_letter_whose_copy_was_sent_is_not_sent_again(flow: Flow, desk: DeadLetters) -> None:
    [twice] = await died(flow)
    two = [Outcome(twice, TENANT, flow.clock.now(), state, attempt=2) for state in (State.SENT, State.DEAD)]
    await flow.queue.put(pack(two))
    await flow.settle()
    judged, _ = await desk.find(TENANT, EVERYTHING, None, 50)
    assert [(one.letter.id, one.letter.last.state, one.obstacle) for one in judged] == [(twice, State.DEAD, "sent")]
    with pytest.raises(Conflict, match="second copy"):
        await desk.replay_one(KEY, twice)


async def test_of_a_chain_of_addresses_only_the_last_is_replayed(flow: Flow, desk: DeadLetters) -> None:
    await flow.user("ada")
    flow.provider(Channel.EMAIL).answers = refuses
    [text] = await died(
        flow,
        to={"user_id": "ada"},
        content=MAIL | TEXT,
        channels=["email", "sms"],
        strategy="first_reachable",
    )
    mail = delivery_id(notification_of(text), 1)
    judged, _ = await desk.find(TENANT, EVERYTHING, None, 50)
    assert [(one.letter.id, one.obstacle) for one in judged] == [(text, None), (mail, "passed_on")]
    flow.provider(Channel.EMAIL).sent.clear()
    await replay(desk)
    await flow.settle()
    assert sent(flow) == {text: 1}
    assert not flow.provider(Channel.EMAIL).sent


async def test_an_uncertain_delivery_is_replayed_on_request(flow: Flow, desk: DeadLetters) -> None:
    flow.provider(Channel.SMS).answers = lambda _: Uncertain("timeout")
    id = await flow.accept(to={"phone": "+4915123456789"}, content=TEXT)
    await flow.settle()
    flow.provider(Channel.SMS).answers = takes_it
    asked = await replay(desk)
    await flow.settle()
    assert (await desk.known(TENANT, asked.id)).found == 0
    await replay(desk, LetterFilter(state=State.UNCERTAIN))
    await flow.settle()
    assert (await flow.view(id)).state is State.SENT
    assert sent(flow) == {delivery_id(id, 2): 2}


async def test_a_replay_uses_the_users_present_language(flow: Flow, desk: DeadLetters) -> None:
    await flow.user("ada", locale="de", name="Ada")
    await died(flow, to={"user_id": "ada"})
    await flow.user("ada", locale="pt-BR", name="Ada L.")
    await replay(desk)
    await flow.settle()
    [outbound] = flow.provider(Channel.SMS).sent
    assert (outbound.locale, outbound.name, outbound.attempt) == ("pt-BR", "Ada L.", 2)


async def test_a_replay_that_fails_is_a_dead_letter_again(flow: Flow, desk: DeadLetters) -> None:
    [id] = await died(flow)
    for attempt in (2, 3):
        flow.provider(Channel.SMS).answers = refuses
        await desk.replay_one(KEY, id)
        await flow.settle()
        judged = await desk.get(TENANT, id)
        assert (judged.letter.last.state, judged.letter.last.attempt) == (State.FAILED, attempt)
    assert sent(flow) == {id: 2}


async def test_a_replay_has_all_tries_anew(flow: Flow, desk: DeadLetters) -> None:
    [id] = await died(flow)
    flow.provider(Channel.SMS).answers = puts_off
    await desk.replay_one(KEY, id)
    await flow.settle()
    for _ in range(2):
        await flow.advance(3600)
    judged = await desk.get(TENANT, id)
    assert (judged.letter.last.state, judged.letter.last.attempt) == (State.DEAD, 4)
    assert sent(flow) == {id: 3}


async def test_an_idempotency_key_makes_one_replay(flow: Flow, desk: DeadLetters) -> None:
    first, replayed = await desk.replay(KEY, EVERYTHING, 50, "once", b"{}")
    again, replayed_again = await desk.replay(KEY, EVERYTHING, 50, "once", b"{}")
    assert (first.id, replayed, replayed_again) == (again.id, False, True)
    with pytest.raises(Conflict, match="another body"):
        await desk.replay(KEY, EVERYTHING, 60, "once", b'{"per_second":60}')
    assert len((await desk.replays(TENANT, None, 10))[0]) == 1


async def test_another_tenants_letters_do_not_exist(flow: Flow, desk: DeadLetters) -> None:
    [id] = await died(flow)
    rival = ApiKey("key-2", "rival", "tk_efgh", b"", tuple(Scope))
    with pytest.raises(NotFound):
        await desk.replay_one(rival, id)
    await desk.replay(rival, EVERYTHING, 50, None, b"{}")
    await flow.settle()
    assert not sent(flow)


@pytest.mark.parametrize(
    "where", ["tidings.pipeline.schedule.judging.obstacle", "tidings.pipeline.schedule.replay.build"]
)
async def test_a_letter_that_fails_does_not_affect_others(
    flow: Flow, desk: DeadLetters, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await died(flow, 5)
    whole = pydoc.locate(where)

    def broken(*arguments: Any, **options: Any) -> Any:
        about = getattr(arguments[0], "record", None)
        if (about.notification if about else arguments[0]).id == notification_of(ids[2]):
            raise ZeroDivisionError
        return whole(*arguments, **options)  # type: ignore[operator]

    monkeypatch.setattr(where, broken)
    asked = await replay(desk)
    for _ in range(5):
        await flow.advance(1)
    assert set(sent(flow)) == {*ids} - {ids[2]}
    seen = await desk.known(TENANT, asked.id)
    assert (seen.state, seen.found, seen.replayed, seen.skipped) == (ReplayState.FINISHED, 5, 4, {"failed": 1})
