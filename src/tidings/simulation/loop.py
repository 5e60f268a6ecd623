"""An event loop with virtual time: instead of waiting, it jumps to the next instant at which something happens.

Code that uses asyncio's `sleep`, `timeout`, tasks and futures runs on it unchanged. There is no thread, no socket and
no wall clock, so the same program with the same random numbers takes the same steps in every run. Code in the context
of a Group can be frozen or killed between any two steps, like a process by its operating system.
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
"""A simulation that takes more steps is taken to loop for ever."""
_MOST_CANCELS = 20
"""How many times a task may be cancelled before it has to end."""


class Stuck(Exception):
    """The simulation cannot end: all tasks wait and no timer is left, or it takes too many steps."""


class Group:
    """Tasks that live and die together. While `frozen` they take no step; once `ended` they never take one again."""

    def __init__(self) -> None:
        self.frozen = False
        self.ended = False
        self.pending: list[Handle] = []


CURRENT_GROUP: ContextVar[Group | None] = ContextVar("tidings_simulation_group", default=None)
"""The group of the running step; None outside all processes."""


class Handle:
    """A step to take now or at `when` (in place of asyncio.Handle and asyncio.TimerHandle)."""

    __slots__ = ("_arguments", "_cancelled", "_context", "_step", "_when", "group")

    def __init__(self, when: float, step: Callable[..., object], arguments: tuple[Any, ...], context: Context) -> None:
        self._when = when
        self._step = step
        self._arguments = arguments
        self._context = context
        self._cancelled = False
        self.group = context.get(CURRENT_GROUP)

    def cancel(self) -> None:
        """Make sure that the step is not taken."""
        self._cancelled = True

    def cancelled(self) -> bool:
        """Whether the step was cancelled."""
        return self._cancelled

    def when(self) -> float:
        """When the step is due, in seconds of the loop's time."""
        return self._when

    def run(self) -> None:
        """Take the step."""
        self._context.run(self._step, *self._arguments)


class VirtualLoop(asyncio.AbstractEventLoop):
    """See the module. Steps due at the same instant are taken in the order in which they were scheduled."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._order = itertools.count()
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._of_ended_groups: list[Handle] = []
        self._frozen_groups: dict[Group, None] = {}
        self._running = False
        self._closed = False
        self._context = copy_context()
        self.steps = 0
        self.errors: list[dict[str, Any]] = []

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """The result of `main`. Takes steps until it has ended, then cancels all other tasks and closes the loop."""
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
        """Let a frozen group go on; steps that became due meanwhile are due now."""
        group.frozen = False
        self._ready.extend(group.pending)
        group.pending.clear()

    def _turn(self, until: asyncio.Task[Any]) -> None:
        ready, timers = self._ready, self._timers
        while not until.done():
            if not ready:
                while timers and timers[0][2].cancelled():
                    heapq.heappop(timers)
                if not timers:
                    raise Stuck("all tasks wait, and no timer is left that could wake one")
                self._now = max(self._now, timers[0][0])
                while timers and timers[0][0] <= self._now:
                    ready.append(heapq.heappop(timers)[2])
            self._step(ready.popleft())
            if self.steps > MOST_STEPS:
                raise Stuck(
                    f"more than {MOST_STEPS} steps taken at {self._now:.3f} s of virtual time: an endless loop?"
                )

    def _step(self, handle: Handle) -> None:
        if handle.cancelled():
            return
        group = handle.group
        if group is not None:
            if group.ended:
                self._of_ended_groups.append(handle)
                return
            if group.frozen:
                self._frozen_groups[group] = None
                group.pending.append(handle)
                return
        self.steps += 1
        handle.run()

    def _end_all(self) -> None:
        """Cancel every task, of ended groups too: the garbage collector would run their `finally` blocks later."""
        self._ready.extend(self._of_ended_groups)
        for group in self._frozen_groups:
            self.resume(group)
        for _ in range(_MOST_CANCELS):
            for task in list(self._tasks):
                task.cancel()
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle.run()
            if not self._tasks:
                return
        raise Stuck(f"{len(self._tasks)} tasks do not end when they are cancelled: {next(iter(self._tasks))!r}")

    # --- the loop as asyncio uses it ---

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
        """See AbstractEventLoop. The loop keeps every task: one of an ended group that is collected would run."""
        task = asyncio.Task(coroutine, loop=self, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._forget, context=self._context)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See AbstractEventLoop. The context is kept in `errors`."""
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
