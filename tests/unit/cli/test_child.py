from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support import eventually
from tidings.cli.child import Child
from tidings.cli.plain import CannotGoOn
from tidings.config import Settings

LISTENS = """
import json, os, signal, socket, sys
line = socket.socket(fileno=os.dup(0))
reader = line.makefile("rb")
settings = json.loads(reader.readline())
print("settings for", sys.argv[1], settings["data_dir"], flush=True)
line.sendall(b'ready {"other": ""}\\n')
line.sendall(('ready {"%s": "http://here"}\\n' % sys.argv[1]).encode())
"""
OBEDIENT = LISTENS + "reader.read()\nprint('the parent is gone', flush=True)\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LISTENS + "while True: signal.pause()\n"


def child(tmp_path: Path, program: str, changed: Callable[[], None] = lambda: None, **more: Any) -> Child:
    command = (sys.executable, "-c", program)
    return Child("api", Settings(data_dir=tmp_path), tmp_path / "api.log", changed, command, **more)


@asynccontextmanager
async def kept(api: Child) -> AsyncIterator[asyncio.Task[None]]:
    keeping = asyncio.create_task(api.keep())
    try:
        yield keeping
    finally:
        api.kill()
        await asyncio.wait({keeping})


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_gets_the_settings_and_says_when_it_is_ready(tmp_path: Path) -> None:
    changes: list[int] = []
    api = child(tmp_path, OBEDIENT, lambda: changes.append(1))
    async with kept(api):
        await asyncio.wait_for(api.ready.wait(), 10)
        assert api.addresses == {"other": "", "api": "http://here"}
        assert len(changes) == 2
        assert f"settings for api {tmp_path}" in api.log.read_text()
        pid = api.pid
        await api.stop()
        assert not alive(pid)
        assert api.pid == 0


async def test_it_is_started_again_when_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes: list[int] = []
    api = child(tmp_path, OBEDIENT, lambda: changes.append(api.pid))
    async with kept(api):
        await asyncio.wait_for(api.ready.wait(), 10)
        first = api.pid
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: api.pid not in {0, first})
        await eventually(lambda: len(changes) == 4)  # each is started, and is ready
        assert api.log.read_text().count("settings for") == 2
        await api.stop()
    said = capsys.readouterr().out
    assert f"The api was ended by SIGKILL; it is started again in 0.5 s. Its log: {api.log}" in said
    assert "The api is ready again." in said


async def test_it_gives_up_when_it_never_starts(tmp_path: Path) -> None:
    api = child(tmp_path, "print('an early line'); raise SystemExit(1)")
    async with kept(api) as keeping:
        with pytest.raises(CannotGoOn) as caught:
            await asyncio.wait_for(keeping, 20)
    text = str(caught.value)
    assert text == "the api does not start (ended with exit code 1). Its last words:\n  an early line"


async def test_bad_settings_are_not_tried_twice(tmp_path: Path) -> None:
    api = child(tmp_path, "raise SystemExit(2)")
    async with kept(api) as keeping:
        with pytest.raises(CannotGoOn, match=r"does not start \(ended with exit code 2\)"):
            await asyncio.wait_for(keeping, 10)


async def test_a_child_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tidings.sections.StopSettings.kill_after", 0.2)
    api = child(tmp_path, STUBBORN)
    async with kept(api):
        await asyncio.wait_for(api.ready.wait(), 10)
        pid = api.pid
        await api.stop()
        assert not alive(pid)
    assert "The api does not end; it is killed." in capsys.readouterr().out


async def test_stopping_interrupts_the_wait_before_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.cli.child._FIRST_WAIT_S", 60.0)
    api = child(tmp_path, "raise SystemExit(1)")
    async with kept(api) as keeping:
        await eventually(lambda: api.log.exists() and api.pid == 0)
        await api.stop()
        await asyncio.wait([keeping], timeout=5)
        assert keeping.done()
        await keeping


TAKES_ONE = (
    "import os, signal, socket, sys\n"
    + LISTENS
    + """
server = socket.socket(fileno=int(sys.argv[3]))
while True:
    taken, _ = server.accept()
    if taken.recv(100) == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    taken.sendall(str(os.getpid()).encode())
    taken.close()
"""
)


async def asked(address: tuple[str, int], what: bytes = b"who") -> bytes:
    """Connect, and give the answer of the process that accepts the connection, which may start later."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(what)
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_a_new_process_takes_over_while_the_old_one_ends(tmp_path: Path) -> None:
    buried: list[int] = []
    api = child(tmp_path, OBEDIENT, ended=buried.append)
    async with kept(api):
        await asyncio.wait_for(api.ready.wait(), 10)
        first = api.pid
        await api.replace(beside=True)
        assert api.pid not in {0, first}
        assert not alive(first)
        assert alive(api.pid)
        second = api.pid
        await api.replace(beside=False)
        assert api.pid not in {0, first, second}
        assert not alive(second)
        assert buried == [first, second]
        await api.stop()
        assert api.pid == 0


async def test_the_old_process_goes_on_when_the_new_one_does_not_start(tmp_path: Path) -> None:
    switch = tmp_path / "broken"
    api = child(
        tmp_path, f"import pathlib, sys\nif pathlib.Path({str(switch)!r}).exists(): sys.exit('no way')\n" + OBEDIENT
    )
    async with kept(api):
        await asyncio.wait_for(api.ready.wait(), 10)
        first = api.pid
        switch.touch()
        with pytest.raises(
            CannotGoOn, match=r"ended before it was ready\. The old one goes on\. Its last words:\n  no way"
        ):
            await api.replace(beside=True)
        assert api.pid == first
        assert alive(first)
        # It is watched as before.
        switch.unlink()
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: api.pid not in {0, first})


async def test_a_child_that_dies_refuses_no_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        api = child(tmp_path, TAKES_ONE, listening=[listening])
        address = listening.getsockname()
        async with kept(api):
            await asyncio.wait_for(api.ready.wait(), 10)
            first = await asked(address)
            assert int(first) == api.pid
            assert await asked(address, b"die") == b""
            # Nobody is there now; it waits for the next one.
            assert await asked(address) not in {b"", first}


def test_a_log_that_grew_too_large_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.cli.child._LARGEST_LOG_BYTES", 10)
    api = child(tmp_path, OBEDIENT)
    api.trim_log()
    api.log.write_text("short")
    api.trim_log()
    assert api.log.read_text() == "short"
    api.log.write_text("a longer text")
    api.trim_log()
    assert (api.log.read_text(), (tmp_path / "api.log.1").read_text()) == ("", "a longer text")
