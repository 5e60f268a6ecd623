"""One failure contract for every loop: a failure affects only the item that is its cause, and no loop ends."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from support import eventually
from support.flow import TENANT, Flow
from support.queues import depth
from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.queue import MemoryBroker, MemoryClaim, MemoryQueue
from tidings.backends.objects.folder import Folder
from tidings.model import topics
from tidings.model.accounting import AcceptedCount
from tidings.model.errors import LeaseLost, Unavailable
from tidings.model.ids import new_id
from tidings.model.outcome import Outcome, Wait
from tidings.model.vocabulary import State
from tidings.model.wire import decode_outcomes
from tidings.pipeline.accept.accepted import WRITE_EVERY_S, AcceptedCounter
from tidings.pipeline.runtime.beginning import Begin, Beginning
from tidings.pipeline.runtime.reader import Claimed, Partly, Reader, Reading
from tidings.pipeline.schedule.stage import LEASE_S, Schedule
from tidings.ports.queue import Claim, Item
from tidings.telemetry.metrics import Metrics


class Stage:
    """A stage that reads numbers from `in`. Items in `poison` fail before they are begun, items in `late` after."""

    def __init__(self, folder: Path, *, begins: bool) -> None:
        self.clock = VirtualClock()
        self.queue = MemoryQueue(MemoryBroker(self.clock))
        self.aside = Folder(folder)
        self.begins = begins
        self.poison: set[bytes] = set()
        self.late: set[bytes] = set()
        self.handed_over: list[bytes] = []
        self.doubted: list[bytes] = []

    async def fill(self, count: int) -> None:
        await self.queue.declare({"in": ("s",), "out": ("g",)})
        await self.queue.put([Item("in", f"k{number}", b"%d" % number) for number in range(count)])

    def reader(self, lease_s: float | None = 30.0, max_items: int = 500) -> Reader[bytes]:
        reading = Reading(
            stage="s", topic="in", decode=bytes, work=self._work, lease_s=lease_s, max_wait_s=0.0, max_items=max_items
        )
        return Reader(reading, self.queue, self.aside, self.clock, Metrics())

    async def _work(self, batch: Sequence[Claimed[bytes]], begin: Begin) -> list[Item] | Partly:
        if any(claimed.value in self.poison for claimed in batch):
            raise ZeroDivisionError("poison")
        out = []
        for claimed in batch:
            if claimed.begun:
                self.doubted.append(claimed.value)
                if claimed.value not in self.late:
                    continue
            if self.begins:
                await begin([claimed.place])
            self.handed_over.append(claimed.value)
            if claimed.value in self.late:
                raise ZeroDivisionError("after it was begun")
            out.append(Item("out", "k", claimed.value))
        return out

    async def work(self, reader: Reader[bytes]) -> None:
        for _ in range(100):
            if not await reader.once():
                return
        pytest.fail("there is no end to it")

    async def out(self) -> list[int]:
        found: list[int] = []
        while (claim := await self.queue.claim("out", "g", 1000, 0)) is not None:
            found += [int(item.body) for item in claim.items]
            await claim.done()
        return sorted(found)

    async def set_aside(self) -> list[tuple[bytes, str]]:
        names = [name async for name in self.aside.list("aside/") if name.endswith(".bin")]
        return sorted(
            [
                (await self.aside.get(name) or b"", (await self.aside.get(name[:-3] + "txt") or b"").decode())
                for name in names
            ]
        )


@pytest.mark.parametrize("lease_s", [None, 30.0])
async def test_an_item_that_fails_before_it_is_begun_goes_aside_as_it_came(
    tmp_path: Path, lease_s: float | None
) -> None:
    stage = Stage(tmp_path, begins=lease_s is not None)
    stage.poison = {b"17"}
    await stage.fill(100)
    await stage.work(stage.reader(lease_s))
    assert await stage.out() == [number for number in range(100) if number != 17]
    [(body, why)] = await stage.set_aside()
    assert (body, why) == (b"17", "key: k17\nreason: ZeroDivisionError('poison')\n")
    assert await depth(stage.queue, "in", "s") == 0


async def test_items_begun_before_a_failure_come_back_as_begun_and_the_rest_goes_on(tmp_path: Path) -> None:
    stage = Stage(tmp_path, begins=True)
    stage.late = {b"5"}
    await stage.fill(10)
    await stage.work(stage.reader())
    # 0 to 5 were begun when 5 failed: 0 to 4 must not be handed over again, and 5 fails for good.
    assert sorted(map(int, stage.doubted)) == [0, 1, 2, 3, 4, 5]
    assert await stage.out() == [6, 7, 8, 9]
    assert sorted(stage.handed_over.count(b"%d" % number) for number in range(10) if number != 5) == [1] * 9
    assert [body for body, _ in await stage.set_aside()] == [b"5"]
    assert await depth(stage.queue, "in", "s") == 0


async def test_every_item_may_be_poison(tmp_path: Path) -> None:
    stage = Stage(tmp_path, begins=True)
    stage.poison = {b"%d" % number for number in range(20)}
    await stage.fill(20)
    await stage.work(stage.reader())
    assert len(await stage.set_aside()) == 20
    assert await depth(stage.queue, "in", "s") == 0


async def test_an_item_whose_outputs_are_refused_is_found_by_halving_the_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, begins=False)
    await stage.fill(64)
    put = stage.queue.broker.put

    def picky(items: Sequence[Item]) -> None:
        if any(item.body == b"33" for item in items):
            raise ValueError("too large")
        put(items)

    done = stage.queue.claim

    async def claim(*arguments: object, **options: object) -> Claim | None:
        found = await done(*arguments, **options)  # type: ignore[arg-type]
        return None if found is None else Refusing(found)

    class Refusing:
        def __init__(self, claim: Claim) -> None:
            self._claim = claim
            self.items = claim.items
            self.begin = claim.begin
            self.release = claim.release

        async def done(self, outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
            picky(())
            if any(item.body == b"33" for item in outputs):
                raise ValueError("too large")
            await self._claim.done(outputs, released)

    monkeypatch.setattr(stage.queue, "claim", claim)
    reader = stage.reader()
    for _ in range(100):
        try:
            if not await reader.once():
                break
        except ValueError:
            continue
    monkeypatch.undo()
    assert await stage.out() == [number for number in range(64) if number != 33]
    assert [body for body, _ in await stage.set_aside()] == [b"33"]


async def test_a_full_disk_stops_only_the_items_that_must_go_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, begins=True)
    stage.poison = {b"3"}
    await stage.fill(6)
    reader = stage.reader()
    with monkeypatch.context() as patch:

        async def full(*_: object) -> None:
            raise OSError(28, "no space left on device")

        patch.setattr(stage.aside, "put", full)
        with pytest.raises(Unavailable, match="put aside"):
            await reader.once()
        assert await stage.out() == [0, 1, 2, 4, 5]
    await stage.work(reader)
    assert [body for body, _ in await stage.set_aside()] == [b"3"]


async def test_a_decoder_that_raises_affects_only_its_item(tmp_path: Path) -> None:
    stage = Stage(tmp_path, begins=True)
    await stage.fill(3)
    reader = stage.reader()

    def decode(body: bytes) -> bytes:
        if body == b"1":
            raise RecursionError("too deep")
        return body

    reader._reading = msgspec.structs.replace(reader._reading, decode=decode)
    await stage.work(reader)
    assert await stage.out() == [0, 2]
    assert [body for body, _ in await stage.set_aside()] == [b"1"]


@pytest.mark.parametrize("failures", [1, 2, 5])
async def test_a_batch_whose_look_ups_fail_goes_back_unbegun_however_often_release_fails(
    tmp_path: Path, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, begins=True)
    await stage.fill(300)
    reader = stage.reader()
    asked = 0

    async def away(*_: object) -> list[Item]:
        raise Unavailable("the store is away")

    release = MemoryClaim.release

    async def failing(self: MemoryClaim) -> None:
        nonlocal asked
        asked += 1
        if asked <= failures:
            raise Unavailable("so is the queue")
        await release(self)

    reader._reading = msgspec.structs.replace(reader._reading, work=away)
    monkeypatch.setattr(MemoryClaim, "release", failing)
    with pytest.raises(Unavailable, match="store"):
        await reader.once()
    await stage.clock.advance(31)
    again = await stage.queue.claim("in", "s", 1000, 0, 30.0)
    assert again is not None
    assert len(again.items) == 300
    assert not any(item.redelivered for item in again.items)


class Slow:
    """A claim whose `begin` returns when the test lets it."""

    items: Sequence[object] = ()

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.may_answer = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def begin(self, places: Collection[int]) -> None:
        self.asked.append(list(places))
        await self.may_answer.acquire()
        if self.error is not None:
            raise self.error


async def test_items_begun_during_a_call_share_the_next_call() -> None:
    slow = Slow()
    beginning = Beginning(slow)  # type: ignore[arg-type]
    calls = [asyncio.create_task(beginning.begin([0]))]
    await eventually(lambda: slow.asked == [[0]])
    calls += [asyncio.create_task(beginning.begin([place, place + 100])) for place in range(1, 6)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert slow.asked == [[0]]
    assert not beginning.places
    slow.may_answer.release()
    await eventually(lambda: len(slow.asked) == 2)
    assert slow.asked[1] == [1, 2, 3, 4, 5, 101, 102, 103, 104, 105]
    assert calls[0].done()
    assert not calls[1].done()
    slow.may_answer.release()
    await asyncio.gather(*calls)
    assert beginning.places == {0, 1, 2, 3, 4, 5, 101, 102, 103, 104, 105}


@pytest.mark.parametrize("error", [LeaseLost("over"), Unavailable("away")])
async def test_a_failed_begin_fails_for_each_caller_that_shared_it(error: Exception) -> None:
    slow = Slow()
    beginning = Beginning(slow)  # type: ignore[arg-type]
    first = asyncio.create_task(beginning.begin([0]))
    await eventually(lambda: slow.asked)
    others = [asyncio.create_task(beginning.begin([place])) for place in (1, 2)]
    slow.may_answer.release()
    await first
    slow.error = error
    slow.may_answer.release()
    assert await asyncio.gather(*others, return_exceptions=True) == [error, error]
    assert beginning.places == {0}


async def test_the_recorder_sets_refused_facts_aside_and_writes_the_rest(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, bad = flow.store.history.append, new_id(flow.clock.now(), 1, 7)

    async def picky(outcomes: Sequence[Outcome]) -> Mapping[str, int]:
        if any(outcome.id == bad for outcome in outcomes):
            raise OverflowError("out of range")
        return await append(outcomes)

    monkeypatch.setattr(flow.store.history, "append", picky)
    await flow.user()
    ids = [await flow.accept(to={"user_id": "ada"}, content={"sms": {"text": "x"}}, channels=["sms"]) for _ in range(5)]
    await flow.settle(only=topics.ROUTE)
    claim = await flow.queue.claim(topics.OUTCOMES, topics.RECORD, 10, 0)
    assert claim is not None
    [pack] = claim.items
    facts = decode_outcomes(pack.body)
    facts.insert(2, Outcome(bad, TENANT, flow.clock.now(), State.SENT, 1))
    await claim.done([Item(topics.OUTCOMES, pack.key, b"\x01" + msgspec.msgpack.encode(facts))])
    await flow.settle()
    assert [(await flow.view(id)).state for id in ids] == [State.SENT] * 5
    [name] = [name async for name in flow.objects.list("aside/") if name.endswith(".bin")]
    assert [fact.id for fact in decode_outcomes(await flow.objects.get(name) or b"")] == [bad]


async def test_a_row_that_no_queue_takes_goes_aside_and_the_others_move(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = flow.queue.put

    async def picky(items: Sequence[Item]) -> None:
        if any(item.topic == "no such topic" for item in items):
            raise ValueError("nobody declared the topic")
        await put(items)

    monkeypatch.setattr(flow.queue, "put", picky)
    for number in range(7):
        topic = "no such topic" if number == 3 else topics.OUTCOMES
        flow.store.schedule.add(UUID(int=number), Wait(flow.clock.now(), topic, "k", b"%d" % number))
    schedule = Schedule(flow.store.schedule, flow.queue, flow.objects, flow.clock, flow.metrics)
    assert await schedule.once() == 7
    assert await schedule.once() == 0
    assert await flow.store.schedule.next_due() is None
    claim = await flow.queue.claim(topics.OUTCOMES, topics.RECORD, 10, 0)
    assert claim is not None
    assert [item.body for item in claim.items] == [b"0", b"1", b"2", b"4", b"5", b"6"]
    [name] = [name async for name in flow.objects.list("aside/") if name.endswith(".bin")]
    assert await flow.objects.get(name) == b"3"


async def test_a_schedule_that_stood_still_past_its_lease_puts_nothing(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow.store.schedule.add(UUID(int=1), Wait(flow.clock.now(), topics.OUTCOMES, "k", b"1"))
    schedule = Schedule(flow.store.schedule, flow.queue, flow.objects, flow.clock, flow.metrics)
    due = flow.store.schedule.due

    async def then_stands_still(now: int, limit: int, lease_s: float) -> object:
        found = await due(now, limit, lease_s)
        await flow.clock.advance(LEASE_S)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(flow.store.schedule, "due", then_stands_still)
        with pytest.raises(LeaseLost):
            await schedule.once()
    assert await depth(flow.queue, topics.OUTCOMES, topics.RECORD) == 0
    await schedule.once()
    claim = await flow.queue.claim(topics.OUTCOMES, topics.RECORD, 10, 0)
    assert claim is not None
    assert [dict(item.headers) for item in claim.items] == [{"repeated": "1"}]


class Accounts:
    """Accounts that refuse the counts of one tenant, and at first all counts."""

    def __init__(self) -> None:
        self.mood = "a mistake"
        self.asked = 0
        self.kept: dict[str, int] = {}

    async def count(self, counter: UUID, counts: Sequence[AcceptedCount]) -> None:
        self.asked += 1
        if self.mood:
            raise ZeroDivisionError(self.mood)
        if any(count.tenant == "bad" for count in counts):
            raise ValueError("such a tenant cannot be")
        self.kept.update({count.tenant: count.count for count in counts})


async def test_the_accepted_counter_outlives_every_error(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts, clock = Accounts(), VirtualClock()
    monkeypatch.setattr("tidings.pipeline.accept.accepted.WRITE_EVERY_S", WRITE_EVERY_S / 100)
    monkeypatch.setattr("tidings.pipeline.runtime.setbacks.SHORTEST_S", 0.01)
    async with AcceptedCounter(accounts, clock, lambda: UUID(int=1)).running() as counter:  # type: ignore[arg-type]
        counter.add("good", [UUID(int=1)])
        counter.add("bad", [UUID(int=2)])
        await eventually(lambda: accounts.asked > 2)
        accounts.mood = ""
        await eventually(lambda: accounts.kept == {"good": 1})
        counter.add("good", [UUID(int=3)])
        await eventually(lambda: accounts.kept == {"good": 2})
