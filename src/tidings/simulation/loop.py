"""An event loop whose time is virtual: it never waits, it goes to the next instant at which something happens.

Whatever awaits through asyncio (`sleep`, `timeout`, tasks, futures) runs on it unchanged. The same program with the
same random numbers takes the same steps in every run: there is no thread, no socket and no wall clock. What runs in the
context of a Group can be frozen or killed between any two steps, as an operating system does with a process.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

MOST_STEPS = 3_000_000
"""A simulation that takes more steps goes round in circles."""
_FAREWELLS = 20
"""How often a task may go on after it was cancelled."""


class Stuck(Exception):
    """Nothing is left that could ever happen, or the same things happen for ever."""


class Group:
    """What lives and dies together. `frozen`: it takes no step for now. `ended`: it never takes one again."""

    def __init__(self) -> None:
        self.frozen = False
        self.ended = False
        self.held: list[Handle] = []


GROUP: ContextVar[Group | None] = ContextVar("tidings_simulation_group", default=None)
"""The group that the running step belongs to; None for the world outside."""


class Handle:
    """A step that is to be taken (asyncio.Handle and asyncio.TimerHandle)."""

    __slots__ = ("_arguments", "_cancelled", "_context", "_step", "_when", "group")

    def __init__(self, when: float, step: Callable[..., object], arguments: tuple[Any, ...], context: Context) -> None:
        self._when = when
        self._step = step
        self._arguments = arguments
        self._context = context
        self._cancelled = False
        self.group = context.get(GROUP)

    def cancel(self) -> None:
        """Take it never."""
        self._cancelled = True

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def when(self) -> float:
        """The instant, in seconds of the loop's time."""
        return self._when

    def run(self) -> None:
        """Take the step."""
        self._context.run(self._step, *self._arguments)


class VirtualLoop(asyncio.AbstractEventLoop):
    """See the module. Steps that are due at one instant are taken in the order in which they were asked for."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._order = itertools.count()
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._never: list[Handle] = []
        self._frozen: dict[Group, None] = {}
        self._running = False
        self._closed = False
        self._context = copy_context()
        self.steps = 0
        self.errors: list[dict[str, Any]] = []

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Take steps until `main` has ended; what it returns. Then end everything else and close."""
        asyncio._set_running_loop(self)  # noqa: SLF001 - asyncio offers it to loops under this name
        self._running = True
        try:
            task = self.create_task(main)
            self._turn(task)
            result = task.result()
        finally:
            try:
                self._end_all()
            finally:
                self._running = False
                self._closed = True
                asyncio._set_running_loop(None)  # noqa: SLF001
        return result

    def resume(self, group: Group) -> None:
        """Let a frozen group go on; what fell due meanwhile is due now."""
        group.frozen = False
        self._ready.extend(group.held)
        group.held.clear()

    def _turn(self, until: asyncio.Task[Any]) -> None:
        ready, timers = self._ready, self._timers
        while not until.done():
            if not ready:
                while timers and timers[0][2].cancelled():
                    heapq.heappop(timers)
                if not timers:
                    raise Stuck("everybody waits for something that will never happen")
                self._now = max(self._now, timers[0][0])
                while timers and timers[0][0] <= self._now:
                    ready.append(heapq.heappop(timers)[2])
            self._step(ready.popleft())
            if self.steps > MOST_STEPS:
                raise Stuck(f"more than {MOST_STEPS} steps, at {self._now:.3f} s of virtual time")

    def _step(self, handle: Handle) -> None:
        if handle.cancelled():
            return
        group = handle.group
        if group is not None:
            if group.ended:
                self._never.append(handle)
                return
            if group.frozen:
                self._frozen[group] = None
                group.held.append(handle)
                return
        self.steps += 1
        handle.run()

    def _end_all(self) -> None:
        """Cancel every task, of dead groups too: what the garbage collector found of them, it would run."""
        self._ready.extend(self._never)
        for group in self._frozen:
            self.resume(group)
        for _ in range(_FAREWELLS):
            for task in list(self._tasks):
                task.cancel()
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle.run()
            if not self._tasks:
                return
        raise Stuck(f"{len(self._tasks)} tasks do not end when they are cancelled: {next(iter(self._tasks))!r}")

    # --- what asyncio asks of a loop ---

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._now

    def call_soon(  # type: ignore[override]
        self, step: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> Any:
        """See AbstractEventLoop."""
        handle = Handle(self._now, step, arguments, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, step: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> Any:
        """See AbstractEventLoop."""
        return self.call_at(self._now + delay, step, *arguments, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, step: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> Any:
        """See AbstractEventLoop."""
        handle = Handle(when, step, arguments, copy_context() if context is None else context)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """See AbstractEventLoop."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        """See AbstractEventLoop. The loop keeps the task: a dead group's must not be collected, that would run it."""
        task = asyncio.Task(coroutine, loop=self, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._forget, context=self._context)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See AbstractEventLoop; kept in `errors`."""
        self.errors.append(context)

    def get_debug(self) -> bool:
        """See AbstractEventLoop."""
        return False

    def is_running(self) -> bool:
        """See AbstractEventLoop."""
        return self._running

    def is_closed(self) -> bool:
        """See AbstractEventLoop."""
        return self._closed
