"""Whether the store answers, so that no request waits for one that does not.

A database that refuses is noticed at once. A silent one (a machine that hangs, a network that drops packets) would hold
every request until its statement times out. So the store is pinged for as long as requests come. While it is silent,
waiting and new requests are answered with 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from tidings.model.errors import Unavailable
from tidings.pipeline.runtime.stopping import first_of
from tidings.ports.clock import Clock

PING_EVERY_S = 0.25
ANSWER_WITHIN_S = 0.5
"""With `PING_EVERY_S`, less than a second passes from the store's silence to the first 503."""
_IDLE_AFTER_MS = 5_000
"""Without a request for so long, the store is not pinged."""
_PARTS = 5
T = TypeVar("T")
_log = structlog.get_logger("tidings.api")


class Vitals:
    """Guards requests against a silent store. `ping` returns when the store answers, and raises when it refuses."""

    def __init__(self, ping: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self._ping = ping
        self._clock = clock
        self._requested_at_ms = -_IDLE_AFTER_MS
        self._requested = asyncio.Event()
        self._pinging: asyncio.Future[None] | None = None
        self._silent = False
        self._guarded: dict[asyncio.Task[Any], asyncio.Future[None]] = {}
        """Each request under way, with a future that is done when its caller need not wait any more."""

    async def watch(self, stopping: asyncio.Event) -> None:
        """Ping the store for as long as requests come, until `stopping` is set."""
        try:
            while not stopping.is_set():
                if self._silent or self._clock.elapsed() - self._requested_at_ms < _IDLE_AFTER_MS:
                    await self._check()
                    await self._clock.sleep(PING_EVERY_S)
                else:
                    self._requested.clear()
                    await first_of(self._requested.wait(), stopping.wait())
        finally:
            if self._pinging is not None:
                self._pinging.cancel()

    async def guard(self, request: Coroutine[Any, Any, T]) -> T:
        """The result of `request`.

        Raises:
            Unavailable: the store is silent. A statement that has begun may still take effect.
        """
        self._requested_at_ms = self._clock.elapsed()
        self._requested.set()
        loop = asyncio.get_running_loop()
        # A task and a future are cheaper than asyncio.wait, which makes tasks of its own; every request passes here.
        answering = loop.create_task(request)
        waiting = self._guarded[answering] = loop.create_future()
        if self._silent:
            waiting.set_result(None)
        answering.add_done_callback(self._end)
        try:
            await waiting
        finally:
            if not answering.done():
                # Not awaited: its statement may hang for as long as the store does.
                answering.cancel()
        if not answering.done():
            raise Unavailable("the database does not answer")
        return answering.result()

    def _end(self, answering: asyncio.Task[Any]) -> None:
        waiting = self._guarded.pop(answering)
        if not waiting.done():
            waiting.set_result(None)
        elif not answering.cancelled():
            answering.exception()  # read, so that asyncio does not warn: the caller has been answered already

    async def _check(self) -> None:
        """Ping the store once, and note whether it answered in time."""
        if self._pinging is None:
            self._pinging = asyncio.ensure_future(self._ping())
        # A late ping is not cancelled: on a connection that hangs, the cancelling would hang too. The wait is split in
        # parts, so that a process that was busy itself loses one part only, and its loop gets to read the answer.
        for _ in range(_PARTS):
            done, _ = await asyncio.wait({self._pinging}, timeout=ANSWER_WITHIN_S / _PARTS)
            if done:
                break
        why = f"silent for {ANSWER_WITHIN_S:g} s"
        if self._pinging.done():
            ping, self._pinging = self._pinging, None
            failure = ping.exception()
            if failure is None:
                if self._silent:
                    _log.info("the store answers again")
                self._silent = False
                return
            why = str(failure)
        if not self._silent:
            _log.warning("the store does not answer", why=why)
        self._silent = True
        for waiting in self._guarded.values():
            if not waiting.done():
                waiting.set_result(None)
