"""A script that becomes PostgreSQL: it drops root, asks for a signal at its parent's death, and execs the server.

It runs as its own process (`python -I -S launch.py PARENT UID GID PROGRAM ARGUMENT…`), because all of this must happen
between fork and exec, where a process with threads must not run Python. The order matters: Linux drops the parent-death
signal when the user changes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, uid: int, gid: int, program: list[str]) -> None:
    """Exec `program` as `uid` and `gid` (-1: unchanged); it gets SIGINT, a fast shutdown, when `parent` dies."""
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            sys.exit("the parent ended before PostgreSQL was started")
    os.umask(0o077)
    os.execv(program[0], program)  # noqa: S606 - the program is PostgreSQL


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
