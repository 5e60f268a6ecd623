"""`tidings up` as a newcomer uses it: the real command, its real processes, what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from support import eventually
from support_postgres import open_folder

TIDINGS = (sys.executable, "-m", "tidings.cli")
STARTED_WITHIN = 90
ENDED_WITHIN = 60


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}


def parent_of(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    state, parent = stat.rpartition(")")[2].split()[:2]
    return 0 if state in {"Z", "X"} else int(parent)


def family_of(pid: int) -> set[int]:
    """The process and everything that it started, and they."""
    parents = {int(entry.name): parent_of(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if parent_of(pid)}


class Up:
    """One run of `tidings up` on a data folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.output = folder / "output"
        command = [*TIDINGS, "up", "--data-dir", str(folder / "data"), *(arguments or ("--port", "0"))]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=folder, env=environment(), start_new_session=True
            )
        self.family: set[int] = set()

    @property
    def text(self) -> str:
        return self.output.read_text()

    async def ready(self) -> Up:
        """Wait for the greeting."""

        def greeted() -> bool:
            assert self.process.poll() is None, self.text
            return "Ctrl-C stops everything" in self.text

        await eventually(greeted, STARTED_WITHIN, 0.1)
        self.family = family_of(self.process.pid)
        assert len(self.family) > 5
        return self

    async def ended(self) -> int:
        """Wait until it is gone, and everything that it started; its exit code."""
        await eventually(lambda: self.process.poll() is not None, ENDED_WITHIN)
        await eventually(lambda: not alive(self.family), ENDED_WITHIN)
        assert self.process.returncode is not None
        return self.process.returncode

    def running(self) -> dict[str, object]:
        """What it says of itself to other commands."""
        found: dict[str, object] = json.loads((self.folder / "data" / "running.json").read_bytes())
        return found

    def end(self) -> None:
        """Leave nothing behind, whatever the test found."""
        for pid in self.family | family_of(self.process.pid):
            if alive({pid}):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    async def tidings(self, *arguments: str) -> str:
        """What another command prints that uses this one."""
        command = [*TIDINGS, *arguments, "--data-dir", str(self.folder / "data")]
        result = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, cwd=self.folder, env=environment(), check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    async def paste(self) -> str:
        """Run the printed command in a shell, as a newcomer does; the id in its answer."""
        (line,) = [line for line in self.text.splitlines() if line.startswith("curl ")]
        result = await asyncio.to_thread(
            subprocess.run, ["/bin/sh", "-c", line], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        answer: dict[str, str] = json.loads(result.stdout)
        assert "id" in answer, answer
        return answer["id"]

    async def rested(self, id: str) -> dict[str, object]:
        """The notification once nothing moves any more."""
        view: dict[str, object] = json.loads(await self.tidings("status", id, "--follow", "--json"))
        return view


@pytest.fixture
def folder() -> Iterator[Path]:
    made = open_folder("tidings-up-")
    yield made
    shutil.rmtree(made)


@pytest.fixture
def started(folder: Path) -> Iterator[list[Up]]:
    runs: list[Up] = []
    yield runs
    for run in runs:
        run.end()


async def start(started: list[Up], folder: Path) -> Up:
    run = Up(folder)
    started.append(run)
    return await run.ready()


async def test_from_the_first_start_to_the_last_process(folder: Path, started: list[Up]) -> None:
    up = await start(started, folder)
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

    up.process.send_signal(signal.SIGINT)
    assert await up.ended() == 0
    assert "Stopping" in up.text
    assert not (folder / "data" / "running.json").exists()

    again = await start(started, folder)
    assert re.findall(r"API key +(\S+)", again.text) == re.findall(r"API key +(\S+)", up.text)
    assert (await again.rested(id))["state"] == "delivered"
    again.process.send_signal(signal.SIGTERM)
    assert await again.ended() == 0


async def test_everything_is_found_again_after_kill_9_of_everything(folder: Path, started: list[Up]) -> None:
    up = await start(started, folder)
    id = await up.paste()
    await up.rested(id)
    for pid in up.family:
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
    """What `up` says that does not start, and ends with exit code 2."""
    command = [*TIDINGS, "up", *arguments]
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, cwd=folder, env=environment(), check=False
    )
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


async def test_what_does_not_work_is_a_sentence(folder: Path, started: list[Up]) -> None:
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


async def test_a_small_shop_has_a_day_and_its_sums_close(folder: Path, started: list[Up]) -> None:
    up = await start(started, folder)
    said = await up.tidings("demo", "--users", "200", "--orders", "120", "--seconds", "2")
    assert "The sums close." in said
    assert "440 notifications accepted, 440 accounted for" in said
