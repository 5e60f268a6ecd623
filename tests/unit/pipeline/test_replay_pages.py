"""Pages of a replay: how many letters one holds, when each of them leaves, and what is noted of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from support.stores import delivery, notification
from tidings.backends.memory.clock import VirtualClock
from tidings.model import topics
from tidings.model.errors import Unavailable
from tidings.model.history import Event, NotificationRecord
from tidings.model.ids import REPLAY_PREFIX, notification_of, to_text
from tidings.model.letters import DeadLetter, LetterFilter, Replay, ReplayState
from tidings.model.outcome import Outcome
from tidings.model.user import Address, Profile
from tidings.model.vocabulary import Channel, Priority, Reason, State
from tidings.model.wire import decode_delivery, decode_outcomes
from tidings.pipeline.schedule.replay import AHEAD_MS, LARGEST_PAGE, LEASE_S, LONGEST_SLEEP_S, Replaying
from tidings.policy.stuck import STUCK_AFTER_MS
from tidings.ports.queue import Item
from tidings.ports.replays import LetterPage
from tidings.ports.standings import Standing
from tidings.ports.users import Person
from tidings.telemetry.metrics import Metrics

FILTER = LetterFilter(category="news")
CURSOR = UUID(int=77)
REPLAY = Replay(UUID(int=5), "shop", FILTER, 3, "key-1", "tk_abcd", 0)


def letter(number: int, attempt: int = 1, user_id: str | None = None) -> DeadLetter:
    """A text message that was refused."""
    about = notification("shop", 1_600_000_000_000 + number, user_id)
    id = delivery(about)
    last = Event(id, about.accepted_at, State.FAILED, attempt, address="+4930123456")
    return DeadLetter(id, last, NotificationRecord(about, (last,)))


class World:
    """A replay with these pages of letters, and everything that is done to it."""

    def __init__(self, *pages: Sequence[DeadLetter], replay: Replay = REPLAY) -> None:
        self.clock, self.metrics = VirtualClock(), Metrics()
        self.replay: Replay | None = replay
        self.pages = list(pages)
        self.cancelled: set[UUID] = set()
        self.people: dict[tuple[str, str], Person] = {}
        self.claims: list[tuple[int, float]] = []
        self.asked: list[tuple[Any, ...]] = []
        self.noted: list[tuple[Replay, int]] = []
        self.watched: list[tuple[UUID, int]] = []
        self.facts: list[Outcome] = []
        self.done: list[str] = []
        self.holds = True
        self.fails: Exception | None = None
        directory: Any = SimpleNamespace(replays=self)
        shard: Any = SimpleNamespace(letters=self, watched=self, standings=self)
        self.replaying = Replaying(directory, shard, self, self.clock, self.metrics)  # type: ignore[arg-type]

    async def claim(self, now: int, lease_s: float) -> Replay | None:
        self.claims.append((now, lease_s))
        if self.fails is not None:
            raise self.fails
        return self.replay

    async def find(self, *asked: Any) -> LetterPage:
        self.asked.append(asked)
        letters = tuple(self.pages.pop(0))
        return LetterPage(letters, CURSOR if self.pages else None)

    async def look_up(self, *_: Any, **__: Any) -> Standing:
        return Standing(people=self.people, cancelled=self.cancelled)

    async def watch(self, looks: Sequence[tuple[UUID, int]]) -> None:
        self.done.append("watch")
        self.watched += looks

    async def put(self, items: Sequence[Item]) -> None:
        self.done.append("put")
        self.facts += [fact for item in items for fact in decode_outcomes(item.body)]

    async def progress(self, replay: Replay, next_look: int) -> bool:
        self.done.append("progress")
        self.noted.append((replay, next_look))
        self.replay = replay if replay.state is ReplayState.RUNNING else None
        return self.holds

    @property
    def dues(self) -> list[int]:
        """When each of the letters leaves, from now."""
        return [fact.wait.due - self.clock.now() for fact in self.facts if fact.wait is not None]


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """Nothing is logged: a traceback with all variables would take a second."""
    with capture_logs():
        yield


async def test_while_no_replay_waits_nothing_is_done() -> None:
    world = World()
    world.replay = None
    assert not await world.replaying.once()
    assert (world.claims, world.asked, world.done) == ([(world.clock.now(), LEASE_S)], [], [])


@pytest.mark.parametrize(("per_second", "most"), [(1, 2), (3, 6), (250, 500), (251, LARGEST_PAGE), (9_000, 500)])
async def test_a_page_holds_the_letters_of_two_seconds_but_no_more_than_fit(per_second: int, most: int) -> None:
    world = World([], replay=replace(REPLAY, per_second=per_second, position=CURSOR))
    assert await world.replaying.once()
    assert world.asked == [("shop", FILTER, CURSOR, most)]


async def test_a_letter_becomes_the_fact_that_it_waits_for_its_next_attempt() -> None:
    world = World([letter(1, attempt=4)])
    await world.replaying.once()
    [fact] = world.facts
    assert fact.wait is not None
    sms = Address(Channel.SMS, "+4930123456")
    assert replace(fact, wait=None) == Outcome(
        fact.id,
        "shop",
        world.clock.now(),
        State.DEFERRED,
        attempt=5,
        reason=Reason.REPLAYED,
        detail=to_text(REPLAY_PREFIX, REPLAY.id),
        address=sms,
    )
    assert (fact.wait.topic, fact.wait.held) == (topics.deliveries(Channel.SMS, Priority.NORMAL), False)
    waiting = decode_delivery(fact.wait.body)
    assert (waiting.id, waiting.address, waiting.attempt, waiting.first_attempt) == (fact.id, sms, 5, 5)
    assert waiting.step == 1, "the steps of every replay of this attempt are the same, after that of the wait"


async def test_it_goes_to_the_users_present_number_in_the_present_language() -> None:
    world = World([letter(1, user_id="ann")])
    world.people = {("shop", "ann"): Person(Profile(phone="+4930999", locale="fr"), incarnation=3)}
    await world.replaying.once()
    [fact] = world.facts
    assert fact.wait is not None
    waiting = decode_delivery(fact.wait.body)
    assert (fact.address, waiting.address, waiting.locale) == (waiting.address, Address(Channel.SMS, "+4930999"), "fr")


async def test_letters_leave_at_the_rate_and_the_next_page_follows_a_second_before_its_turn() -> None:
    world = World([letter(number) for number in range(6)], [letter(7)])
    await world.replaying.once()
    now = world.clock.now()
    assert world.dues == [0, 334, 667, 1000, 1334, 1667]
    [(noted, next_look)] = world.noted
    assert (noted.next_due - now, next_look - now) == (2000, 2000 - AHEAD_MS)
    await world.clock.advance(1.5)
    await world.replaying.once()
    assert world.dues[-1] == 500, "the second page goes on where the first ends"


async def test_the_rate_is_exact_for_many_letters() -> None:
    world = World([letter(number) for number in range(LARGEST_PAGE)], replay=replace(REPLAY, per_second=1000))
    await world.replaying.once()
    assert world.dues[-1] == LARGEST_PAGE - 1


async def test_a_replay_that_is_late_begins_anew_and_looks_again_at_once() -> None:
    world = World([letter(1)], [], replay=replace(REPLAY, next_due=1))
    await world.replaying.once()
    assert world.dues == [0]
    [(noted, next_look)] = world.noted
    assert (noted.next_due, next_look) == (world.clock.now() + 334, world.clock.now())


async def test_letters_are_watched_from_their_turn_on_before_they_are_put() -> None:
    world = World([letter(1), letter(2)])
    await world.replaying.once()
    assert world.done == ["watch", "put", "progress"]
    now = world.clock.now() + STUCK_AFTER_MS
    assert world.watched == [
        (notification_of(fact.id), now + after) for fact, after in zip(world.facts, (0, 334), strict=True)
    ]


async def test_a_page_without_letters_puts_nothing_and_goes_on() -> None:
    world = World([], [letter(1)], replay=replace(REPLAY, next_due=99))
    assert await world.replaying.once()
    assert world.done == ["progress"]
    [(noted, _)] = world.noted
    assert (noted.state, noted.position, noted.finished_at) == (ReplayState.RUNNING, CURSOR, None)


async def test_the_progress_adds_up_over_the_pages_and_the_last_ends_it() -> None:
    known = replace(REPLAY, found=10, replayed=7, skipped={"cancelled": 2, "expired": 1})
    first, stopped, other, last = letter(1), letter(2), letter(3), letter(4)
    world = World([first, stopped, other], [last], replay=known)
    world.cancelled = {notification_of(stopped.id)}
    await world.replaying.once()
    assert world.dues == [0, 334], "a letter that is skipped takes no turn"
    await world.clock.advance(5)
    await world.replaying.once()
    [(running, _), (ended, _)] = world.noted
    assert (running.found, running.replayed, running.skipped) == (13, 9, {"cancelled": 3, "expired": 1})
    assert (running.state, running.position, running.finished_at) == (ReplayState.RUNNING, CURSOR, None)
    assert (ended.found, ended.replayed, ended.skipped) == (14, 10, {"cancelled": 3, "expired": 1})
    assert (ended.state, ended.position, ended.finished_at) == (ReplayState.FINISHED, None, world.clock.now())


async def test_letters_that_fail_are_counted_beside_those_with_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = [letter(number) for number in range(5)]
    world = World(letters)
    world.cancelled = {notification_of(letters[0].id)}
    judge = Replaying._judged

    async def judged(replaying: Replaying, asked: Sequence[DeadLetter], now: int) -> Any:
        return (await judge(replaying, asked, now))[:-2]

    monkeypatch.setattr(Replaying, "_judged", judged)
    await world.replaying.once()
    [(noted, _)] = world.noted
    assert (noted.found, noted.replayed, noted.skipped) == (5, 2, {"cancelled": 1, "failed": 2})


async def test_a_lost_lease_is_counted() -> None:
    world = World([letter(1)])
    world.holds = False
    assert await world.replaying.once()
    lost = {"stage": "replay", "topic": "", "kind": "lease_lost"}
    assert world.metrics.value("tidings_stage_failures_total", lost) == 1


async def test_letters_are_judged_one_by_one_only_if_the_store_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    world, looks = World([letter(1), letter(2)]), 0

    async def away(*_: Any, **__: Any) -> Standing:
        nonlocal looks
        looks += 1
        raise Unavailable("away")

    monkeypatch.setattr(world, "look_up", away)
    with pytest.raises(Unavailable):
        await world.replaying.once()
    assert (looks, world.done) == (1, [])


async def test_a_store_that_goes_away_while_they_are_judged_one_by_one_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world, looks = World([letter(1), letter(2)]), 0

    async def fails(*_: Any, **__: Any) -> Standing:
        nonlocal looks
        looks += 1
        raise ZeroDivisionError if looks == 1 else Unavailable("away")

    monkeypatch.setattr(world, "look_up", fails)
    with pytest.raises(Unavailable):
        await world.replaying.once()
    assert (looks, world.done) == (2, []), "nothing counts as failed"


async def test_letters_that_can_be_judged_alone_are_sent_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = [letter(number) for number in range(4)]
    world = World(letters)
    bad = notification_of(letters[1].id)

    async def fails(*_: Any, notifications: Sequence[UUID] = (), **__: Any) -> Standing:
        if bad in notifications:
            raise ZeroDivisionError
        return Standing()

    monkeypatch.setattr(world, "look_up", fails)
    await world.replaying.once()
    assert [fact.id for fact in world.facts] == [one.id for one in letters if one is not letters[1]]
    assert world.noted[0][0].skipped == {"failed": 1}


async def test_page_follows_page_and_then_it_looks_again_every_other_second() -> None:
    world, stopping = World([letter(1)], [letter(2)]), asyncio.Event()
    running = asyncio.create_task(world.replaying.run(stopping))
    await world.clock.settle()
    assert (len(world.noted), len(world.claims)) == (2, 3)
    await world.clock.advance(LONGEST_SLEEP_S - 0.1)
    assert len(world.claims) == 3
    await world.clock.advance(0.1)
    assert len(world.claims) == 4
    stopping.set()
    await world.clock.settle()
    assert running.done()
    await running


async def test_a_replay_survives_an_outage_and_looks_again_soon() -> None:
    world, stopping = World(), asyncio.Event()
    world.replay, world.fails = None, Unavailable("away")
    running = asyncio.create_task(world.replaying.run(stopping))
    await world.clock.advance(0.4)
    assert len(world.claims) == 1
    await world.clock.advance(0.1)
    assert len(world.claims) == 2
    world.fails = None
    await world.clock.advance(1.0)
    world.fails = Unavailable("away again")
    await world.clock.advance(LONGEST_SLEEP_S)
    before = len(world.claims)
    await world.clock.advance(0.5)
    assert len(world.claims) == before + 1, "after a success the first pause is short again"
    away = {"stage": "replay", "topic": "", "kind": "unavailable"}
    assert world.metrics.value("tidings_stage_failures_total", away) == 4
    stopping.set()
    await world.clock.settle()
    assert running.done()
