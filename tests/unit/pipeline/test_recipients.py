"""Looking users up for concurrent requests: shared questions, a store that is silent, and callers that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import pytest

from tidings.backends.memory.clock import VirtualClock
from tidings.model.errors import Unavailable
from tidings.pipeline.compose import recipients
from tidings.pipeline.compose.recipients import SILENCE_MS, Recipients


class Users:
    """Users who all exist, and answers when the test lets it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.error: Exception | None = None

    async def known(self, tenant: str, user_ids: Collection[str]) -> Mapping[str, int]:
        self.asked.append((tenant, list(user_ids)))
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return {user_id: len(user_id) for user_id in user_ids if not user_id.startswith("no")}


class World:
    def __init__(self) -> None:
        self.users, self.clock = Users(), VirtualClock()
        self.recipients = Recipients(self.users, self.clock)  # type: ignore[arg-type]

    async def ask(self, tenant: str, *user_ids: str) -> asyncio.Task[Mapping[str, int] | None]:
        """A question that has begun."""
        asking = asyncio.create_task(self.recipients.known(tenant, user_ids))
        await self.clock.settle()
        return asking


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(recipients, "ANSWER_WITHIN_S", 60.0)  # a busy machine must not look like a silent store
    return World()


async def test_each_caller_learns_of_its_own_users_who_exist(world: World) -> None:
    found = await asyncio.gather(
        world.recipients.known("shop", ["ada", "nobody"]),
        world.recipients.known("shop", ["bo"]),
        world.recipients.known("bank", ["ada", "carla"]),
        world.recipients.known("bank", ["noone"]),
    )
    assert list(found) == [{"ada": 3}, {"bo": 2}, {"ada": 3, "carla": 5}, {}]
    assert world.users.asked == [("shop", ["ada", "bo", "nobody"]), ("bank", ["ada", "carla", "noone"])]


async def test_nobody_is_asked_about_nobody(world: World) -> None:
    assert await world.recipients.known("shop", []) == {}
    assert world.users.asked == []


async def test_requests_that_come_during_a_question_share_the_next(world: World) -> None:
    world.users.go_on.clear()
    asking = [await world.ask("shop", "a"), await world.ask("shop", "b"), await world.ask("shop", "c")]
    assert world.users.asked == [("shop", ["a"])]
    world.users.go_on.set()
    assert await asyncio.gather(*asking) == [{"a": 1}, {"b": 1}, {"c": 1}]
    assert world.users.asked == [("shop", ["a"]), ("shop", ["b", "c"])]
    assert await world.recipients.known("shop", ["d"]) == {"d": 1}
    assert len(world.users.asked) == 3


async def test_a_question_without_an_answer_in_time_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipients, "ANSWER_WITHIN_S", 0.01)
    world.users.go_on.clear()
    assert await world.recipients.known("shop", ["ada"]) is None


@pytest.mark.parametrize("passed_ms", [0, SILENCE_MS - 1, SILENCE_MS])
async def test_a_silent_store_is_left_alone_for_a_while(world: World, passed_ms: int) -> None:
    world.users.error = Unavailable("away")
    await world.clock.advance(5)
    found = list(await asyncio.gather(world.recipients.known("shop", ["ada"]), world.recipients.known("bank", ["bo"])))
    assert found == [None, None]
    assert world.users.asked == [("shop", ["ada"])], "not even about another tenant's users"
    world.users.error = None
    await world.clock.advance(passed_ms / 1000)
    is_over = passed_ms == SILENCE_MS
    assert await world.recipients.known("bank", ["bo"]) == ({"bo": 2} if is_over else None)
    assert len(world.users.asked) == (2 if is_over else 1)


async def test_a_mistake_in_one_question_does_not_affect_the_next(world: World) -> None:
    world.users.error = ZeroDivisionError("a mistake")
    world.users.go_on.clear()
    first, second = await world.ask("shop", "a"), await world.ask("shop", "b")
    world.users.go_on.set()
    with pytest.raises(ZeroDivisionError):
        await first
    with pytest.raises(ZeroDivisionError):
        await second
    world.users.error = None
    assert await world.recipients.known("shop", ["c"]) == {"c": 1}


async def test_a_caller_who_leaves_takes_nobodys_answer_away(world: World) -> None:
    world.users.go_on.clear()
    leaving, staying = [asyncio.create_task(world.recipients.known("shop", [name])) for name in ("a", "b")]
    await world.clock.settle()
    leaving.cancel()
    await world.clock.settle()
    world.users.go_on.set()
    assert await staying == {"b": 1}
