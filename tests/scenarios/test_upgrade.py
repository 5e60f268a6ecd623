"""A rolling upgrade from 0.1.0: both versions work together on the queues and schedule that the old one wrote.

The old code comes from the repository's history. Without it (a source archive, a shallow clone) the test is skipped,
and only the golden files test the old formats (tests/unit/model/test_golden.py).
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pyreqwest.client import ClientBuilder

from support import eventually, unique
from support.ports import free_port
from support.postgres import on_database
from support.system import Processes, System, settings_for
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.server import Server
from tidings.backends.postgres.store import PostgresStore
from tidings.model.errors import SettingsError

OLD = "17bd7be69c650fc00123088b91d28f61b6a4d33f"
ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import asyncio, os, sys
from tidings.api.keys import mint
from tidings.backends.postgres.migrate import migrate
from tidings.backends.postgres.store import PostgresStore
from tidings.model.tenant import Scope, Tenant

async def begin(dsn):
    await migrate(dsn)
    store = await PostgresStore.open(dsn, 2)
    await store.tenants.add(Tenant("shop", "shop", 1))
    secret, key = mint("shop", tuple(Scope), "tests", 1, os.urandom(32))
    await store.tenants.add_key(key)
    await store.close()
    print(secret)

asyncio.run(begin(sys.argv[1]))
"""
CONTENT = {"push": {"title": "Order", "body": "On its way"}}
EACH = 150


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source of 0.1.0."""
    command = ["git", "-C", str(ROOT), "archive", OLD, "src"]
    try:
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", b"").decode(errors="replace").strip() or str(error)
        pytest.skip(f"the history has no {OLD[:7]} here ({why}); only the golden files test the upgrade")
    folder = tmp_path_factory.mktemp("0.1.0")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder / "src"


@pytest.fixture
async def empty_dsn(postgres_server: Server) -> AsyncIterator[str]:
    """The DSN of an empty database."""
    name = unique("upgrade").replace("-", "_")
    connection = await asyncpg.connect(postgres_server.dsn)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield on_database(postgres_server.dsn, name)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


class OldProcesses(Processes):
    """The roles as the old version runs them, with the settings that it knows."""

    def __init__(self, settings: Any, code: Path) -> None:
        super().__init__(settings)
        self._code = code
        known = settings.model_dump(mode="json", include={"data_dir", "http", "database", "sandbox", "telemetry"})
        # The old version refuses unknown settings, and needs `enabled`.
        known["sandbox"] = {name: known["sandbox"][name] for name in ("host", "port", "smtp_port")} | {"enabled": True}
        known["database"] = {name: known["database"][name] for name in ("dsn", "pool_size")}
        known["telemetry"] = {name: known["telemetry"][name] for name in ("log_level", "log_format")}
        known["deliver"] = {"backoff_base": settings.deliver.backoff_base}
        known["http"] = {name: known["http"][name] for name in ("host", "port")}
        self.written = json.dumps(known)

    async def begin(self, dsn: str) -> str:
        """Create the schema and a tenant with the old code; returns the tenant's key."""
        command = [sys.executable, "-c", BEGIN, dsn]
        result = await asyncio.to_thread(
            subprocess.run, command, env=self.environment(), capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self._code)}


async def send(system: System, count: int, **more: Any) -> list[str]:
    body = [{"to": {"devices": [unique("device")]}, "content": CONTENT, **more} for _ in range(count)]
    reply = await system.call("POST", "/v1/notifications/batch", {"notifications": body})
    assert reply.status == 202, reply.body
    return [result["id"] for result in reply.json["results"]]


@pytest.mark.timeout(180)
async def test_both_versions_read_what_the_other_wrote(tmp_path: Path, old_code: Path, empty_dsn: str) -> None:
    new_folder = tmp_path / "new"
    new_folder.mkdir()
    new = settings_for(new_folder, empty_dsn, None)
    old = new.model_copy(update={"data_dir": tmp_path, "http": new.http.model_copy(update={"port": free_port()})})
    # Both use one sandbox and its credentials.
    new = new.model_copy(update={"data_dir": tmp_path})
    old_processes = OldProcesses(old, old_code)
    key = await old_processes.begin(empty_dsn)
    with pytest.raises(SettingsError, match="tidings migrate"):
        await PostgresStore.open(empty_dsn, 2)
    processes = Processes(new)
    async with ClientBuilder().no_proxy().build() as http:
        before, after = System(old, key, http), System(new, key, http)
        try:
            for role in ("sandbox", "api", "worker"):
                await old_processes.start(role)
            soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 6))
            accepted = await send(before, EACH)
            accepted += await send(before, EACH, send_at=soon)
            # Sent after the old worker stopped: these wait in its queue.
            assert await old_processes.kill("worker", signal.SIGTERM) == 0
            accepted += await send(before, EACH)
            await migrate(empty_dsn, ("pre",))
            # Both versions side by side: each may read what the other wrote.
            for role in ("api", "worker"):
                await processes.start(role)
            await old_processes.start("worker")
            for _ in range(4):
                accepted += await send(before, EACH // 2)
                accepted += await send(after, EACH // 2)
            accepted += await send(after, EACH, send_at=soon)
            replayed = {"to": {"devices": ["one"]}, "content": CONTENT}
            first = await before.call("POST", "/v1/notifications", replayed, headers={"idempotency-key": "k"})
            again = await after.call("POST", "/v1/notifications", replayed, headers={"idempotency-key": "k"})
            assert (first.status, again.status) == (202, 202)
            assert first.json["id"] == again.json["id"]
            assert again.headers["idempotency-replayed"] == "true"
            accepted.append(first.json["id"])
            together = {"notifications": [replayed, {"to": 7}]}
            first = await before.call("POST", "/v1/notifications/batch", together, headers={"idempotency-key": "b"})
            again = await after.call("POST", "/v1/notifications/batch", together, headers={"idempotency-key": "b"})
            assert (first.status, again.status) == (202, 202)
            assert first.json == again.json
            accepted.append(first.json["results"][0]["id"])
            for role in ("api", "worker"):
                assert await old_processes.kill(role, signal.SIGTERM) == 0
            await migrate(empty_dsn)

            async def all_sent() -> Counter[str]:
                counted: Counter[str] = Counter()
                for line in (await after.call("GET", "/v1/accounting")).json["tally"]:
                    if line["channel"] is None:
                        counted[line["state"]] += line["count"]
                assert counted == {"sent": len(accepted)}
                return counted

            await eventually(all_sent, 60, every=0.2)
            lines = (tmp_path / "sandbox" / "arrivals.jsonl").read_text().splitlines()
            taken = Counter(json.loads(line)["delivery"] for line in lines)
            assert set(taken.values()) == {1}
            assert len(taken) == len(accepted) == len(set(accepted))
            # Neither version put anything aside as unreadable.
            assert not list((tmp_path / "objects").glob("aside/**/*.bin"))
        finally:
            await processes.stop()
            await old_processes.stop()
