"""A process of the simulated system: its tasks, its clock, and its crossings, at which faults are injected.

A crossing is a call of a port. A process reaches the world only through ports, so each fault happens at a crossing:
before the call takes effect, or between its effect and its answer.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context, ContextVar
from typing import Any, NoReturn, ParamSpec, TypeVar
from uuid import UUID

from tidings.model.errors import Unavailable
from tidings.model.user import Address
from tidings.pipeline.rounds import depths
from tidings.ports.queue import Item
from tidings.ports.users import UserKey
from tidings.simulation.faults import CALM, Weather
from tidings.simulation.loop import CURRENT_GROUP, Group, VirtualLoop
from tidings.simulation.versions import newer_items

P = ParamSpec("P")
T = TypeVar("T")

WRITE_COUNTS_EVERY_S = 10.0
"""The pause between two writes of the accepted counts, longer than a real API's."""
CALM_ROUND_S = 900.0
"""The pause between two rounds after the storm: fewer rounds save time."""

Trace = Callable[[str], None]


class AdapterBug(Exception):
    """An exception that no port may raise: a bug in an adapter, or in a library below it."""


class _ValueBug(AdapterBug, ValueError):
    pass


class _LookupBug(AdapterBug, KeyError):
    pass


class _SystemBug(AdapterBug, OSError):
    pass


class _TimeoutBug(AdapterBug, TimeoutError):
    pass


ADAPTER_BUGS: tuple[type[AdapterBug], ...] = (AdapterBug, _ValueBug, _LookupBug, _SystemBug, _TimeoutBug)


class Storm:
    """The first part of a run, in which faults happen: their chances, until `calm` ends them.

    `rounds_s` are the pauses between two regular rounds, by which a sleep is recognised as one of them.
    """

    def __init__(self, weather: Weather, chance: random.Random, audit_every_s: float) -> None:
        self.weather = weather
        self.rounds_s = {audit_every_s, depths.EVERY_S, WRITE_COUNTS_EVERY_S}
        self.random = chance.random
        self.raging = weather != CALM
        self.crashes_left = weather.most_crashes

    def calm(self) -> None:
        """End all faults."""
        self.weather = CALM
        self.raging = False

    def instant_within(self, seconds: float) -> float:
        """A random duration of up to `seconds`."""
        return self.random() * seconds


class BatchReads:
    """What a batch has looked up since it was claimed at the virtual second `since`.

    `people`, `suppressed` and `cancelled` have the virtual second of the last answer for each key; `readings` the times
    that the process read from its clock. The observers judge a send by the last answers before it.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        self.people: dict[UserKey, float] = {}
        self.suppressed: dict[tuple[str, Address], float] = {}
        self.cancelled: dict[UUID, float] = {}
        self.readings: list[int] = []


BATCH_READS: ContextVar[BatchReads | None] = ContextVar("tidings_simulation_batch_reads", default=None)


class Process(Group):
    """One process, from its start to its end.

    `skew_ms` says how far its clock is ahead of the true time, `is_newer` whether it runs the next version.
    """

    def __init__(self, name: str, loop: VirtualLoop, storm: Storm, start: int, outside: Context, trace: Trace) -> None:
        super().__init__()
        self.name = name
        self.skew_ms = 0
        self.is_newer = False
        self.longest_freeze_s = math.inf
        self.on_end: Callable[[Process], None] = lambda _: None
        self.on_freeze: Callable[[Process, float], None] = lambda _, __: None
        self.trace = trace
        self._loop = loop
        self._storm = storm
        self._start = start
        self.outside = outside
        self._inside = outside.copy()
        self._inside.run(CURRENT_GROUP.set, self)

    @property
    def in_storm(self) -> bool:
        """Whether faults may still happen."""
        return self._storm.raging

    def written(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items as this process writes them."""
        return newer_items(items) if self.is_newer else items

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in this process."""
        return self._loop.create_task(work, context=self._inside.copy())

    def kill(self) -> None:
        """End the process between two steps, as SIGKILL does."""
        if not self.ended:
            self.ended = True
            self.trace(f"{self.name} is killed")
            self.outside.copy().run(self.on_end, self)

    def freeze(self, seconds: float) -> None:
        """Stop the process for a while, as a long garbage collection or a migrating virtual machine does."""
        if not self.frozen:
            self.frozen = True
            self.trace(f"{self.name} stands still for {seconds:.1f} s")
            self._loop.call_later(seconds, self._loop.resume, self, context=self.outside.copy())
            self.outside.copy().run(self.on_freeze, self, seconds)

    # --- its clock ---

    def now(self) -> int:
        """Milliseconds since the epoch, by the clock of this process."""
        now = self._start + int(self._loop.time() * 1000) + self.skew_ms
        reads = BATCH_READS.get()
        if reads is not None:
            reads.readings.append(now)
        return now

    def elapsed(self) -> int:
        """Milliseconds of a clock that is never set."""
        return int(self._loop.time() * 1000)

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`. After the storm, regular rounds sleep longer."""
        between_rounds = seconds in self._storm.rounds_s
        await asyncio.sleep(max(seconds, CALM_ROUND_S) if between_rounds and not self._storm.raging else seconds)

    # --- its crossings ---

    def crossing(
        self, name: str, call: Callable[P, Awaitable[T]], on_effect: Callable[..., None] | None = None
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        """`call` with faults injected. `on_effect` gets the arguments of each call that took effect."""
        storm = self._storm

        async def cross(*arguments: P.args, **options: P.kwargs) -> T:
            if storm.raging:
                await self.before(name)
            result = await call(*arguments, **options)
            if on_effect is not None:
                on_effect(*arguments, **options)
            if storm.raging:
                await self.after(name)
            return result

        return cross

    async def before(self, name: str) -> None:
        """Inject a fault before a call takes effect, perhaps."""
        weather, storm = self._storm.weather, self._storm
        draw = storm.random()
        if (draw := draw - weather.slow) < 0:
            await asyncio.sleep(storm.instant_within(weather.latency_s))
        elif (draw := draw - weather.refused) < 0:
            self._raise_unavailable(name, "no connection")
        elif (draw := draw - weather.adapter_bug) < 0:
            self._raise_bug(name)
        else:
            await self._crash_or_freeze(draw, name)

    async def after(self, name: str) -> None:
        """Inject a fault between the effect of a call and its answer, perhaps."""
        weather, storm = self._storm.weather, self._storm
        draw = storm.random()
        if (draw := draw - weather.slow) < 0:
            await asyncio.sleep(storm.instant_within(weather.latency_s))
        elif (draw := draw - weather.unanswered) < 0:
            self._raise_unavailable(name, "the connection broke before the answer")
        elif (draw := draw - weather.adapter_bug) < 0:
            self._raise_bug(name, done=True)
        else:
            await self._crash_or_freeze(draw, name)

    async def between(self, name: str) -> None:
        """Delay, kill or freeze the process between two halves of a call, perhaps. The call does not fail here."""
        if self._storm.raging:
            weather, draw = self._storm.weather, self._storm.random()
            if (draw := draw - weather.slow) < 0:
                await asyncio.sleep(self._storm.instant_within(weather.latency_s))
            else:
                await self._crash_or_freeze(draw, name)

    async def _crash_or_freeze(self, draw: float, name: str) -> None:
        weather, storm = self._storm.weather, self._storm
        if (draw := draw - weather.crash) < 0:
            if storm.crashes_left > 0:
                storm.crashes_left -= 1
                self.trace(f"{self.name} dies at {name}")
                self.kill()
                await asyncio.sleep(0)  # the killed process takes no further step
        elif draw - weather.freeze < 0:
            self.freeze(storm.instant_within(min(weather.longest_freeze_s, self.longest_freeze_s)))
            await asyncio.sleep(0)

    def _raise_bug(self, name: str, *, done: bool = False) -> NoReturn:
        bug = ADAPTER_BUGS[int(self._storm.random() * len(ADAPTER_BUGS))]
        if done and name == "queue.put" and issubclass(bug, ValueError):
            bug = AdapterBug  # a put that raises ValueError has put nothing
        self.trace(f"{self.name} {name}: {bug.__name__}")
        raise bug(name)

    def _raise_unavailable(self, name: str, why: str) -> NoReturn:
        self.trace(f"{self.name} {name}: {why}")
        raise Unavailable(f"{name}: {why}")
