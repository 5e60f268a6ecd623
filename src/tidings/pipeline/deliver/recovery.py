"""Recovery: when a provider is back, what waits for it goes out, little by little, before its pause is over.

What waits for a provider looks again after pauses that grow to half an hour, so that an outage costs little. Meanwhile
the provider itself is asked every few seconds, without sending anything, whether it is well again (policy/inquiry.py).
When it is, this puts as many deliveries forward as may begin at once, again and again, so that they go out at the rate
and in the steps in which the provider takes them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import structlog

from tidings.model.errors import Unavailable
from tidings.pipeline.runtime.stopping import pause
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.schedule import Schedule

EVERY_S = 1.0
"""Between two looks while deliveries are brought forward."""
LONGEST_REST_S = 8.0
"""Between two looks while none can be brought forward, unless a provider changes."""
MOST_COUNTED = 10_000
_NAME = "recovery"
_log = structlog.get_logger("tidings.recovery")


class Outlet(Protocol):
    """Where deliveries of one topic go out."""

    def outlet(self) -> int:
        """How many could begin at once; 0 unless some provider is known to be well."""
        ...

    def fails(self) -> bool:
        """Whether every provider fails, as far as is known."""
        ...

    def asks_in(self) -> float:
        """Seconds until a provider that fails is to be asked whether it is well; infinite when none fails."""
        ...

    async def ask(self) -> None:
        """Ask the providers that fail whether they are well again, where it is time to."""
        ...

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever a provider begins to fail or is left alone, and when it is back."""
        ...


class Recovery:
    """Brings forward what waits for the providers behind `outlets`, which are known by their topics."""

    def __init__(self, outlets: Mapping[str, Outlet], schedule: Schedule, clock: Clock, meter: Meter) -> None:
        self._outlets = outlets
        self._schedule = schedule
        self._clock = clock
        self._meter = meter
        self._changed = set(outlets)  # an earlier process may have left something waiting
        self._to_bring: dict[str, int] = {}
        self._to_bring_or_stop, self._to_ask_or_stop = asyncio.Event(), asyncio.Event()
        for topic, outlet in outlets.items():
            outlet.watch(partial(self._note, topic))

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set. While nothing happens to a provider, nothing is asked."""
        async with asyncio.TaskGroup() as group:
            # A provider that is silent takes long to ask: what others have to send does not wait for that.
            group.create_task(self._asking(stopping))
            group.create_task(self._bringing(stopping))
            await stopping.wait()
            self._wake()

    async def ask(self) -> None:
        """Ask the providers that fail whether they are well again, where it is time to."""
        await asyncio.gather(*(outlet.ask() for outlet in self._outlets.values() if outlet.asks_in() <= 0.0))

    async def _asking(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            self._to_ask_or_stop.clear()
            rest_s = min((outlet.asks_in() for outlet in self._outlets.values()), default=math.inf)
            if rest_s > 0.0:
                await self._rest(rest_s, self._to_ask_or_stop)
            else:
                await self.ask()

    async def _bringing(self, stopping: asyncio.Event) -> None:
        rest_s = EVERY_S
        while not stopping.is_set():
            self._to_bring_or_stop.clear()
            try:
                brought = await self.once()
                rest_s = EVERY_S if brought else min(rest_s * 2, LONGEST_REST_S)
            except Unavailable as error:
                self._failed("unavailable", str(error))
            except Exception:
                self._failed("error", "a look failed")
                _log.exception("what waits for providers was not looked at")
            await self._rest(rest_s if self.has_more else math.inf, self._to_bring_or_stop)

    async def _rest(self, seconds: float, woken: asyncio.Event) -> None:
        if seconds == math.inf:
            await woken.wait()
        else:
            await pause(seconds, woken, self._clock)

    @property
    def has_more(self) -> bool:
        """Whether deliveries can still be brought forward. Where every provider fails, none can until one changes."""
        return any(
            (topic in self._changed or self._to_bring.get(topic)) and not outlet.fails()
            for topic, outlet in self._outlets.items()
        )

    async def once(self) -> int:
        """Bring forward what can go out now; the number of deliveries.

        After each change of a provider all that waits is brought forward once, as there is room. What is put off again,
        because it may go to another provider alone, then waits for the next change or its own time.
        """
        if not self.has_more:
            return 0
        room = {topic: outlet.outlet() for topic, outlet in self._outlets.items()}
        held, brought = await self._schedule.held(MOST_COUNTED), 0
        counted_all = sum(held.values()) < MOST_COUNTED
        for topic, outlet in self._outlets.items():
            waiting = held.get(topic, 0)
            if topic in self._changed and (room[topic] > 0 or not (waiting or outlet.fails())):
                self._to_bring[topic] = waiting
                if counted_all:
                    self._changed.discard(topic)
            most = min(waiting, room[topic], self._to_bring.get(topic, 0))
            if most > 0:
                await self._schedule.bring_forward(topic, most, self._clock.now())
                self._to_bring[topic] -= most
                brought += most
            elif not waiting:
                self._to_bring[topic] = 0
        return brought

    def _note(self, topic: str) -> None:
        self._changed.add(topic)
        self._wake()

    def _wake(self) -> None:
        self._to_bring_or_stop.set()
        self._to_ask_or_stop.set()

    def _failed(self, kind: str, why: str) -> None:
        self._meter.failure(_NAME, "", kind)
        _log.warning("waiting for a part", round=_NAME, why=why)
