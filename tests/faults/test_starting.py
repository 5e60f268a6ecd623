"""A process that starts while a part is away waits for it, says so, and ends when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from support import eventually
from support.kafka import KafkaBroker
from support.nemesis import silent
from support.parts import require
from support.system import Processes, settings_for
from tidings.backends.postgres.server import Server

NOT_YET = "does not answer yet"


async def _said_so(processes: Processes, name: str) -> None:
    def look() -> bool:
        log = processes.log(name)
        return log.exists() and NOT_YET in log.read_text()

    await eventually(look, 60)


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_a_process_waits_for_postgresql(tmp_path: Path, server: Server, role: str) -> None:
    processes = Processes(settings_for(tmp_path, server.dsn, None))
    with silent(server):
        starting = asyncio.create_task(processes.start(role))
        await _said_so(processes, role)
    await starting
    assert await processes.kill(role, signal.SIGTERM) == 0


async def test_a_process_waits_for_kafka(tmp_path: Path, server: Server) -> None:
    require("kafka")
    folder = tmp_path / "kafka"
    folder.mkdir()
    broker = KafkaBroker(folder)
    try:
        await asyncio.to_thread(broker.start)
        processes = Processes(settings_for(tmp_path, server.dsn, broker.bootstrap))
        await processes.start("worker")
        await processes.kill("worker")
        await asyncio.to_thread(broker.kill)
        starting = asyncio.create_task(processes.start("worker"))
        await _said_so(processes, "worker")
        await asyncio.to_thread(broker.restart)
        await starting
        assert await processes.kill("worker", signal.SIGTERM) == 0
    finally:
        await asyncio.to_thread(broker.kill)


async def test_a_process_that_waits_ends_when_it_is_told_to(tmp_path: Path, server: Server) -> None:
    processes = Processes(settings_for(tmp_path, server.dsn, None))
    with silent(server):
        starting = asyncio.create_task(processes.start("worker"))
        await _said_so(processes, "worker")
        os.kill(processes.pid("worker"), signal.SIGTERM)
        with pytest.raises(AssertionError, match="did not start"):
            await starting

        def ended() -> bool:
            return processes.ended().get("worker", "").startswith("0:")

        await eventually(ended)
