"""One role as a process of its own, for tests that kill it: `python role.py SETTINGS ROLE PARENT SHIFT`.

It ends with its parent, however that ends. Its clock is wrong by SHIFT seconds: what the machine's time is to us, and
to PostgreSQL, it is not to it. The monotonic clock stays right, as it does on a machine whose time is set.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from tidings.config import Settings
from tidings.wiring import run

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Be killed when `parent` dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent ended first")


def shift_clock(seconds: float) -> None:
    """Let `time.time` and `time.time_ns`, which all of the product asks, be wrong by so much."""
    right = time.time_ns
    wrong = round(seconds * 1e9)
    time.time_ns = lambda: right() + wrong
    time.time = lambda: (right() + wrong) / 1e9


def main(settings: str, role: str, parent: str, shift: str) -> None:
    """Run the role until it is signalled; says `ready` when it is."""
    end_with(int(parent))
    if float(shift):
        shift_clock(float(shift))
    read = Settings.model_validate_json(Path(settings).read_text())
    asyncio.run(run(read, frozenset([role]), lambda _: print("ready", flush=True)))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
