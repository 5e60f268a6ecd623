"""What tests share: waiting for something to become true, and naming the parts that a test needs."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

needs = pytest.mark.needs
"""`@needs("chromium")`: the test needs a part that a machine may lack (see support.parts.PARTS)."""


async def eventually(
    check: Callable[[], Any],
    timeout: float = 10.0,
    every: float = 0.02,
) -> Any:
    """What `check` gives (or, awaited, gives) as soon as that is true.

    It is asked each `every` seconds until `timeout` seconds are over.

    An AssertionError of `check` counts as "not yet"; the last one is what a failure shows.
    """
    loop = asyncio.get_running_loop()
    last: object = None
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    found = check()
                    value = await found if inspect.isawaitable(found) else found
                except AssertionError as error:
                    last = error
                else:
                    if value:
                        return value
                    last = value
                again = loop.create_future()
                handle = loop.call_later(every, again.set_result, None)
                try:
                    await again
                finally:
                    handle.cancel()
    except TimeoutError:
        if isinstance(last, AssertionError):
            raise last from None
        raise AssertionError(f"not within {timeout} s: {check!r}, the last answer was {last!r}") from None


def unique(stem: str) -> str:
    """A name that no other test uses."""
    return f"{stem}-{uuid4().hex[:12]}"


async def ticks(every: float) -> AsyncGenerator[float, None]:
    """The beat of a load: the seconds since the start, each `every` seconds, without making up for late ones."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while True:
        now = loop.time()
        yield now - started
        beat = loop.create_future()
        handle = loop.call_at(now + every, beat.set_result, None)
        try:
            await beat
        finally:
            handle.cancel()


def program(module: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that run the support module `support.<module>` as a program."""
    path = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return [sys.executable, "-m", f"support.{module}"], {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
