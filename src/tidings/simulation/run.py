"""Running seeds: one, or many over several cores."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from msgspec import Struct

from tidings.sections import Delivering
from tidings.simulation import checks, drawing
from tidings.simulation.loop import Stuck, VirtualLoop
from tidings.simulation.observers import KNOWN_LIMITS, Rule, Violation
from tidings.simulation.world import World


class Report(Struct, frozen=True):
    """The result of a seed.

    `limits` are violations of the rules in KNOWN_LIMITS. `digest` is equal for equal runs. `seconds` are virtual.
    """

    seed: int
    violations: tuple[Violation, ...]
    limits: tuple[Violation, ...]
    digest: str
    seconds: float
    steps: int
    notifications: int
    calls: int
    trace: tuple[str, ...] = ()


def simulate(seed: int, delivering: Delivering | None = None, *, traced: bool = False) -> Report:
    """The report of one seed. `delivering` replaces the delivery settings that the seed draws."""
    drawn = drawing.draw(seed, delivering)
    loop = VirtualLoop()  # type: ignore[abstract]  # it lacks threads and sockets, which nothing may use here
    lines: list[str] = []
    worlds: list[World] = []
    digests: list[str] = []

    def trace(at: float, line: str) -> None:
        if traced:
            lines.append(f"{at:12.3f}  {line}")

    def log(_: Any, method: str, event: dict[str, Any]) -> Any:
        trace(loop.time(), f"    log {method}: " + " ".join(f"{name}={value}" for name, value in event.items()))
        raise structlog.DropEvent

    async def run() -> list[Violation]:
        world = World(drawn, trace)
        worlds.append(world)
        await world.run()
        digests.append(_digest(world, loop))
        return await checks.violations(world)

    with _logging_to(log, traced=traced):
        try:
            found = loop.run(run())
        except Stuck as stuck:
            found = [Violation(Rule.RESTS, str(stuck))]
    world = worlds[0]
    return Report(
        seed=seed,
        violations=tuple(violation for violation in found if violation.rule not in KNOWN_LIMITS),
        limits=tuple(violation for violation in found if violation.rule in KNOWN_LIMITS),
        digest=digests[0] if digests else "",
        seconds=loop.time(),
        steps=loop.steps,
        notifications=len(world.store.history.seen),
        calls=sum(len(vendor.log) for vendor in world.vendors.values()),
        trace=tuple(lines),
    )


def simulate_each(seeds: Iterable[int], delivering: Delivering | None = None) -> Iterator[Report]:
    """Reports of the seeds, one by one. Garbage is collected between seeds only, which saves time."""
    collecting = gc.isenabled()
    gc.disable()
    gc.collect()  # of the seeds before these
    gc.freeze()  # later collections skip the objects that exist now
    try:
        for number, seed in enumerate(seeds, 1):
            yield simulate(seed, delivering)
            if number % 10 == 0:
                gc.collect()
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()


def simulate_all(seeds: Iterable[int], delivering: Delivering | None = None) -> list[Report]:
    """Like simulate_each, as a list: a process pool can return it."""
    return list(simulate_each(seeds, delivering))


def _digest(world: World, loop: VirtualLoop) -> str:
    """A hash of the random numbers drawn, steps taken, facts recorded and calls made: different runs differ in it."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{loop.steps} {loop.time()!r} {world.storm.random()!r} {world.chance.random()!r}".encode())
    for vendor in world.vendors.values():
        for call in vendor.log:
            digest.update(
                f"{call.at_s!r} {call.clock_ms} {call.delivery} {call.attempt} {call.took} {call.process}".encode()
            )
    for id, seen in world.store.history.seen.items():
        digest.update(f"{id} {sorted(seen.ranks.items())}".encode())
    return digest.hexdigest()


@contextmanager
def _logging_to(log: Any, *, traced: bool) -> Iterator[None]:
    """Inside this context, logs go into the trace, or nowhere."""
    before = structlog.get_config()
    level = 0 if traced else 50
    structlog.configure(
        processors=[log], wrapper_class=structlog.make_filtering_bound_logger(level), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**before)
