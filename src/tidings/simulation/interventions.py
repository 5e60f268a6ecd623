"""What people do during a run. It changes the true state at once; the processes learn of it through their ports."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Protocol

from tidings.model.errors import Conflict, Invalid
from tidings.model.letters import LetterFilter
from tidings.model.tenant import ApiKey
from tidings.model.user import Preferences, Suppression
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.compose.recipients import Recipients
from tidings.ports.clock import Clock
from tidings.services.change import Change as ChangeNotification
from tidings.services.change import decode
from tidings.services.letters import DeadLetters
from tidings.services.recurrences import Recurrences
from tidings.simulation.boundary import SimulatedStore
from tidings.simulation.clients import Clients
from tidings.simulation.loop import VirtualLoop
from tidings.simulation.observers import Wishes
from tidings.simulation.processes import Storm
from tidings.simulation.scenario import (
    Cancelled,
    CategorySet,
    Change,
    ClocksMoved,
    MoodChanged,
    Outage,
    Patched,
    PreferencesSet,
    Recurring,
    Replayed,
    Scenario,
    SuppressionSet,
    VendorDown,
)
from tidings.simulation.vendors import Vendor
from tidings.templating.renderer import TemplateRenderer


class InterventionsWorld(Clock, Protocol):
    """The part of the world that people change."""

    scenario: Scenario
    store: SimulatedStore
    loop: VirtualLoop
    wishes: Wishes
    clients: Clients
    vendors: Mapping[str, Vendor]
    storm: Storm

    def log(self, line: str) -> None:
        """Put a line into the trace."""
        ...

    def stop(self, role: str, seconds: float) -> None:
        """Kill the processes whose names start with `role`; they start again after `seconds`."""
        ...

    def set_clocks(self) -> None:
        """Set the clocks of all processes forwards or backwards."""
        ...


class Interventions:
    """Makes the changes of a scenario."""

    def __init__(self, world: InterventionsWorld) -> None:
        self._world = world
        store, seed = world.store, world.scenario.seed
        bits = random.Random(f"{seed}/recurrences").getrandbits
        renderer = TemplateRenderer(store.templates, world)
        composer = Composer(renderer, bits, recipients=Recipients(store.users, world))
        self._recurrences = Recurrences(store.recurrences, store.users, composer, world, bits)
        self._change = ChangeNotification(store.changes, store.users, renderer, world)
        self._letters = DeadLetters(store, store, world, bits)

    async def make(self) -> None:
        """Make all changes of the scenario, each at its time."""
        world = self._world
        for change in world.scenario.changes:
            await asyncio.sleep(max(0.0, change.at_s - world.loop.time()))
            await self.apply(change)

    async def apply(self, change: Change) -> None:
        """Make one change now."""
        world = self._world
        at, users = world.loop.time(), world.store.users
        if isinstance(change, PreferencesSet):
            key = change.tenant, change.user_id
            world.log(f"{change.tenant}/{change.user_id}: {change.profile} {change.preferences}")
            if change.profile is None:
                await users.delete(*key)
            else:
                await users.upsert(change.tenant, [(change.user_id, change.profile, change.preferences)], world.now())
            world.wishes.set_person(at, key, change.profile, change.preferences or Preferences())
        elif isinstance(change, SuppressionSet):
            world.log(f"{change.tenant}/{change.address.value} on the suppression list: {change.suppressed}")
            if change.suppressed:
                await users.suppress([Suppression(change.tenant, change.address, "asked", world.now())])
            else:
                await users.unsuppress(change.tenant, change.address)
            world.wishes.set_suppressed(at, change.tenant, change.address, suppressed=change.suppressed)
        elif isinstance(change, Cancelled):
            id = world.clients.ledger.id_of(change.number)
            if id is not None:
                world.log(f"{id} is cancelled")
                await world.store.cancellations.cancel(change.tenant, id, world.now())
                world.wishes.cancelled.setdefault(id, at)
        elif isinstance(change, Patched):
            await self._patch(change)
        elif isinstance(change, Recurring):
            await self._recurrences.create(change.tenant, change.body)
        elif isinstance(change, Replayed):
            await self._letters.replay(ApiKey("key", change.tenant, "", b"", ()), LetterFilter(), 5, None, b"")
        elif isinstance(change, CategorySet):
            world.log(f"{change.tenant}: {change.category}")
            await world.store.tenants.put_category(change.tenant, change.category)
            world.wishes.set_category(at, change.tenant, change.category)
        elif isinstance(change, VendorDown):
            world.log(f"{change.vendor} takes nothing for {change.seconds} s: {change.reason}")
            world.vendors[change.vendor].go_down(change.seconds, change.reason)
        elif isinstance(change, MoodChanged):
            world.vendors[change.vendor].mood = change.mood
        elif isinstance(change, Outage) and world.storm.raging:
            world.stop(change.role, change.seconds)
        elif isinstance(change, ClocksMoved) and world.storm.raging:
            world.set_clocks()

    async def _patch(self, change: Patched) -> None:
        world = self._world
        id = world.clients.ledger.id_of(change.number)
        if id is None:
            return
        try:
            await self._change(change.tenant, id, decode(change.body))
        except (Conflict, Invalid) as refused:  # too late, or after it would have expired
            world.log(f"{id} is not changed: {refused}")
            return
        world.log(f"{id} is changed: {change.body.decode()}")
        world.wishes.patched[id] = change
