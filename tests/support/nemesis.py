"""Faults: a plan that follows from a seed, and the nemesis that carries it out on a running system."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from msgspec import Struct

from support import eventually
from support.kafka import KafkaBroker
from support.load import now
from support.system import Processes, System
from tidings.backends.postgres.server import Server

ROLES = {"api": "api", "worker": "worker", "worker-2": "worker", "sandbox": "sandbox"}
"""The processes of the system, and the role that each runs."""

PARTS, VENDORS = "parts", "vendors"


class Planned(Struct, frozen=True):
    """A planned fault, `at` seconds after the start, for `seconds`. `how`: the vendor's fault or the clock's error."""

    at: float
    track: str
    name: str
    seconds: float = 0.0
    how: dict[str, Any] = {}


class Happened(Struct, frozen=True):
    """A fault that happened. Instants are milliseconds since the epoch. `frozen`: a process stood still meanwhile."""

    name: str
    began: int
    ended: int
    frozen: bool = False
    shift: float = 0.0


def plan(seed: int, seconds: float, lease_s: float, *, kafka: bool, long: bool) -> list[Planned]:
    """The faults of a run in order of time. Each kind comes once before any repeats; in a short run each comes once."""
    dice = random.Random(seed)
    shifted = ("api", "worker-2")
    # A process is killed to shift its clock.
    killed = [name for name in ROLES if long or name not in shifted]
    deck: list[tuple[str, Callable[[], float], Callable[[], dict[str, Any]]]] = [
        *((f"kill {name}", _none, dict) for name in (*killed, "postgres", "backend")),
        *((f"freeze {name}", lambda: dice.uniform(1.0, 3.0), dict) for name in ("api", "sandbox", "postgres")),
        *((f"freeze {name}", lambda: dice.choice((1.5, lease_s + 2.0)), dict) for name in ("worker", "worker-2")),
        *((f"shift {name}", _none, lambda: {"clock": dice.choice(_SHIFTS)}) for name in shifted),
    ]
    if kafka:
        deck += [("kill kafka", _none, dict), ("freeze kafka", lambda: dice.uniform(1.0, 4.0), dict)]
    parts = list(_parts(dice, deck, seconds, _STARTING if long else 0.0))
    found = (parts if long else parts[: len(deck)]) + list(_vendors(dice, seconds, long=long))
    return sorted(found, key=lambda one: one.at)


_SHIFTS = (-60.0, -5.0, 3.0, 6.0)
"""Seconds by which a clock is ahead."""
_PAUSE = (0.5, 2.0)
_STARTING = 3.0
"""Seconds that a long run leaves for a restart. In a short run the next fault comes meanwhile."""


def _none() -> float:
    return 0.0


def _parts(dice: random.Random, deck: Sequence[Any], seconds: float, starting: float) -> Iterator[Planned]:
    at = dice.uniform(*_PAUSE)
    while True:
        for name, length, how in dice.sample(deck, len(deck)):
            if at > seconds:
                return
            took = length()
            yield Planned(at, PARTS, name, took, how())
            at += (took or starting) + dice.uniform(*_PAUSE)


def _vendors(dice: random.Random, seconds: float, *, long: bool) -> Iterator[Planned]:
    at = dice.uniform(*_PAUSE)
    while True:
        for how in dice.sample(_FAULTS, len(_FAULTS)):
            if at > seconds:
                return
            vendor = dice.choice(how.get("vendors", _VENDORS))
            fault = {"vendor": vendor, "probability": dice.choice((0.3, 0.6, 1.0))}
            fault |= {name: value for name, value in how.items() if name != "vendors"}
            if not long and fault.get("retry_after", 0) > 5:
                fault["retry_after"] = 5
            took = dice.uniform(1.0, 3.0)
            yield Planned(at, VENDORS, f"{vendor} {how['kind']}", took, fault)
            at += took + dice.uniform(0.2, 1.0)


_VENDORS = ("sendgrid", "twilio", "fcm", "smtp")
_HTTP = ("sendgrid", "twilio", "fcm")
_WITH_RECEIPTS = ("sendgrid", "twilio")
_FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "hang", "seconds": 20},
    {"kind": "hang", "seconds": 20, "taken": True},
    {"kind": "reset"},
    {"kind": "reset", "taken": True},
    {"kind": "status"},
    {"kind": "status", "status": 500, "vendors": _HTTP},
    {"kind": "status", "status": 401, "vendors": _HTTP},
    {"kind": "status", "status": 429, "retry_after": 3600, "vendors": _HTTP},
    {"kind": "status", "status": 429, "retry_after": 0, "vendors": _HTTP},
    {"kind": "status", "status": 503, "vendors": ("oauth",)},
    {"kind": "hang", "seconds": 20, "vendors": ("oauth",)},
    {"kind": "garbage"},
    {"kind": "latency", "seconds": 3},
    {"kind": "slow_body", "seconds": 3, "vendors": ("twilio", "fcm")},
    {"kind": "receipt_lost", "vendors": _WITH_RECEIPTS},
    {"kind": "receipt_twice", "vendors": _WITH_RECEIPTS},
    {"kind": "receipt_late", "seconds": 3, "vendors": _WITH_RECEIPTS},
)


class Nemesis:
    """Carries out a plan. Afterwards everything runs again, without faults."""

    def __init__(self, system: System, processes: Processes, server: Server, broker: KafkaBroker | None) -> None:
        self.happened: list[Happened] = []
        self._system = system
        self._processes = processes
        self._server = server
        self._broker = broker

    async def run(self, faults: Sequence[Planned], until: float) -> None:
        """Carry out the faults, and return after `until` seconds at the earliest. A late fault is not left out."""
        started = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for track, act in ((PARTS, self._part), (VENDORS, self._vendor)):
                group.create_task(self._follow([one for one in faults if one.track == track], act, started))
        await _until(started + until)

    async def _follow(self, faults: Sequence[Planned], act: Callable[[Planned], Any], started: float) -> None:
        for fault in faults:
            await _until(started + fault.at)
            began = now()
            await act(fault)
            frozen, shift = fault.name.startswith("freeze "), fault.how.get("clock", 0.0)
            self.happened.append(Happened(fault.name, began, now(), frozen=frozen, shift=shift))

    async def _vendor(self, fault: Planned) -> None:
        url = f"{self._system.sandbox}/_sandbox/faults"

        async def asked(method: str, body: Any = None) -> bool:
            return (await self._system.call(method, url, body)).status < 300

        # A fault of the other track may have killed or frozen the sandbox.
        await persistently(lambda: asked("POST", fault.how))
        await _until(asyncio.get_running_loop().time() + fault.seconds)
        await persistently(lambda: asked("DELETE"))

    async def _part(self, fault: Planned) -> None:
        what, name = fault.name.split(" ")
        if what == "freeze":
            with frozen(self._pids(name)):
                await _until(asyncio.get_running_loop().time() + fault.seconds)
        elif what == "shift":
            await self._again(name, fault.how["clock"])  # until it is killed the next time
        elif name == "kafka":
            assert self._broker is not None
            await asyncio.to_thread(self._broker.restart)
        elif name in {"postgres", "backend"}:
            await self._kill_postgres(whole=name == "postgres")
        else:
            await self._again(name)

    async def _again(self, name: str, clock: float = 0.0) -> None:
        """Kill a process and start it again."""
        await self._processes.kill(name, signal.SIGKILL)
        await self._processes.start(ROLES[name], name, clock)

    async def _kill_postgres(self, *, whole: bool) -> None:
        """Kill the postmaster, which its supervisor restarts, or one of its children, after which it recovers."""
        victim = self._server.pid if whole else children(self._server.pid)[-1]
        os.kill(victim, signal.SIGKILL)
        await eventually(self._postgres_answers, 60, every=0.1)

    async def _postgres_answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self._server.dsn, timeout=5)
            await connection.close(timeout=5)
        except (OSError, asyncpg.PostgresError, TimeoutError) as error:
            raise AssertionError(f"PostgreSQL does not answer: {error}") from error
        return True

    def _pids(self, name: str) -> list[int]:
        if name == "postgres":
            return [self._server.pid, *children(self._server.pid)]
        if name == "kafka":
            assert self._broker is not None
            return [self._broker.pid]
        return [self._processes.pid(name)]


async def persistently(ask: Callable[[], Any]) -> None:
    """Repeat a call until it succeeds."""

    async def asked() -> Any:
        try:
            async with asyncio.timeout(5):
                return await ask()
        except Exception as error:
            raise AssertionError(f"no answer: {error!r}") from error

    await eventually(asked, 60, every=0.2)


def silent(server: Server) -> AbstractContextManager[None]:
    """Freeze every process of the server."""
    return frozen([server.pid, *children(server.pid)])


def children(pid: int) -> list[int]:
    """The process ids of a process's children, oldest first."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def frozen(pids: Sequence[int]) -> Iterator[None]:
    """Freeze processes: connections stay open and nothing answers, as on a machine that hangs."""
    # If this process is killed, the pipe closes and the frozen ones go on, so that they notice their parent's death.
    guard = subprocess.Popen(
        ["sh", "-c", 'cat > /dev/null; kill -CONT "$@" 2> /dev/null', "sh", *map(str, pids)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            _signal(pid, signal.SIGCONT)
        guard.communicate()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # the backend ended meanwhile


async def _until(instant: float) -> None:
    """Return at `instant` of the event loop's clock."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    handle = loop.call_at(instant, turn.set_result, None)
    try:
        await turn
    finally:
        handle.cancel()


@asynccontextmanager
async def started(processes: Processes, names: Sequence[str] = tuple(ROLES)) -> AsyncIterator[None]:
    """Run these processes during the context."""
    try:
        await asyncio.gather(*(processes.start(ROLES[name], name) for name in names))
        yield
    finally:
        await processes.stop()
