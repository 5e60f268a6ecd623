"""Dead letters as the API asks for them: pages, what does not exist, and orders for replays."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import pytest

from support.flow import TENANT, Flow
from tidings.model.days import DayState, day_of
from tidings.model.errors import Archived, Conflict, Invalid, NotFound
from tidings.model.ids import DELIVERY_PREFIX, REPLAY_PREFIX, delivery_id, new_id, notification_of, to_text
from tidings.model.letters import LetterFilter, Replay, ReplayState
from tidings.model.sending import Rejected
from tidings.model.tenant import ApiKey, Scope
from tidings.model.vocabulary import Channel, State
from tidings.policy.idempotency import RESERVATION_LEASE_S
from tidings.services.letters import DeadLetters

KEY = ApiKey("key-1", TENANT, "tk_abcd", b"", tuple(Scope))
RIVAL = ApiKey("key-2", "bank", "tk_efgh", b"", tuple(Scope))
EVERYTHING = LetterFilter()


@pytest.fixture
def desk(flow: Flow) -> DeadLetters:
    return DeadLetters(flow.store, flow.store, flow.clock, random.Random(7).getrandbits)


async def died(flow: Flow, count: int = 1, **body: Any) -> list[UUID]:
    """Notifications whose text message was refused, a second apart; their deliveries' ids, newest first."""
    flow.provider(Channel.SMS).answers = lambda _: Rejected("landline")
    ids = []
    for number in range(count):
        await flow.clock.advance(1)
        request = {"to": {"phone": f"+49151234{number:05}"}, "content": {"sms": {"text": "Hello"}}, **body}
        ids.append(delivery_id(await flow.accept(**request), 2))
    await flow.settle()
    return ids[::-1]


async def order(desk: DeadLetters, key: str | None = None, body: bytes = b"{}") -> tuple[Replay, bool]:
    return await desk.replay(KEY, EVERYTHING, 50, key, body)


async def test_letters_come_in_pages_newest_first(flow: Flow, desk: DeadLetters) -> None:
    ids = await died(flow, 5)
    found: list[UUID] = []
    sizes: list[int] = []
    before: UUID | None = None
    while len(sizes) < 3:
        page, before = await desk.find(TENANT, EVERYTHING, before, 2)
        found += [judged.letter.id for judged in page]
        sizes.append(len(page))
        if before is None:
            break
    assert (found, sizes) == (ids, [2, 2, 1])
    assert await desk.find("bank", EVERYTHING, None, 2) == ([], None)


async def test_a_letter_is_judged_as_of_now(flow: Flow, desk: DeadLetters) -> None:
    [id] = await died(flow, expires_at="2023-11-14T23:00:00Z")  # the clock stands at 22:13
    assert (await desk.get(TENANT, id)).obstacle is None
    await flow.clock.advance(3600)
    assert (await desk.get(TENANT, id)).obstacle == "expired"
    [judged], _ = await desk.find(TENANT, EVERYTHING, None, 1)
    assert judged.obstacle == "expired"
    with pytest.raises(Conflict) as refused:
        await desk.replay_one(KEY, id)
    assert refused.value.code == "expired"
    assert await desk.replays(TENANT, None, 10) == ([], None)


async def test_what_is_no_dead_letter_is_not_found(flow: Flow, desk: DeadLetters) -> None:
    [id] = await died(flow)
    for tenant, wrong in (
        (TENANT, notification_of(id)),
        (TENANT, delivery_id(notification_of(id), 1)),
        (TENANT, delivery_id(new_id(flow.clock.now(), 0, 1), 2)),
        ("bank", id),
    ):
        with pytest.raises(NotFound) as refused:
            await desk.get(tenant, wrong)
        assert (refused.value.kind, refused.value.name) == ("dead letter", to_text(DELIVERY_PREFIX, wrong))


async def test_letters_of_an_archived_day_cannot_be_replayed_but_those_that_are_still_there_can(
    flow: Flow, desk: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    [id] = await died(flow)
    asked: list[tuple[int, int]] = []

    async def states(first: int, last: int) -> list[DayState]:
        asked.append((first, last))
        return [DayState(first, archived=True)]

    monkeypatch.setattr(flow.store.days, "states", states)
    assert (await desk.get(TENANT, id)).letter.id == id
    gone = delivery_id(new_id(flow.clock.now() - 5 * 86_400_000, 0, 1), 2)
    with pytest.raises(Archived, match="2023-11-09"):
        await desk.get(TENANT, gone)
    assert asked == [(day_of(gone), day_of(gone))]


async def test_the_replay_of_one_letter_selects_it_alone(flow: Flow, desk: DeadLetters) -> None:
    newest, _ = await died(flow, 2)
    made = await desk.replay_one(KEY, newest)
    assert made.filter == LetterFilter(state=State.FAILED, delivery_id=newest)
    assert (made.tenant, made.per_second, made.expected, made.created_at) == (TENANT, 1, 1, flow.clock.now())
    assert (made.key_id, made.key_prefix) == (KEY.id, KEY.prefix)
    assert await desk.known(TENANT, made.id) == made


async def test_a_replay_says_how_many_letters_matched(flow: Flow, desk: DeadLetters) -> None:
    await died(flow, 3)
    some = [(EVERYTHING, 3), (LetterFilter(reason="landline"), 3), (LetterFilter(reason="busy"), 0)]
    for number, (filter, expected) in enumerate(some):
        made, was_known = await desk.replay(KEY, filter, 50, f"key-{number}", b"{}")
        assert (made.expected, made.per_second, made.filter, was_known) == (expected, 50, filter, False)
        assert await desk.known(TENANT, made.id) == made
    other, _ = await desk.replay(RIVAL, EVERYTHING, 50, None, b"{}")
    assert (other.tenant, other.expected) == ("bank", 0)


async def test_another_tenants_replays_do_not_exist(flow: Flow, desk: DeadLetters) -> None:
    made, _ = await order(desk)
    for asked in (desk.known("bank", made.id), desk.cancel("bank", made.id)):
        with pytest.raises(NotFound) as refused:
            await asked
        assert (refused.value.kind, refused.value.name) == ("replay", to_text(REPLAY_PREFIX, made.id))
    assert await desk.replays("bank", None, 10) == ([], None)
    assert (await desk.known(TENANT, made.id)).state is ReplayState.WAITING


@pytest.mark.parametrize(("count", "sizes"), [(0, [0]), (1, [1]), (2, [2]), (3, [2, 1]), (4, [2, 2])])
async def test_replays_come_in_pages_newest_first(flow: Flow, desk: DeadLetters, count: int, sizes: list[int]) -> None:
    made: list[UUID] = []
    for _ in range(count):
        await flow.clock.advance(1)
        made.append((await order(desk))[0].id)
    pages: list[list[UUID]] = []
    before: UUID | None = None
    while not pages or (before is not None and len(pages) < 3):
        page, before = await desk.replays(TENANT, before, 2)
        pages.append([replay.id for replay in page])
    assert [len(page) for page in pages] == sizes
    assert [id for page in pages for id in page] == made[::-1]


async def test_a_replay_can_be_ended_once(flow: Flow, desk: DeadLetters) -> None:
    made, _ = await order(desk)
    await flow.clock.advance(7)
    ended = await desk.cancel(TENANT, made.id)
    assert (ended.state, ended.finished_at) == (ReplayState.CANCELLED, flow.clock.now())
    with pytest.raises(Conflict) as refused:
        await desk.cancel(TENANT, made.id)
    assert refused.value.code == "already_ended"


async def test_a_key_that_was_used_for_another_replay_is_a_conflict(flow: Flow, desk: DeadLetters) -> None:
    await order(desk, "k")
    with pytest.raises(Conflict) as refused:
        await order(desk, "k", b'{"per_second":60}')
    assert refused.value.code == "idempotency_key_reused"
    other, was_known = await desk.replay(RIVAL, EVERYTHING, 50, "k", b"{}")
    assert (other.tenant, was_known) == ("bank", False)
    with pytest.raises(Invalid):
        await order(desk, "k\n")


async def test_a_request_for_a_replay_that_died_is_made_again_as_the_same_replay(
    flow: Flow, desk: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*_: object) -> None:
        raise ConnectionError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(flow.store.idempotency, "complete", dies)
        with pytest.raises(ConnectionError):
            await order(desk, "k")
    [first], _ = await desk.replays(TENANT, None, 10)
    with pytest.raises(Conflict) as refused:
        await order(desk, "k")
    assert refused.value.code == "idempotency_in_flight"
    await flow.clock.advance(RESERVATION_LEASE_S)
    again, was_known = await order(desk, "k")
    assert (again.id, was_known) == (first.id, False)
    assert await order(desk, "k") == (await desk.known(TENANT, first.id), True)
    assert len((await desk.replays(TENANT, None, 10))[0]) == 1
