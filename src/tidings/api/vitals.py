"""Whether the store answers, so that nobody waits for one that does not.

A database that refuses is noticed at once; one that says nothing (a machine that hangs, a network that swallows) would
keep every request until its statement times out. So while requests come the store is asked all the time, and when it
does not answer, those who wait and those who come are told to come again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar, cast

import structlog

from tidings.model.errors import TidingsError, Unavailable
from tidings.ports.clock import Clock

ASK_EVERY = 0.25
ANSWER_WITHIN = 0.5
"""Seconds; with `ASK_EVERY` they make less than a second from silence to the answer 503."""
READY_WITHIN = 2.0
"""Seconds in which a part that is ready answers."""
_IDLE_AFTER = 5_000
_SILENCE = "the database does not answer"
T = TypeVar("T")
_log = structlog.get_logger("tidings.api")


async def answer_of(question: Coroutine[Any, Any, object]) -> str:
    """`ok`, or what is wrong with the part that was asked."""
    try:
        async with asyncio.timeout(READY_WITHIN):
            await question
    except (TidingsError, TimeoutError) as error:
        return str(error) or f"no answer within {READY_WITHIN:g} s"
    return "ok"


class Vitals:
    """Guards requests against a silent store. `ping` returns when it answers."""

    def __init__(self, ping: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self._ping = ping
        self._clock = clock
        self._asked_at = -_IDLE_AFTER
        self._asking: asyncio.Future[None] | None = None
        self._silent = False
        self._guarded: dict[asyncio.Task[Any], _Guarded[Any]] = {}

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
        if self._silent:
            request.close()
            raise Unavailable(_SILENCE)
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        guarded = _Guarded(request)
        self._guarded[task] = guarded
        try:
            return await guarded
        except asyncio.CancelledError:
            if guarded.let_go and not task.uncancel():
                raise Unavailable(_SILENCE) from None
            raise
        finally:
            del self._guarded[task]

    async def _ask(self) -> None:
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ping())
        # Not cancelled when it is late: a connection that hangs would hang in the cancelling as well.
        await asyncio.wait({self._asking}, timeout=ANSWER_WITHIN)
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
        for task, guarded in self._guarded.items():
            if not guarded.let_go:
                guarded.let_go = True
                task.cancel()


class _Guarded(Generic[T]):
    """Awaits a coroutine in the caller's own task: one more for each request would cost a tenth of its handling.

    When the caller is cancelled after it was told to let go, the coroutine is cancelled in a task of its own: its
    statement may hang for as long as the store does, and nobody waits for its end.
    """

    __slots__ = ("_coroutine", "let_go")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self.let_go = False

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine = self._coroutine
        try:
            waited_for = coroutine.send(None)
            while True:
                try:
                    yield waited_for
                except asyncio.CancelledError as cancelled:
                    if self.let_go:
                        _abandon(coroutine)
                        raise
                    waited_for = coroutine.throw(cancelled)
                else:
                    waited_for = coroutine.send(None)
        except StopIteration as end:
            result: T = end.value
            return result


class _Cancelled:
    """Awaits the end of a coroutine that is cancelled where it stands."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            waited_for = self._coroutine.throw(asyncio.CancelledError())
            while True:
                yield waited_for
                waited_for = self._coroutine.send(None)
        except (StopIteration, asyncio.CancelledError, TidingsError):
            return  # whoever asked has been told something else


def _abandon(coroutine: Coroutine[Any, Any, Any]) -> None:
    async def end() -> None:
        await _Cancelled(coroutine)

    ending = asyncio.ensure_future(end())
    _ending.add(ending)
    ending.add_done_callback(_ending.discard)


_ending: set[asyncio.Future[None]] = set()
"""The loop itself keeps no task alive."""
