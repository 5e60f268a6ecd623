"""The supervisor of the bundled PostgreSQL, with real servers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from support import eventually
from tidings.backends.postgres import binaries
from tidings.backends.postgres.binaries import Account, Binaries
from tidings.backends.postgres.connection import connect
from tidings.backends.postgres.folder import is_ready
from tidings.backends.postgres.server import Server
from tidings.model.errors import SettingsError

PROGRAM = Path(__file__).with_name("supervise.py")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has an unprivileged user to give PostgreSQL")


async def ask(dsn: str, question: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def servers_on(folder: Path) -> list[int]:
    """The processes whose working folder is this server's."""
    home = (folder / "postgres").resolve()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve(strict=True).is_relative_to(home):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def owner_and_program(pid: int) -> tuple[str, Path]:
    process = Path("/proc") / str(pid)
    return process.owner(), (process / "exe").readlink()


def supervise(folder: Path) -> tuple[subprocess.Popen[str], int, str]:
    """Start a supervising process. Returns it, the server's process id and the DSN."""
    supervisor = subprocess.Popen([sys.executable, str(PROGRAM), str(folder)], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    return supervisor, int(supervisor.stdout.readline()), supervisor.stdout.readline().strip()


def leave_over(server: Server) -> subprocess.Popen[bytes]:
    """Start an unsupervised server on the data of this stopped server."""
    who = server._place.account
    return subprocess.Popen(
        [
            server._place.program("postgres"), "-D", server.data, "-c", "listen_addresses=",
            "-c", f"unix_socket_directories={server.home}",
        ],
        user=who.uid, group=who.gid, extra_groups=[] if who.switches else None, cwd=server.home,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


@pytest.fixture
def closed_folder(tmp_path: Path) -> Path:
    """A folder that only its owner may enter."""
    tmp_path.chmod(0o700)
    return tmp_path


def is_gone(pid: int) -> Callable[[], bool]:
    return lambda: not alive(pid)


@linux
async def test_it_starts_answers_is_durable_and_finds_its_data_again(open_data_dir: Path) -> None:
    async with Server(open_data_dir) as server:
        assert await ask(server.dsn, "SELECT 1") == 1
        assert await ask(server.tcp_dsn, "SELECT 1") == 1
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
            assert await ask(server.dsn, f"SHOW {setting}") == "on"
        assert await ask(server.dsn, "SHOW server_encoding") == "UTF8"
        await ask(server.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        first = server.pid
    assert not alive(first)
    assert servers_on(open_data_dir) == []
    async with Server(open_data_dir) as server:
        assert await ask(server.dsn, "SELECT answer FROM kept") == 42


async def test_the_password_is_private_and_needed(open_data_dir: Path) -> None:
    async with Server(open_data_dir) as server:
        secret = open_data_dir / "postgres.password"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        for dsn in (server.dsn, server.tcp_dsn):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await ask(dsn.replace(secret.read_text(), "guess"), "SELECT 1")


async def test_a_lost_password_is_replaced(open_data_dir: Path) -> None:
    with Server(open_data_dir):
        pass
    (open_data_dir / "postgres.password").unlink()
    async with Server(open_data_dir) as server:
        assert await ask(server.dsn, "SELECT 1") == 1


async def test_a_server_that_dies_is_started_again_on_the_same_port(open_data_dir: Path) -> None:
    async with Server(open_data_dir) as server:
        await ask(server.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        first, dsn = server.pid, server.dsn
        os.kill(first, signal.SIGKILL)

        async def answered() -> bool:
            try:
                return await ask(dsn, "SELECT answer FROM kept") == 42
            except (OSError, asyncpg.PostgresError):
                return False

        await eventually(answered, timeout=30)
        assert server.pid != first


@linux
async def test_killing_the_supervisor_leaves_no_server_and_all_data(open_data_dir: Path) -> None:
    supervisor, pid, dsn = await asyncio.to_thread(supervise, open_data_dir)
    await ask(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    supervisor.kill()
    supervisor.communicate()
    await eventually(is_gone(pid))
    await eventually(lambda: servers_on(open_data_dir) == [])
    async with Server(open_data_dir) as server:
        assert await ask(server.dsn, "SELECT answer FROM kept") == 42


async def test_a_server_that_was_left_over_is_ended_first(open_data_dir: Path) -> None:
    with Server(open_data_dir) as server:
        pass
    left = await asyncio.to_thread(leave_over, server)
    try:
        await eventually(lambda: is_ready(server.data, left.pid))
        reaping = asyncio.create_task(asyncio.to_thread(left.wait))
        async with Server(open_data_dir) as second:
            assert await ask(second.dsn, "SELECT 1") == 1
        assert await reaping == 0
    finally:
        left.kill()


async def test_ctrl_c_in_the_terminal_does_not_reach_it(open_data_dir: Path) -> None:
    async with Server(open_data_dir) as server:
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


async def test_two_on_one_folder(open_data_dir: Path) -> None:
    async with Server(open_data_dir) as server:
        with pytest.raises(SettingsError, match=rf"process {os.getpid()}\) runs on the data folder.*--data-dir"):
            Server(open_data_dir).start()
        assert await ask(server.dsn, "SELECT 1") == 1


async def test_a_port_in_use(open_data_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"could not listen on 127.0.0.1:{port}.*another port"):
            Server(open_data_dir, port=port).start()
    async with Server(open_data_dir, port=port) as server:
        assert server.port == port


def test_no_disk_space(open_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(open_data_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * 2**20))
    with pytest.raises(SettingsError, match=r"only 3 MB are free on the disk of .* --data-dir"):
        Server(open_data_dir).start()


@as_root
def test_a_disk_that_is_really_full(open_data_dir: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=230m,mode=755", "tmpfs", str(open_data_dir)], check=False
    )
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        with Server(open_data_dir) as server, pytest.raises(OSError, match="No space left"):
            (open_data_dir / "filler").write_bytes(b"\0" * 240 * 2**20)
        with pytest.raises(SettingsError, match="are free on the disk"):
            server.start()
    finally:
        subprocess.run(["umount", str(open_data_dir)], check=True)


def test_no_binaries(open_data_dir: Path) -> None:
    with pytest.raises(SettingsError, match=r"no PostgreSQL 14 or newer was found.*Install PostgreSQL"):
        Server(open_data_dir, found=[]).start()


def test_data_of_another_version(open_data_dir: Path) -> None:
    with Server(open_data_dir) as server:
        pass
    (server.data / "PG_VERSION").write_text("13\n")
    with pytest.raises(SettingsError, match=r"made by PostgreSQL 13, but only .*Install PostgreSQL 13, or.*--data-dir"):
        Server(open_data_dir).start()
    with pytest.raises(
        SettingsError, match=r"made by PostgreSQL 13, but only .* there as bundled. Leave out --postgres"
    ):
        Server(open_data_dir, source="bundled").start()


def test_the_binaries_that_made_the_data_are_chosen() -> None:
    system, wheel = Binaries(Path("/a"), 15), Binaries(Path("/b"), 18, Path("/"))
    assert binaries.choose(None, [system, wheel]) == system
    assert binaries.choose(18, [system, wheel]) == wheel


def test_a_wanted_source_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, open_data_dir: Path) -> None:
    monkeypatch.setattr(binaries, "_system", lambda: iter(()))
    monkeypatch.setattr(binaries, "_wheel", lambda: iter(()))
    with pytest.raises(SettingsError, match=r"installed on this machine. Install one, start with --postgres bundled"):
        Server(open_data_dir, source="system").start()
    with pytest.raises(SettingsError, match=f"{binaries.WHEEL} that carries PostgreSQL is not installed here"):
        Server(open_data_dir, source="bundled").start()


def test_a_wanted_source_is_used_and_named(monkeypatch: pytest.MonkeyPatch, open_data_dir: Path) -> None:
    system, wheel = Binaries(Path("/opt/pg/bin"), 15), Binaries(Path("/w/bin"), 18, Path("/w"))
    monkeypatch.setattr(binaries, "_system", lambda: iter([system]))
    monkeypatch.setattr(binaries, "_wheel", lambda: iter([wheel]))
    named = {source: Server(open_data_dir, source=source).origin for source in (None, "system", "bundled")}
    of_system = "PostgreSQL 15 (of this system, /opt/pg/bin)"
    assert named == {None: of_system, "system": of_system, "bundled": "PostgreSQL 18 (bundled)"}


@pytest.mark.skipif(not list(binaries._wheel()), reason="there is no wheel for this machine")
async def test_a_data_folder_remembers_its_version(open_data_dir: Path) -> None:
    """A folder of the bundled PostgreSQL keeps using it, whatever else is installed."""
    async with Server(open_data_dir, source="bundled") as server:
        assert server.origin.endswith("(bundled)")
        made_by = server.origin
    async with Server(open_data_dir) as server:
        assert server.origin == made_by
        assert f"PostgreSQL {await ask(server.dsn, 'SHOW server_version')}".startswith(made_by.partition(" (")[0])


@linux
@pytest.mark.parametrize("name", ["acme, inc", "a b [c] {d} 'e' \"f\" $HOME %20;&é", ",", "#?@:"])
async def test_a_folder_of_any_name(open_data_dir: Path, name: str) -> None:
    async with Server(open_data_dir / name / "d") as server:
        assert await ask(server.dsn, "SELECT 1") == 1
        await (await connect(server.dsn, "test")).close()
        assert servers_on(open_data_dir / name / "d")


async def test_the_log_repeats_pages_cheaply_where_it_can(open_data_dir: Path) -> None:
    async with Server(open_data_dir) as server:
        known = await ask(server.dsn, "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'wal_compression'")
        assert await ask(server.dsn, "SHOW wal_compression") == ("lz4" if known else "on")


@pytest.mark.skipif(not list(binaries._wheel()), reason="there is no wheel for this machine")
async def test_the_wheels_server_runs(open_data_dir: Path) -> None:
    async with Server(open_data_dir, found=sorted(binaries._wheel(), key=lambda one: -one.major)) as server:
        assert await ask(server.dsn, "SELECT 1") == 1


def test_ruined_data_is_reported_with_the_log(open_data_dir: Path) -> None:
    with Server(open_data_dir) as server:
        pass
    (server.data / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(SettingsError, match=r"(?s)does not start. It said:.*pg_control.*postgres\.log"):
        Server(open_data_dir).start()


@as_root
async def test_as_root_a_closed_folder_works_too(closed_folder: Path) -> None:
    async with Server(closed_folder / "data") as server:
        assert await ask(server.dsn, "SELECT 1") == 1
        assert owner_and_program(server.pid)[0] != "root"
        assert not server.home.is_relative_to(closed_folder)
        await ask(server.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    try:
        async with Server(closed_folder / "data") as server:
            assert await ask(server.dsn, "SELECT answer FROM kept") == 42
    finally:
        shutil.rmtree(server.home)


@as_root
def test_a_start_that_fails_leaves_nothing_elsewhere(closed_folder: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("tidings-postgres-*"))
    with pytest.raises(SettingsError, match="no PostgreSQL"):
        Server(closed_folder / "data", found=[]).start()
    assert set(Path(tempfile.gettempdir()).glob("tidings-postgres-*")) == before
    assert not (closed_folder / "data" / "postgres").is_symlink()


@as_root
def test_remains_of_a_deleted_data_folder_are_named(closed_folder: Path) -> None:
    with Server(closed_folder / "data") as first:
        left = first.home
    shutil.rmtree(closed_folder / "data")
    with capture_logs() as logs, Server(closed_folder / "data") as second:
        assert second.home != left
    try:
        [said] = [log for log in logs if log["event"] == "postgres_folder_left_behind"]
        assert said["folder"] == str(left)
    finally:
        shutil.rmtree(left)
        shutil.rmtree(second.home)


@as_root
@pytest.mark.skipif(not list(binaries._wheel()), reason="there is no wheel for this machine")
async def test_as_root_a_wheel_in_a_closed_folder_is_copied(closed_folder: Path, open_data_dir: Path) -> None:
    original = max(binaries._wheel(), key=lambda one: one.major)
    assert original.wheel is not None
    closed = closed_folder / "site-packages"
    inside = original.folder.relative_to(original.wheel)
    shutil.copytree(original.folder.parent, closed / inside.parent, symlinks=True)
    libraries = original.wheel / f"{binaries.WHEEL}.libs"
    shutil.copytree(libraries, closed / libraries.name)
    hidden = Binaries(closed / inside, original.major, closed)
    for _ in range(2):
        async with Server(open_data_dir, found=[hidden]) as server:
            assert await ask(server.dsn, "SELECT 1") == 1
            assert owner_and_program(server.pid)[1].is_relative_to(server.home)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(open_data_dir: Path) -> None:
    open_data_dir.chmod(0o500)
    with pytest.raises(SettingsError, match="cannot be written"):
        Server(open_data_dir / "data").start()
    open_data_dir.chmod(0o700)


@as_root
def test_an_ordinary_user_needs_nobody_else(open_data_dir: Path) -> None:
    nobody = Account(65534, 65534)
    nobody.owns(open_data_dir)
    assert nobody.reaches(open_data_dir)
    open_data_dir.chmod(0o700)
    assert nobody.reaches(open_data_dir)
    assert not Account(65533, 65533).reaches(open_data_dir)
