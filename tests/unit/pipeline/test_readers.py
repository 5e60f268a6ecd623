"""A reader of claims that the test hands out: how large they are, what goes aside, how long it tries to end them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tidings.backends.memory.clock import VirtualClock
from tidings.backends.objects.folder import Folder
from tidings.model.errors import LeaseLost, Unavailable, Unreadable
from tidings.pipeline.runtime.beginning import Begin
from tidings.pipeline.runtime.reader import REPEATED, Claimed, Reader, Reading
from tidings.ports.queue import Item, Received
from tidings.telemetry.metrics import Metrics


class Scripted:
    """A queue whose claims hold what the test says, and the claim; notes when it is asked to end or release."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.items: list[Received] = []
        self.asked_for: list[int] = []
        self.tries: list[int] = []
        self.released: list[int] = []
        self.given_back: list[int] = []
        self.fault: Exception | None = None
        self.away_until = 0
        self.takes_s = 0.0

    async def claim(self, _topic: str, _group: str, most: int, wait_s: float, _: object) -> Scripted | None:
        self.asked_for.append(most)
        if not self.items:
            await self.clock.sleep(wait_s)
        return self if self.items else None

    async def begin(self, _: Collection[int]) -> None:
        return

    async def done(self, _outputs: Sequence[Item] = (), released: Collection[int] = ()) -> None:
        self._look()
        await self.clock.sleep(self.takes_s)
        if self.fault is not None:
            raise self.fault
        self.released += released

    async def release(self) -> None:
        self._look()
        self.given_back.append(self.clock.elapsed())

    def _look(self) -> None:
        self.tries.append(self.clock.elapsed())
        if self.clock.elapsed() < self.away_until:
            raise Unavailable("away")


class World:
    """A stage that notes what it gets, begins what it is told to begin, and fails if it is told to fail."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock(0)
        self.queue = Scripted(self.clock)
        self.batches: list[Sequence[Claimed[bytes]]] = []
        self.begins = False
        self.bad = b""
        self.is_away = False
        self.folder = folder

    def reader(self, **more: Any) -> Reader[bytes]:
        fields: dict[str, Any] = {"stage": "s", "topic": "in", "decode": decode, "work": self._work, "max_items": 64}
        reading: Reading[bytes] = Reading(**(fields | more))
        return Reader(reading, self.queue, Folder(self.folder), self.clock, Metrics())  # type: ignore[arg-type]

    async def _work(self, batch: Sequence[Claimed[bytes]], begin: Begin) -> list[Item]:
        self.batches.append(batch)
        if self.is_away:
            raise Unavailable("the store is away")
        if self.begins:
            await begin([claimed.place for claimed in batch])
        if any(claimed.value == self.bad for claimed in batch):
            raise OverflowError("out of range")
        return []

    def aside(self) -> list[str]:
        """The reasons of what went aside."""
        return [path.read_text() for path in self.folder.rglob("*.txt")]


def decode(body: bytes) -> bytes:
    if body == b"unreadable":
        raise Unreadable("from a later version")
    if body == b"broken":
        raise OverflowError("out of range")
    return body


def items(*bodies: bytes, **more: Any) -> list[Received]:
    return [Received(key="k", body=body, **more) for body in bodies]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@asynccontextmanager
async def running(world: World, reader: Reader[bytes]) -> AsyncIterator[None]:
    """Run the reader, as a worker does."""
    stopping = asyncio.Event()
    task = asyncio.create_task(reader.run(stopping))
    await world.clock.settle()
    try:
        yield
    finally:
        stopping.set()
        for _ in range(20):
            await world.clock.advance(1)
        await task


@pytest.mark.parametrize(("count", "half"), [(10, 5), (7, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("why", ["it fails after it began", "its outputs are refused"])
async def test_claims_are_halved_until_the_faulty_item_is_alone_and_grow_again(
    world: World, count: int, half: int, why: str
) -> None:
    reader = world.reader(lease_s=30.0)
    world.begins = True
    world.queue.items = items(*[b"%d" % number for number in range(count)])
    if why == "it fails after it began":
        world.bad = b"0"
        await reader.once()
        assert world.queue.released == list(range(count)), "they come back as begun"
    else:
        world.queue.fault = ValueError("too large")
        with pytest.raises(ValueError, match="too large"):
            await reader.once()
        assert len(world.queue.given_back) == 1
    world.bad, world.queue.fault = b"", None
    for _ in range(3):
        await reader.once()
    assert world.queue.asked_for == [64, half, 2 * half, 4 * half]
    assert world.aside() == []


async def test_an_item_whose_outputs_are_refused_goes_aside_when_it_comes_again(world: World) -> None:
    reader = world.reader()
    world.queue.items = items(b"bad")
    world.queue.fault = ValueError("too large")
    with pytest.raises(ValueError, match="too large"):
        await reader.once()
    world.queue.fault = None
    world.queue.items = items(b"good", b"bad")
    await reader.once()
    assert [[claimed.value for claimed in batch] for batch in world.batches] == [[b"bad"], [b"good"]]
    [reason] = world.aside()
    assert "ValueError('too large')" in reason
    world.queue.items = items(b"bad")
    await reader.once()
    assert len(world.batches) == 3, "once it is aside it counts as any other"


async def test_what_cannot_be_read_goes_aside_with_its_reason(world: World) -> None:
    world.queue.items = items(b"broken", b"good", b"unreadable")
    assert await world.reader().once() == 3
    [[good]] = world.batches
    assert (good.value, good.place) == (b"good", 1)
    reasons = sorted(text.splitlines()[-1] for text in world.aside())
    assert reasons == ["reason: OverflowError('out of range')", "reason: from a later version"]


@pytest.mark.parametrize("in_queue", [False, True])
@pytest.mark.parametrize("in_header", [False, True])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_stage_is_told_what_may_be_a_copy(world: World, in_queue: bool, in_header: bool, begun: bool) -> None:
    headers = {REPEATED: "1"} if in_header else {}
    world.queue.items = items(b"1", headers=headers, redelivered=begun, repeated=in_queue)
    await world.reader().once()
    [[claimed]] = world.batches
    assert (claimed.repeated, claimed.begun) == (in_queue or in_header, begun)


@pytest.mark.parametrize(("room", "asked"), [(100, 64), (64, 64), (5, 5), (1, 1), (0, None), (-1, None)])
async def test_no_more_is_claimed_than_there_is_room_for(world: World, room: int, asked: int | None) -> None:
    looking = asyncio.create_task(world.reader(room=lambda: room).once())
    await world.clock.advance(0.05)
    await world.clock.advance(5.0)
    assert await looking == 0
    assert world.queue.asked_for == ([] if asked is None else [asked])


async def test_results_are_kept_and_put_with_longer_and_longer_pauses(world: World) -> None:
    world.queue.items = items(b"1")
    world.queue.away_until = 7_000
    async with running(world, world.reader(lease_s=30.0)):
        world.queue.items = []
        for _ in range(20):
            await world.clock.advance(0.5)
        assert world.queue.tries == [0, 500, 1_500, 3_500, 5_500, 7_500]
        assert len(world.batches) == 1


async def test_results_without_a_lease_are_not_kept(world: World) -> None:
    world.queue.items = items(b"1")
    world.queue.away_until = 7_000
    async with running(world, world.reader()):
        world.queue.items = []
        for _ in range(20):
            await world.clock.advance(0.5)
        assert world.queue.tries == [0, 0, 0], "it ends the claim, gives it back, and once more"


@pytest.mark.parametrize(
    ("away_until", "tries"),
    [
        (1, [0, 0, 500]),
        (3_000, [0, 0, 500, 1_500, 3_500]),
        (60_000, [0, 0, 500, 1_500, 3_500, 5_500, 7_500, 9_500, 11_500]),
    ],
)
async def test_a_claim_is_given_back_until_its_lease_ends(world: World, away_until: int, tries: list[int]) -> None:
    world.queue.items = items(b"1")
    world.queue.away_until = away_until
    world.is_away = True
    async with running(world, world.reader(lease_s=10.0)):
        world.queue.items = []
        for _ in range(40):
            await world.clock.advance(0.5)
        assert world.queue.tries == tries
        assert world.queue.given_back == ([] if away_until == 60_000 else tries[-1:])


async def test_after_a_lost_lease_nothing_is_tried_again(world: World) -> None:
    world.queue.items = items(b"1")
    world.queue.fault = LeaseLost("gone")
    assert await world.reader(lease_s=10.0).once() == 1
    assert len(world.queue.tries) == 1


@pytest.mark.parametrize(("count", "pause_ms"), [(1, 300), (2, 300), (3, 100)])
async def test_after_a_batch_that_was_not_full_the_next_one_gathers(world: World, count: int, pause_ms: int) -> None:
    world.queue.items = items(*[b"1"] * count)
    world.queue.takes_s = 0.1
    async with running(world, world.reader(max_items=3, linger_s=0.2)):
        for _ in range(10):
            await world.clock.advance(0.1)
        assert world.queue.tries == list(range(0, 1_001, pause_ms))


@pytest.mark.parametrize(
    ("count", "was_begun", "begins", "back", "aside"),
    [
        (1, False, True, [0], ""),
        (1, True, True, [], "it failed again and again after it was begun"),
        (2, True, True, [0, 1], ""),
        (2, False, True, [0, 1], ""),
        (1, False, False, [], "OverflowError('out of range')"),
        (3, False, False, [], "OverflowError('out of range')"),
        (3, True, False, [], "OverflowError('out of range')"),
    ],
)
async def test_a_faulty_item_goes_aside_unless_it_may_have_been_sent_just_now(
    world: World, count: int, was_begun: bool, begins: bool, back: list[int], aside: str
) -> None:
    world.begins, world.bad = begins, b"0"
    world.queue.items = items(*[b"%d" % number for number in range(count)], redelivered=was_begun)
    await world.reader(lease_s=30.0).once()
    assert world.queue.released == back
    assert [text.splitlines()[-1] for text in world.aside()] == ([f"reason: {aside}"] if aside else [])
    if not begins:
        alone = [[claimed.value for claimed in batch] for batch in world.batches[1:]]
        assert alone == [[b"%d" % number] for number in range(count)], "after the batch, one by one"
