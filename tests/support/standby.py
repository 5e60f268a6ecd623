"""A standby of a bundled server: a second real PostgreSQL that follows the first."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from support.ports import free_port
from tidings.backends.postgres.binaries import environment
from tidings.backends.postgres.folder import NAME
from tidings.backends.postgres.server import Server


def both(primary: Server, standby_port: int) -> str:
    """A DSN that names the two servers, the standby first."""
    return primary.tcp_dsn.replace("127.0.0.1", f"127.0.0.1:{standby_port},127.0.0.1")


@contextmanager
def standby_of(primary: Server) -> Iterator[int]:
    """A hot standby that streams from `primary`. Returns its port."""
    who, home = primary._place.account, primary.home / "standby"
    programs = primary._place.program("postgres").parent
    source = f"host=127.0.0.1 port={primary.port} user={NAME} password={quote(primary._place.password)}"
    copied = who.run(
        [programs / "pg_basebackup", "-D", home, "-R", "-X", "stream", "-c", "fast", "-d", source], primary.home
    )
    assert copied.returncode == 0, copied.stderr
    port = free_port()
    log = (primary.home.parent / "standby.log").open("wb")
    process = subprocess.Popen(
        [
            programs / "postgres", "-D", home, "-c", f"port={port}", "-c", "listen_addresses=127.0.0.1",
            "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=200",
        ],
        user=who.uid, group=who.gid, extra_groups=[] if who.switches else None, cwd=home, env=environment(),
        stdout=log, stderr=log, start_new_session=True, umask=0o077,
    )  # fmt: skip
    try:
        yield port
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(20)
        log.close()
        shutil.rmtree(home, ignore_errors=True)
