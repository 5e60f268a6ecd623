"""The whole system as its users run it: real PostgreSQL, real HTTP, the sandbox, and Kafka if it is the queue.

`system` runs every role in the test's own process, on free ports; `Processes` runs them as processes to be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from pyreqwest.client import Client, ClientBuilder

from support import eventually, unique
from support.ports import free_port
from tidings.api.keys import mint
from tidings.backends.memory.clock import SystemClock
from tidings.backends.postgres.store import PostgresStore
from tidings.config import Settings
from tidings.model.tenant import Scope, Tenant
from tidings.parts import open_parts
from tidings.roles.api import serve_api
from tidings.roles.sandbox import sandbox
from tidings.roles.worker import work
from tidings.wiring import ROLES

_READY_WITHIN_S = 90.0
"""Longer than a process that starts waits for its parts."""
ROLE = Path(__file__).resolve().parent.parent / "role.py"
RESTING = {"sent", "delivered", "suppressed", "failed", "expired", "cancelled", "dead", "uncertain"}


class Reply(Struct, frozen=True):
    """An HTTP answer. `json` is None when the body is not JSON."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


class System:
    """A running system seen from outside: its API, one tenant with a key, and the sandbox."""

    def __init__(self, settings: Settings, key: str, client: Client) -> None:
        self.settings = settings
        self.api = settings.public_url
        self.sandbox = f"http://{settings.sandbox.host}:{settings.sandbox.port}"
        self.key = key
        self._client = client

    async def call(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Call the API (or, for an absolute URL, anything). `body` is JSON, or bytes as they are."""
        url = path if path.startswith("http") else self.api + path
        request = self._client.request(method, url).header("authorization", f"Bearer {self.key}")
        if body is not None:
            request = request.header("content-type", "application/json")
            request = request.body_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
        for name, value in (headers or {}).items():
            request = request.header(name, value)
        response = await request.build().send()
        return Reply(response.status, dict(response.headers), bytes(await response.bytes()))

    async def send(self, **body: Any) -> str:
        """Send one notification. Returns its id. As the API asks, a request that was answered 503 is repeated."""
        headers = {"idempotency-key": unique("send")}

        async def taken() -> Reply:
            reply = await self.call("POST", "/v1/notifications", body, headers=headers)
            assert reply.status not in {409, 503}, reply.body
            return reply

        reply = await eventually(taken, every=0.2)
        assert reply.status == 202, reply.body
        id = reply.json["id"]
        assert isinstance(id, str)
        return id

    async def rested(self, id: str, timeout: float = 30) -> Any:
        """The notification once it rests."""

        async def look() -> Any:
            seen = (await self.call("GET", f"/v1/notifications/{id}")).json
            assert seen.get("state") in RESTING, seen
            return seen

        return await eventually(look, timeout)

    async def in_state(self, id: str, state: str, timeout: float = 30) -> Any:
        """The notification once it is in `state`."""

        async def look() -> Any:
            seen = (await self.call("GET", f"/v1/notifications/{id}")).json
            assert seen.get("state") == state, seen
            return seen

        return await eventually(look, timeout)

    async def arrivals(self, **query: Any) -> list[dict[str, Any]]:
        """The deliveries that the sandbox took."""
        words = "&".join(f"{name}={value}" for name, value in query.items())
        reply = await self.call("GET", f"{self.sandbox}/_sandbox/arrivals?limit=100000&{words}")
        found: list[dict[str, Any]] = reply.json["arrivals"]
        return found

    async def other_tenant(self) -> System:
        """The same system with another tenant's key."""
        key = await tenant_with_key(str(self.settings.database.dsn), "other")
        return System(self.settings, key, self._client)

    async def user(self, user_id: str, **profile: Any) -> None:
        """Store a user."""
        reply = await self.call("PUT", f"/v1/users/{user_id}", profile)
        assert reply.status in {200, 201}, reply.body


def settings_for(folder: Path, dsn: str, brokers: str | None, **more: Any) -> Settings:
    """Settings for a system of the test's own. With `brokers`, Kafka is the queue."""
    queue = {"kind": "kafka", "brokers": brokers, "partitions": 4, "prefix": unique("t") + "."} if brokers else {}
    tree: dict[str, Any] = {
        "data_dir": folder,
        "http": {"port": free_port()},
        "database": {"dsn": dsn},
        "queue": queue,
        "sandbox": {"port": free_port(), "smtp_port": free_port()},
        "deliver": {"backoff_base": 0.2},
        "stop": {"drain": 0},
        "telemetry": {"log_level": "warning"},
    }
    return Settings.model_validate(tree | more)


async def tenant_with_key(dsn: str, tenant: str = "shop") -> str:
    """Create a tenant. Returns the secret of a key with all scopes."""
    store = await PostgresStore.open(dsn, 2)
    try:
        now = SystemClock().now()
        await store.tenants.add(Tenant(tenant, tenant, now))
        secret, key = mint(tenant, tuple(Scope), "tests", now, os.urandom(32))
        await store.tenants.add_key(key)
        return secret
    finally:
        await store.close()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[System]:
    """Run all roles in this process."""
    key = await tenant_with_key(str(settings.database.dsn))
    stopping = asyncio.Event()
    serving = asyncio.Event()
    async with (
        ClientBuilder().no_proxy().build() as client,
        sandbox(settings),
        open_parts(settings, sorted(ROLES)) as parts,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(work(parts, stopping))
        group.create_task(serve_api(parts, stopping, lambda _: serving.set()))
        try:
            async with asyncio.timeout(30):
                await serving.wait()
            yield System(settings, key, client)
        finally:
            stopping.set()


class Processes:
    """The roles as processes, each of which can be killed, frozen and started again. A role may run several times.

    A process logs to `<name>.log` in the data folder.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.written = settings.model_dump_json()
        self._file = settings.data_dir / f"{unique('settings')}.json"
        self._running: dict[str, asyncio.subprocess.Process] = {}

    def environment(self) -> Mapping[str, str]:
        """The environment of the processes."""
        return os.environ

    async def start(self, role: str, name: str | None = None, clock: float = 0.0) -> None:
        """Start a role and wait until it is ready. `name` is the process's name if it is not the role.

        `clock` is by how many seconds its clock is ahead.
        """
        name = name or role
        self._file.write_text(self.written)
        with self.log(name).open("ab") as log:
            program = await asyncio.create_subprocess_exec(
                sys.executable, str(ROLE), str(self._file), role, str(os.getpid()), str(clock),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self.environment(),
            )  # fmt: skip
        self._running[name] = program
        assert program.stdout is not None
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                said = await program.stdout.readline()
        except TimeoutError:
            said = b"nothing in time"
        assert said == b"ready\n", f"{name} did not start ({said!r}): {self.log(name).read_text()[-4000:]}"

    def pid(self, name: str) -> int:
        """The id of the process with this name."""
        return self._running[name].pid

    def ended(self) -> dict[str, str]:
        """The processes that ended without being killed, each with its exit code and last output."""
        return {
            name: f"{program.returncode}: {self.log(name).read_text()[-3000:]}"
            for name, program in self._running.items()
            if program.returncode is not None
        }

    def log(self, name: str) -> Path:
        """The log file of the process with this name."""
        return self.settings.data_dir / f"{name}.log"

    async def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Signal a process and wait until it ends. Returns the exit code."""
        program = self._running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            program.send_signal(number)
        async with asyncio.timeout(60):
            await program.communicate()
        assert program.returncode is not None
        return program.returncode

    async def stop(self) -> None:
        """End everything."""
        for name in list(self._running):
            await self.kill(name)


@pytest.fixture(params=["postgres", "kafka"])
def brokers(request: pytest.FixtureRequest) -> str | None:
    """Kafka's bootstrap string, or None if PostgreSQL is the queue."""
    if request.param == "postgres":
        return None
    found: str = request.getfixturevalue("kafka_broker")
    return found


@pytest.fixture
async def system(tmp_path: Path, postgres_dsn: str, brokers: str | None) -> AsyncIterator[System]:
    """A running system; each test has its own."""
    async with running(settings_for(tmp_path, postgres_dsn, brokers)) as started:
        yield started
