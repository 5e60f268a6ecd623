"""Recovery: bring held deliveries forward when their provider is back, instead of when their pauses end.

The pauses of a held delivery grow to half an hour, so that an outage costs little. Meanwhile every failing provider is
asked every few seconds, without sending anything, whether it is well (policy/inquiry.py). Once it is, recovery brings
forward as many deliveries as may begin at once, again and again, so that they leave as fast as the provider takes them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from functools import partial

import structlog
from msgspec import Struct

from tidings.model.errors import Unavailable
from tidings.model.vocabulary import Lane
from tidings.pipeline.deliver.switchboard import Switchboard
from tidings.pipeline.runtime.stopping import pause
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.schedule import Schedule

EVERY_S = 1.0
"""Pause between two looks while deliveries are brought forward."""
LONGEST_REST_S = 8.0
"""Longest pause between two looks while none can be brought forward. A change of a provider ends it."""
MOST_COUNTED = 10_000
_NAME = "recovery"
_log = structlog.get_logger("tidings.recovery")


class Outlet(Struct, frozen=True):
    """Where the deliveries of one topic go out."""

    switchboard: Switchboard
    lane: Lane


class Recovery:
    """Brings forward the deliveries that are held for the providers of `outlets`, by topic."""

    def __init__(self, outlets: Mapping[str, Outlet], schedule: Schedule, clock: Clock, meter: Meter) -> None:
        self._outlets = outlets
        self._switchboards = list(dict.fromkeys(outlet.switchboard for outlet in outlets.values()))
        self._schedule = schedule
        self._clock = clock
        self._meter = meter
        self._changed = set(outlets)  # an earlier process may have left held deliveries
        self._to_bring: dict[str, int] = {}
        self._to_bring_or_stop, self._to_ask_or_stop = asyncio.Event(), asyncio.Event()
        for topic, outlet in outlets.items():
            outlet.switchboard.watch(partial(self._note, topic))

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set. While no provider changes, this asks neither the store nor a provider."""
        async with asyncio.TaskGroup() as group:
            # Two loops: a check of a silent provider takes long, and must not delay the deliveries of the others.
            group.create_task(self._asking(stopping))
            group.create_task(self._bringing(stopping))
            await stopping.wait()
            self._wake()

    async def ask(self) -> None:
        """Check the failing providers whose check is due."""
        await asyncio.gather(*(board.ask() for board in self._switchboards if board.asks_in_s() <= 0.0))

    async def _asking(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            self._to_ask_or_stop.clear()
            rest_s = min((board.asks_in_s() for board in self._switchboards), default=math.inf)
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
                self._note_failure("unavailable", str(error))
            except Exception:
                self._note_failure("error", "a look failed")
                _log.exception("what waits for providers was not looked at")
            await self._rest(rest_s if self.has_more else math.inf, self._to_bring_or_stop)

    async def _rest(self, seconds: float, woken: asyncio.Event) -> None:
        if seconds == math.inf:
            await woken.wait()
        else:
            await pause(seconds, woken, self._clock)

    @property
    def has_more(self) -> bool:
        """Whether deliveries may be left to bring forward. A topic whose providers all fail waits for a change."""
        return any(
            (topic in self._changed or self._to_bring.get(topic)) and not outlet.switchboard.fails()
            for topic, outlet in self._outlets.items()
        )

    async def once(self) -> int:
        """Bring forward the held deliveries that can go out now; their number.

        Each change of a provider brings every held delivery of its topic forward once, as there is room. A delivery
        that must wait again, because only another provider may take it, stays until the next change or its due time.
        """
        if not self.has_more:
            return 0
        room = {topic: outlet.switchboard.outlet(outlet.lane) for topic, outlet in self._outlets.items()}
        held, brought = await self._schedule.held(MOST_COUNTED), 0
        counted_all = sum(held.values()) < MOST_COUNTED
        for topic, outlet in self._outlets.items():
            waiting = held.get(topic, 0)
            if topic in self._changed and (room[topic] > 0 or not (waiting or outlet.switchboard.fails())):
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

    def _note_failure(self, kind: str, why: str) -> None:
        self._meter.failure(_NAME, "", kind)
        _log.warning("waiting for a part", round=_NAME, why=why)
