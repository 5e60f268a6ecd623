"""No request waits for a silent store."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from support import eventually
from tidings.api import vitals
from tidings.api.vitals import Vitals
from tidings.backends.memory.clock import SystemClock
from tidings.model.errors import Unavailable


class Pulse:
    """A store that answers while `answers` is set, and else is silent."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0

    async def ping(self) -> None:
        self.asked += 1
        await self.answers.wait()


@pytest.fixture
def pulse() -> Pulse:
    return Pulse()


@pytest.fixture
async def watched(pulse: Pulse, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Vitals]:
    monkeypatch.setattr(vitals, "PING_EVERY_S", 0.01)
    monkeypatch.setattr(vitals, "ANSWER_WITHIN_S", 0.02)
    found, stopping = Vitals(pulse.ping, SystemClock()), asyncio.Event()
    watching = asyncio.create_task(found.watch(stopping))
    yield found
    stopping.set()
    await watching


async def test_a_process_that_was_busy_itself_does_not_take_the_store_for_silent() -> None:
    """The store answered in time, but this process was too busy to read the answer."""

    async def ping() -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        threading.Timer(0.05, lambda: loop.call_soon_threadsafe(answer.set_result, None)).start()
        await answer

    loop = asyncio.get_running_loop()
    found = Vitals(ping, SystemClock())
    asking = asyncio.create_task(found._check())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    until = time.perf_counter() + 2 * vitals.ANSWER_WITHIN_S
    while time.perf_counter() < until:
        pass
    await asking
    assert not found._silent


async def test_a_request_goes_through_and_its_errors_too(watched: Vitals) -> None:
    done = asyncio.Event()

    async def request() -> None:
        done.set()

    async def failing() -> None:
        raise LookupError

    await watched.guard(request())
    assert done.is_set()
    with pytest.raises(LookupError):
        await watched.guard(failing())


async def test_waiting_and_new_requests_are_refused_until_the_store_answers_again(
    watched: Vitals, pulse: Pulse
) -> None:
    pulse.answers.clear()
    with pytest.raises(Unavailable):
        await watched.guard(asyncio.Event().wait())
    with pytest.raises(Unavailable):
        await watched.guard(asyncio.Event().wait())
    pulse.answers.set()

    async def answered() -> bool:
        try:
            await watched.guard(pulse.answers.wait())
        except Unavailable:
            return False
        return True

    await eventually(answered)


async def test_a_client_that_leaves_does_not_count_as_a_silent_store(watched: Vitals) -> None:
    asking = asyncio.create_task(watched.guard(asyncio.Event().wait()))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await eventually(lambda: not watched._guarded)


async def test_an_idle_api_asks_nothing(pulse: Pulse) -> None:
    stopping = asyncio.Event()
    watching = asyncio.create_task(Vitals(pulse.ping, SystemClock()).watch(stopping))
    stopping.set()
    await watching
    assert not pulse.asked
