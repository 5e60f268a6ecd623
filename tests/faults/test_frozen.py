"""A process that freezes in a transaction (SIGSTOP, a suspended machine) does not block others for long."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

from support import eventually
from tidings.backends.postgres.store import PostgresStore
from tidings.model.errors import Unavailable
from tidings.model.user import Cap
from tidings.policy.caps import Count

PROGRAM = Path(__file__).with_name("frozen.py")
LONGEST = 25.0
"""Seconds: 10 for an idle transaction, and some for a busy machine."""


async def test_a_frozen_process_releases_its_cap_rows(postgres_dsn: str) -> None:
    scope = uuid4().bytes
    command = [sys.executable, str(PROGRAM), postgres_dsn, scope.hex()]
    frozen = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    store = await PostgresStore.open(postgres_dsn)
    try:
        await eventually(lambda: Path(f"/proc/{frozen.pid}/stat").read_text().rpartition(") ")[2][0] == "T", timeout=30)
        refused = 0

        async def taken() -> bool:
            nonlocal refused
            try:
                request = [Count(scope, uuid4(), (Cap(1, 60),))]
                return await store.caps.take([request], time.time_ns() // 1_000_000) == [None]
            except Unavailable:
                refused += 1
                return False

        began = time.monotonic()
        await eventually(taken, timeout=LONGEST)
        assert refused, "the row was not locked: this test shows nothing"
        assert time.monotonic() - began > 5.0, "the other process must wait for the lock"
        frozen.send_signal(signal.SIGCONT)
        said, _ = await frozen.communicate()
        assert said.split()[-1] == b"unavailable", "its transaction has been ended: it may not take any more"
    finally:
        if frozen.returncode is None:
            frozen.kill()
            await frozen.wait()
        await store.close()
