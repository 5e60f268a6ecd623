"""One role as a process of its own, for tests that kill it: `python role.py SETTINGS ROLE PARENT SHIFT`.

It is killed when its parent dies. Its wall clock is SHIFT seconds ahead of the machine's, which the tests and
PostgreSQL use. The monotonic clock is not shifted, as on a machine whose time is set.
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
    """Shift `time.time` and `time.time_ns`, the only wall clocks that the product reads."""
    true_time_ns = time.time_ns
    shift_ns = round(seconds * 1e9)
    time.time_ns = lambda: true_time_ns() + shift_ns
    time.time = lambda: (true_time_ns() + shift_ns) / 1e9


def main(settings: str, role: str, parent: str, shift: str) -> None:
    """Run the role until a signal ends it. Prints `ready` once it is."""
    end_with(int(parent))
    if float(shift):
        shift_clock(float(shift))
    role_settings = Settings.model_validate_json(Path(settings).read_text())
    asyncio.run(run(role_settings, frozenset([role]), lambda _: print("ready", flush=True)))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
