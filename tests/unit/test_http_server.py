"""uvicorn's server as the guest of a process."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn

from support import eventually
from tidings import http_server
from tidings.http_server import GuestServer


class Counting(GuestServer):
    """Counts its ticks instead of serving."""

    ticks = 0

    async def on_tick(self, counter: int) -> bool:
        self.ticks += 1
        return await super().on_tick(counter)


async def test_a_server_that_is_asked_to_stop_does_not_wait_for_the_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "TICK_S", 1e6)
    server = Counting(uvicorn.Config("no:app", log_config=None))
    running = asyncio.create_task(server.main_loop())
    await eventually(lambda: server.ticks, 5, 0)
    assert not server.should_exit
    assert not running.done()
    server.should_exit = True
    await asyncio.wait_for(running, 5)
    assert server.ticks == 2


async def test_every_tick_makes_the_date_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "TICK_S", 0.001)
    server = Counting(uvicorn.Config("no:app", log_config=None))
    running = asyncio.create_task(server.main_loop())
    await eventually(lambda: server.ticks, 5, 0)
    server.server_state.default_headers = []
    await eventually(lambda: server.server_state.default_headers, 5, 0)
    assert b"date" in dict(server.server_state.default_headers)
    server.should_exit = True
    await running
