"""`tidings up` as a newcomer uses it: the real command, its processes, its output, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from support import eventually
from support.up import STARTED_WITHIN, TIDINGS, Up, alive, environment, family_of, start


@pytest.fixture
def folder(up_folder: Path) -> Path:
    return up_folder


@pytest.fixture
def started(ups: list[Up]) -> list[Up]:
    return ups


async def test_from_the_first_start_to_the_last_process(folder: Path, started: list[Up]) -> None:
    up = await start(started, folder)
    (key,) = re.findall(r"API key +(tk_\S+)", up.text)
    id = await up.paste()
    view = await up.rested(id)
    assert view["state"] == "delivered"
    assert sorted(delivery["channel"] for delivery in view["deliveries"]) == ["email", "inapp", "push", "sms"]  # type: ignore[attr-defined]
    sandbox = up.running()["sandbox_url"]

    def arrived() -> str:
        with urlopen(f"{sandbox}/_sandbox/arrivals") as answer:
            text: str = json.dumps(json.loads(answer.read()), ensure_ascii=False)
        # The demo user reads Portuguese.
        assert "Recebemos o seu pedido A-1001" in text
        return text

    await eventually(lambda: asyncio.to_thread(arrived))
    sent = await up.tidings(
        "send", "--to", "demo", "--subject", "Hello", "--text", "From the terminal", "--channel", "sms"
    )
    (other,) = re.findall(r"accepted (ntf_\w+)", sent)
    assert (await up.rested(other))["state"] in {"sent", "delivered"}
    shown = await up.tidings("status", other)
    assert "sms    +5511961234567: " in shown
    assert max(len(line) for line in shown.splitlines()) <= 80

    def counted() -> str:
        with urlopen(f"{up.running()['api_url']}/metrics") as answer:
            text: str = answer.read().decode()
        # What the API counts, and what only the worker knows.
        assert 'tidings_accepted_total{result="accepted"} 2.0' in text
        assert 'tidings_provider_results_total{provider="twilio",result="sent"} 2.0' in text
        return text

    await eventually(lambda: asyncio.to_thread(counted))

    assert re.search(r"  PostgreSQL \d+ \((bundled|of this system, /.*)\) +\d", up.text), "which one it is"
    # Nobody relies on a failure: in health the server has nothing to say.
    said = (folder / "data" / "postgres.log").read_text()
    assert [line for line in said.splitlines() if re.search("ERROR|FATAL|PANIC|WARNING", line)] == []

    up.process.send_signal(signal.SIGINT)
    assert await up.ended() == 0
    assert "Stopping" in up.text
    assert not (folder / "data" / "running.json").exists()

    again = await start(started, folder)
    assert key not in again.text
    await again.rested(await again.paste())
    assert (await again.rested(id))["state"] == "delivered"
    again.process.send_signal(signal.SIGTERM)
    assert await again.ended() == 0


async def test_everything_is_found_again_after_kill_9_of_everything(folder: Path, started: list[Up]) -> None:
    up = await start(started, folder)
    id = await up.paste()
    await up.rested(id)
    for pid in up.family:
        with suppress(ProcessLookupError):  # some of PostgreSQL's processes end by themselves
            os.kill(pid, signal.SIGKILL)
    await up.ended()
    again = await start(started, folder)
    assert (await again.rested(id))["id"] == id
    assert (await again.rested(await again.paste()))["state"] == "delivered"
    again.process.send_signal(signal.SIGINT)
    assert await again.ended() == 0


async def test_nothing_outlives_a_killed_supervisor(folder: Path, started: list[Up]) -> None:
    up = await start(started, folder)
    up.process.kill()
    assert await up.ended() == -signal.SIGKILL
    again = await start(started, folder)
    again.process.send_signal(signal.SIGINT)
    assert await again.ended() == 0


@pytest.mark.parametrize("role", ["api", "worker", "sandbox"])
async def test_a_killed_process_is_started_again(role: str, folder: Path, started: list[Up]) -> None:
    up = await start(started, folder)
    children = up.running()["children"]
    assert isinstance(children, dict)
    os.kill(children[role], signal.SIGKILL)
    await eventually(lambda: f"The {role} is ready again." in up.text, STARTED_WITHIN)
    assert f"The {role} was ended by SIGKILL; it is started again" in up.text
    up.family |= family_of(up.process.pid)
    assert (await up.rested(await up.paste()))["state"] == "delivered"


async def test_the_critical_lane_has_a_process_of_its_own_that_is_started_again(
    folder: Path, started: list[Up]
) -> None:
    up = await start(started, folder)
    children = up.running()["children"]
    assert isinstance(children, dict)
    worker = children["worker"]
    [critical] = family_of(worker) - {worker}
    assert "route:critical,deliver:critical" in Path(f"/proc/{critical}/cmdline").read_text()
    os.kill(critical, signal.SIGKILL)
    log = folder / "data" / "logs" / "worker.log"
    await eventually(lambda: "The critical worker is ready again." in log.read_text(), STARTED_WITHIN)
    up.family |= family_of(up.process.pid)
    said = await up.tidings("send", "--to", "demo", "--text", "Hello", "--channel", "sms", "--priority", "critical")
    (id,) = re.findall(r"accepted (ntf_\w+)", said)
    assert (await up.rested(id))["state"] in {"sent", "delivered"}
    os.kill(worker, signal.SIGKILL)
    await eventually(lambda: not alive({critical} | (family_of(worker) - {worker})), STARTED_WITHIN)


async def test_postgres_is_started_again(folder: Path, started: list[Up]) -> None:
    up = await start(started, folder)
    first = int((folder / "data" / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: "postgres ended" in up.text, STARTED_WITHIN)

    async def works() -> bool:
        up.family |= family_of(up.process.pid)
        return (await up.rested(await up.paste()))["state"] == "delivered"

    assert await eventually(works, STARTED_WITHIN, 0.5)


async def refused(folder: Path, *arguments: str) -> str:
    """The error message of an `up` that does not start; its exit code is 2."""
    command = [*TIDINGS, "up", *arguments]
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, cwd=folder, env=environment(), check=False
    )
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


async def test_errors_at_the_start_are_plain_sentences(folder: Path, started: list[Up]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        said = await refused(folder, "--port", taken)
        assert f"port {taken} on 127.0.0.1, where the API would listen, is in use" in said
        assert "--port (0 takes any free one)" in said
        said = await refused(folder, "--port", "0", "--sandbox-port", taken)
        assert "where the sandbox would listen, is in use" in said
        assert "--sandbox-port" in said
    (folder / "file").write_text("")
    assert "cannot be written" in await refused(folder, "--data-dir", str(folder / "file" / "data"), "--port", "0")
    up = await start(started, folder)
    said = await refused(folder, "--data-dir", str(folder / "data"), "--port", "0")
    assert f"Tidings already runs on the data folder {folder / 'data'} (process {up.process.pid}" in said


async def test_tenants_and_keys(folder: Path, started: list[Up]) -> None:
    up = await start(started, folder)
    made = await up.tidings("tenant", "create", "cafe", "--name", "Café")
    (secret,) = re.findall(r"API key +(\S+)", made)
    assert "Café" in await up.tidings("tenant", "list")
    (id,) = re.findall(r"(key_\w+)", await up.tidings("key", "list", "--tenant", "cafe"))
    sent = await up.tidings("send", "--email", "ada@example.com", "--text", "hello", "--key", secret)
    assert "accepted ntf_" in sent
    assert id in await up.tidings("key", "revoke", id, "--tenant", "cafe")
    assert "revoked" in await up.tidings("key", "list", "--tenant", "cafe")
    assert "the schema is up to date" in await up.tidings("migrate")


async def test_the_accounts_of_a_small_demo_add_up(folder: Path, started: list[Up]) -> None:
    up = await start(started, folder)
    # With this seed one customer has an address for which the vendor always answers 429.
    said = await up.tidings("demo", "--users", "200", "--orders", "120", "--seconds", "2", "--seed", "21")
    assert "The sums close." in said
    assert "440 notifications accepted, 440 accounted for" in said
    assert re.search(r"^ *dead +attempts_exhausted +[1-9]", said, re.MULTILINE), said
    waits = re.findall(r"deliver(?:y|ies) waits? until .*: (\w+) ", said)
    assert set(waits) <= {"quiet_hours"}, said
