"""Recovery: when a provider is back, what waits for it goes out, little by little, before its pause is over.

What waits for a provider looks again after pauses that grow to half an hour, so that an outage costs little. Meanwhile
the provider itself is asked every few seconds, without sending anything, whether it is well again (policy/inquiry.py).
When it is, this puts as many deliveries forward as may begin at once, again and again, so that they go out at the rate
and in the steps in which the provider takes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

import structlog

from tidings.model.errors import Unavailable
from tidings.pipeline.runtime.stopping import pause
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.schedule import Schedule

EVERY = 1.0
"""Seconds between two looks while something waits for a provider."""
MOST_COUNTED = 10_000
_NAME = "recovery"
_log = structlog.get_logger("tidings.recovery")


class Outlet(Protocol):
    """Where deliveries of one topic go out."""

    def outlet(self) -> int:
        """How many could begin at once; 0 unless some provider is known to be well."""
        ...

    def fails(self) -> bool:
        """Whether some provider fails, as far as is known."""
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
        self._something_to_do = asyncio.Event()
        self._something_to_do.set()
        for topic, outlet in outlets.items():
            outlet.watch(partial(self._note, topic))

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set. While nothing happens to a provider, nothing is asked."""
        async with asyncio.TaskGroup() as group:
            # A provider that is silent takes long to ask: what others have to send does not wait for that.
            group.create_task(self._repeat(self.ask, stopping))
            group.create_task(self._repeat(self._bring, stopping))

    async def _repeat(self, act: Callable[[], Awaitable[None]], stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            if not self._something_to_do.is_set():
                await _either(self._something_to_do, stopping)
                continue
            try:
                await act()
            except Unavailable as error:
                self._failed("unavailable", str(error))
            except Exception:
                self._failed("error", "a look failed")
                _log.exception("what waits for providers was not looked at")
            await pause(EVERY, stopping, self._clock)

    async def ask(self) -> None:
        """Ask the providers that fail whether they are well again, where it is time to."""
        await asyncio.gather(*(outlet.ask() for outlet in self._outlets.values()))

    async def _bring(self) -> None:
        if not await self.once():
            self._something_to_do.clear()

    async def once(self) -> bool:
        """Bring forward what can go out now; whether there is more to do.

        After each change of a provider all that waits is brought forward once, as there is room. What is put off again,
        because it may go to another provider alone, then waits for the next change or its own time.
        """
        held = await self._schedule.held(MOST_COUNTED)
        counted_all = sum(held.values()) < MOST_COUNTED
        for topic, outlet in self._outlets.items():
            waiting, room = held.get(topic, 0), outlet.outlet()
            if topic in self._changed and (room > 0 or not (waiting or outlet.fails())):
                self._to_bring[topic] = waiting
                if counted_all:
                    self._changed.discard(topic)
            most = min(waiting, room, self._to_bring.get(topic, 0))
            if most > 0:
                await self._schedule.bring_forward(topic, most, self._clock.now())
                self._to_bring[topic] -= most
            elif not waiting:
                self._to_bring[topic] = 0
        return bool(self._changed) or any(self._to_bring.values())

    def _note(self, topic: str) -> None:
        self._changed.add(topic)
        self._something_to_do.set()

    def _failed(self, kind: str, why: str) -> None:
        self._meter.failure(_NAME, "", kind)
        _log.warning("waiting for a part", round=_NAME, why=why)


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    """Return when either is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
