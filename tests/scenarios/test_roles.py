"""A process runs what `tidings run --role` names, and says so."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from pyreqwest.client import Client, ClientBuilder

from support import eventually
from support.system import System, settings_for, tenant_with_key
from tidings.config import Settings

SMS = {"to": {"phone": "+4915123456789"}, "content": {"sms": {"text": "Hello"}}}
MAIL = {"to": {"email": "ada@example.com"}, "content": {"email": {"subject": "Hello", "text": "Hello"}}}


@asynccontextmanager
async def run(settings: Settings, *options: str) -> AsyncIterator[dict[str, str]]:
    """`tidings run` with these options; the addresses of its roles, once all of them are ready."""
    variables = {
        "TIDINGS_DATA_DIR": str(settings.data_dir),
        "TIDINGS_DATABASE__DSN": str(settings.database.dsn),
        "TIDINGS_HTTP__PORT": str(settings.http.port),
        "TIDINGS_SANDBOX__PORT": str(settings.sandbox.port),
        "TIDINGS_SANDBOX__SMTP_PORT": str(settings.sandbox.smtp_port),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidings.cli", "run", *options,
        env=os.environ | variables, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    addresses: dict[str, str] = {}
    wanted = {"api", "worker"} if "api" in options[1] else {"worker"}
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while not wanted <= addresses.keys():
                line = await process.stdout.readline()
                assert line, "it ended"
                if line.startswith(b"ready "):
                    addresses |= json.loads(line.removeprefix(b"ready "))
        yield addresses
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    assert process.returncode == 0


async def page(client: Client, url: str) -> bytes:
    return bytes(await (await client.get(url).build().send()).bytes())


async def test_each_process_does_its_part_and_says_which(tmp_path: Path, postgres_dsn: str) -> None:
    settings = settings_for(tmp_path, postgres_dsn, None)
    key = await tenant_with_key(postgres_dsn)
    rest = "api,sandbox,route,record,schedule,rounds"
    async with (
        ClientBuilder().no_proxy().timeout(timedelta(seconds=30)).build() as client,
        run(settings, "--role", rest) as api,
        run(settings, "--role", "deliver:sms", "--operations", "0") as sms,
    ):
        system = System(settings, key, client)
        told = json.loads(await page(client, api["api"] + "/readyz"))
        assert told["roles"] == ["api", "sandbox", "route", "record", "schedule", "rounds"]
        told = json.loads(await page(client, sms["operations"] + "/readyz"))
        assert (told["status"], told["roles"]) == ("ok", ["deliver:sms"])
        assert b'tidings_process_role{role="deliver:sms"} 1.0' in await page(client, sms["operations"] + "/metrics")

        text, mail = await system.send(**SMS), await system.send(**MAIL)
        await system.in_state(text, "delivered")
        assert (await system.call("GET", f"/v1/notifications/{mail}")).json["state"] == "pending"

        async def is_counted() -> bool:
            return b'topic="deliveries.sms.normal"} 1.0' in await page(client, sms["operations"] + "/metrics")

        await eventually(is_counted)
        async with run(settings, "--role", "deliver:email,deliver:push"):
            await system.in_state(mail, "delivered")
