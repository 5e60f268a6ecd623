"""Whether the store answers, so that nobody waits for one that does not.

A database that refuses is noticed at once; one that says nothing (a machine that hangs, a network that swallows) would
keep every request until its statement times out. So while requests come the store is asked all the time, and when it
does not answer, those who wait and those who come are told to come again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from tidings.model.errors import Unavailable
from tidings.ports.clock import Clock

ASK_EVERY = 0.25
ANSWER_WITHIN = 0.5
"""Seconds; with `ASK_EVERY` they make less than a second from silence to the answer 503."""
_IDLE_AFTER = 5_000
_PARTS = 5
T = TypeVar("T")
_log = structlog.get_logger("tidings.api")


class Vitals:
    """Guards requests against a silent store. `ping` returns when it answers."""

    def __init__(self, ping: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self._ping = ping
        self._clock = clock
        self._asked_at = -_IDLE_AFTER
        self._asking: asyncio.Future[None] | None = None
        self._silent = False
        self._guarded: dict[asyncio.Task[Any], asyncio.Future[None]] = {}

    async def watch(self, stopping: asyncio.Event) -> None:
        """Ask for as long as requests come, until `stopping` is set."""
        try:
            while not stopping.is_set():
                if self._silent or self._clock.elapsed() - self._asked_at < _IDLE_AFTER:
                    await self._ask()
                await self._clock.sleep(ASK_EVERY)
        finally:
            if self._asking is not None:
                self._asking.cancel()

    async def guard(self, request: Coroutine[Any, Any, T]) -> T:
        """What `request` gives. Raises Unavailable when the store says nothing; what was begun may still happen."""
        self._asked_at = self._clock.elapsed()
        loop = asyncio.get_running_loop()
        # A task and a future, and not asyncio.wait with its own tasks: this is on the way of every request.
        answering = loop.create_task(request)
        over = self._guarded[answering] = loop.create_future()
        if self._silent:
            over.set_result(None)
        answering.add_done_callback(self._end)
        try:
            await over
        finally:
            if not answering.done():
                # Its statement may hang for as long as the store does: nobody waits for its end.
                answering.cancel()
        if not answering.done():
            raise Unavailable("the database does not answer")
        return answering.result()

    def _end(self, answering: asyncio.Task[Any]) -> None:
        over = self._guarded.pop(answering)
        if not over.done():
            over.set_result(None)
        elif not answering.cancelled():
            answering.exception()  # whoever asked has been told something else

    async def _ask(self) -> None:
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ping())
        # Not cancelled when it is late: a connection that hangs would hang in the cancelling as well. In parts: when
        # this process itself was busy for a while, that counts as one, and its loop comes to read the answer.
        for _ in range(_PARTS):
            done, _ = await asyncio.wait({self._asking}, timeout=ANSWER_WITHIN / _PARTS)
            if done:
                break
        why = f"silent for {ANSWER_WITHIN:g} s"
        if self._asking.done():
            asked, self._asking = self._asking, None
            failure = asked.exception()
            if failure is None:
                if self._silent:
                    _log.info("the store answers again")
                self._silent = False
                return
            why = str(failure)
        if not self._silent:
            _log.warning("the store does not answer", why=why)
        self._silent = True
        for over in self._guarded.values():
            if not over.done():
                over.set_result(None)
