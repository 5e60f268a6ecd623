"""PostgreSQL is gone, silent, or out of disk: the API reports it at once, loses nothing accepted, and recovers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support import eventually
from support.nemesis import silent
from support.system import Reply, System, running, settings_for
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.server import Server

PUSH = {"to": {"devices": ["token-1"]}, "content": {"push": {"title": "a", "body": "b"}}}
AT_ONCE = 3.0
"""Seconds that an answer may take. One is promised, and this machine may be busy with other things."""


@pytest.fixture
async def system(tmp_path: Path, server: Server) -> AsyncIterator[System]:
    async with running(settings_for(tmp_path, server.dsn, None)) as started:
        yield started


async def answers(system: System) -> list[tuple[Reply, float]]:
    """The answers to a send, a batch and a read, with the seconds that each took."""

    async def timed(method: str, path: str, body: Any = None) -> tuple[Reply, float]:
        began = time.monotonic()
        reply = await system.call(method, path, body)
        return reply, time.monotonic() - began

    return list(
        await asyncio.gather(
            timed("POST", "/v1/notifications", PUSH),
            timed("POST", "/v1/notifications/batch", {"notifications": [PUSH]}),
            timed("GET", "/v1/notifications"),
            timed("PUT", "/v1/users/ada", {"email": "ada@example.com"}),
        )
    )


async def expect_unavailable(system: System) -> bool:
    for reply, seconds in await answers(system):
        assert seconds < AT_ONCE, (seconds, reply)
        assert reply.status == 503, reply
        assert int(reply.headers["retry-after"]) >= 1
        assert reply.json["code"] == "unavailable"
    return True


async def expect_working(system: System) -> bool:
    for reply, _ in await answers(system):
        assert reply.status < 300, reply
    return True


async def test_a_server_that_says_nothing(system: System, server: Server) -> None:
    await expect_working(system)
    with silent(server):
        await expect_unavailable(system)
        await expect_unavailable(system)
        ready = await system.call("GET", "/readyz")
        assert ready.status == 503
        assert (await system.call("GET", "/healthz")).status == 200
    await eventually(lambda: expect_working(system), 60)
    id = await system.send(**PUSH)
    await system.in_state(id, "sent", 60)


async def test_a_server_that_is_gone(system: System, server: Server) -> None:
    await expect_working(system)
    await asyncio.to_thread(server.stop)
    await expect_unavailable(system)
    await asyncio.to_thread(server.start)
    await eventually(lambda: expect_working(system), 60)
    id = await system.send(**PUSH)
    await system.in_state(id, "sent", 60)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
async def test_a_disk_that_is_full(tmp_path: Path, open_data_dir: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=320m,mode=755", "tmpfs", str(open_data_dir)]
    if (await asyncio.to_thread(subprocess.run, command, check=False)).returncode:
        pytest.skip("this container may not mount")
    try:
        async with Server(open_data_dir) as server:
            await migrate(server.dsn)
            async with running(settings_for(tmp_path, server.dsn, None)) as system:
                await expect_working(system)
                accepted = [await system.send(**PUSH) for _ in range(20)]
                filler = open_data_dir / "filler"
                _fill(filler)
                assert await eventually(lambda: _refused(system, accepted), 60, every=0.0)
                filler.unlink()
                await eventually(lambda: expect_working(system), 60)
                for id in accepted:
                    await system.in_state(id, "sent", 60)
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "-l", str(open_data_dir)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 2**16)
        except OSError:
            return


async def _refused(system: System, accepted: list[str]) -> bool:
    """Send until the WAL cannot grow any more, and remember the accepted notifications."""
    reply = await system.call("POST", "/v1/notifications/batch", {"notifications": [PUSH] * 1000})
    if reply.status == 202:
        accepted += [result["id"] for result in reply.json["results"][:3]]
        return False
    assert reply.status == 503, reply
    assert "retry-after" in reply.headers
    return True
