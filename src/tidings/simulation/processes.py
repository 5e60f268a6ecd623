"""A process of the simulated system: what runs in it, its clock, and what happens where it touches the world.

A process reaches the world through ports alone, so every fault comes upon it at one of these crossings: before the call
has its effect, or after.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, NoReturn, ParamSpec, TypeVar
from uuid import UUID

from tidings.model.errors import Unavailable
from tidings.model.user import Address
from tidings.ports.users import UserKey
from tidings.simulation.faults import CALM, Weather
from tidings.simulation.loop import GROUP, Group, VirtualLoop

P = ParamSpec("P")
T = TypeVar("T")

PERIOD = 10.0
"""Seconds. What sleeps so long, or longer, looks after the house."""
CALM_PERIOD = 900.0

Trace = Callable[[str], None]


class Broken(Exception):
    """What no port is meant to raise: a mistake in an adapter, or in what it stands on."""


class _BrokenValue(Broken, ValueError):
    pass


class _BrokenLookup(Broken, KeyError):
    pass


class _BrokenSystem(Broken, OSError):
    pass


class _BrokenTime(Broken, TimeoutError):
    pass


MISTAKES: tuple[type[Broken], ...] = (Broken, _BrokenValue, _BrokenLookup, _BrokenSystem, _BrokenTime)


class Storm:
    """The weather of a run until `calm`."""

    def __init__(self, weather: Weather, chance: random.Random) -> None:
        self.weather = weather
        self.random = chance.random
        self.raging = weather != CALM
        self.crashes_left = weather.most_crashes

    def calm(self) -> None:
        """No more faults."""
        self.weather = CALM
        self.raging = False

    def instant_within(self, seconds: float) -> float:
        """Any time up to `seconds`."""
        return self.random() * seconds


class Look:
    """What a batch has asked since it was claimed, with the virtual second of each answer, and the times it was told.

    It was claimed at the virtual second `since`. The observers judge a send by the last answer before it: what was
    decided later, it could not know.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        self.people: dict[UserKey, float] = {}
        self.suppressed: dict[tuple[str, Address], float] = {}
        self.cancelled: dict[UUID, float] = {}
        self.readings: list[int] = []


LOOK: ContextVar[Look | None] = ContextVar("tidings_simulation_look", default=None)


class Process(Group):
    """One process, from its start to its end. `skew` is what its clock is ahead of the true time, in milliseconds."""

    def __init__(self, name: str, loop: VirtualLoop, storm: Storm, start: int, outside: Context, trace: Trace) -> None:
        super().__init__()
        self.name = name
        self.skew = 0
        self.longest_freeze = math.inf
        self.on_end: Callable[[Process], None] = lambda _: None
        self.on_freeze: Callable[[Process, float], None] = lambda _, __: None
        self.trace = trace
        self._loop = loop
        self._storm = storm
        self._start = start
        self.outside = outside
        self._inside = outside.copy()
        self._inside.run(GROUP.set, self)

    @property
    def in_storm(self) -> bool:
        """Whether faults may still come."""
        return self._storm.raging

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in this process."""
        return self._loop.create_task(work, context=self._inside.copy())

    def kill(self) -> None:
        """End it between two steps, as SIGKILL does."""
        if not self.ended:
            self.ended = True
            self.trace(f"{self.name} is killed")
            self.outside.copy().run(self.on_end, self)

    def freeze(self, seconds: float) -> None:
        """Let it stand still, as a long collection of garbage or a moving virtual machine does."""
        if not self.frozen:
            self.frozen = True
            self.trace(f"{self.name} stands still for {seconds:.1f} s")
            self._loop.call_later(seconds, self._loop.resume, self, context=self.outside.copy())
            self.outside.copy().run(self.on_freeze, self, seconds)

    # --- its clock ---

    def now(self) -> int:
        """Milliseconds since the epoch, as this process believes."""
        now = self._start + int(self._loop.time() * 1000) + self.skew
        look = LOOK.get()
        if look is not None:
            look.readings.append(now)
        return now

    def elapsed(self) -> int:
        """Milliseconds; nobody sets this clock."""
        return int(self._loop.time() * 1000)

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; after the storm, what comes round every few seconds comes round less often."""
        await asyncio.sleep(seconds if self._storm.raging or seconds < PERIOD else max(seconds, CALM_PERIOD))

    # --- its crossings ---

    def crossing(
        self, name: str, call: Callable[P, Awaitable[T]], seen: Callable[..., None] | None = None
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        """The call as the process makes it. `seen` is told the arguments of a call that has had its effect."""
        storm = self._storm

        async def cross(*arguments: P.args, **options: P.kwargs) -> T:
            if storm.raging:
                await self.before(name)
            result = await call(*arguments, **options)
            if seen is not None:
                seen(*arguments)
            if storm.raging:
                await self.after(name)
            return result

        return cross

    async def before(self, name: str) -> None:
        """What may happen before a call has its effect."""
        weather, storm = self._storm.weather, self._storm
        draw = storm.random()
        if (draw := draw - weather.slow) < 0:
            await asyncio.sleep(storm.instant_within(weather.latency))
        elif (draw := draw - weather.refused) < 0:
            self._refuse(name, "no connection")
        elif (draw := draw - weather.broken) < 0:
            self._break(name)
        else:
            await self._befall(draw, name)

    async def after(self, name: str) -> None:
        """What may happen between the effect of a call and its answer."""
        weather, storm = self._storm.weather, self._storm
        draw = storm.random()
        if (draw := draw - weather.slow) < 0:
            await asyncio.sleep(storm.instant_within(weather.latency))
        elif (draw := draw - weather.unanswered) < 0:
            self._refuse(name, "the connection broke before the answer")
        elif (draw := draw - weather.broken) < 0:
            self._break(name)
        else:
            await self._befall(draw, name)

    async def between(self, name: str) -> None:
        """What may happen between two halves of a call, which does not fail any more."""
        if self._storm.raging:
            weather, draw = self._storm.weather, self._storm.random()
            if (draw := draw - weather.slow) < 0:
                await asyncio.sleep(self._storm.instant_within(weather.latency))
            else:
                await self._befall(draw, name)

    async def _befall(self, draw: float, name: str) -> None:
        weather, storm = self._storm.weather, self._storm
        if (draw := draw - weather.crash) < 0:
            if storm.crashes_left > 0:
                storm.crashes_left -= 1
                self.trace(f"{self.name} dies at {name}")
                self.kill()
                await asyncio.sleep(0)  # no step follows
        elif draw - weather.freeze < 0:
            self.freeze(storm.instant_within(min(weather.longest_freeze, self.longest_freeze)))
            await asyncio.sleep(0)

    def _break(self, name: str) -> NoReturn:
        mistake = MISTAKES[int(self._storm.random() * len(MISTAKES))]
        self.trace(f"{self.name} {name}: {mistake.__name__}")
        raise mistake(name)

    def _refuse(self, name: str, why: str) -> NoReturn:
        self.trace(f"{self.name} {name}: {why}")
        raise Unavailable(f"{name}: {why}")
