"""The measurements: each drives a system with the load generator and reads the CPU time of all its processes."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from array import array
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from bench import processes, workload
from bench.load import Load, Loaded, percentile
from bench.processes import eventually
from bench.servers import Process, free_port, python
from bench.vendor import Count

_DRAIN_DEADLINE = 180.0
_STALL_DEADLINE = 20.0
_LOAD_DEADLINE = 300.0


class System(Protocol):
    """A system under load."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    @property
    def port(self) -> int:
        """Where its API listens on 127.0.0.1."""
        ...

    @property
    def headers(self) -> dict[str, str]:
        """What a request must carry."""
        ...

    def roots(self) -> dict[str, int]:
        """The processes whose trees are the system now, by what they are."""
        ...

    def start_workers(self) -> None:
        """Start the sending side."""
        ...

    def stop_workers(self) -> None:
        """End the sending side; what waits stays durable."""
        ...

    def recorded(self) -> int:
        """How many notifications it has recorded as sent."""
        ...


class Figure(Struct, frozen=True, kw_only=True):
    """One measurement. CPU in microseconds a notification, latencies in milliseconds.

    `parts` is the CPU (or, idle, the share of a core) by part of the system, `memory_parts` its megabytes.
    """

    cpu_us: float = 0.0
    rate: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    idle_share: float = 0.0
    memory_mb: float = 0.0
    parts: dict[str, float] = {}
    memory_parts: dict[str, float] = {}


class Vendor(Process):
    """The vendors' stand-in and what it has counted."""

    def __init__(self, folder: Path, delay_ms: float) -> None:
        self.port = free_port()
        super().__init__(python("bench.vendor", str(self.port), str(delay_ms)), folder / "vendor.log")
        self.await_port(self.port)

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def count(self) -> Count:
        """What arrived since the last reset."""
        return msgspec.json.decode(self._get("/count"), type=Count)

    def arrivals(self, first: int, count: int) -> list[int]:
        """When each index arrived: wall clock in ns, 0 for never."""
        return array("q", self._get(f"/arrivals/{first}/{count}")).tolist()

    def reset(self) -> None:
        """Forget everything."""
        self._get("/reset")


class Wrong(RuntimeError):
    """The system did not do what was asked; a figure of it would compare different things."""


class Bench:
    """Runs measurements one after another; indices are never used twice."""

    def __init__(self, folder: Path, vendor: Vendor) -> None:
        self._folder = folder
        self._vendor = vendor
        self._next = 1

    def _load(self, system: System, mode: workload.Mode, count: int, rate: float = 0.0) -> tuple[Load, Loaded]:
        load = Load(
            port=system.port,
            path="/v1/notifications/batch" if mode.batch else "/v1/notifications",
            item=mode.item,
            count=count,
            headers=system.headers,
            first=self._next,
            batch=mode.batch,
            prefix='{"notifications":[' if mode.batch else "",
            suffix="]}" if mode.batch else "",
            users=workload.USERS,
            connections=4 if mode.batch else 32,
            rate=rate,
            instants=str(self._folder / "instants") if rate else "",
        )
        self._next += count
        run = subprocess.run(
            python("bench.load"),
            input=msgspec.json.encode(load),
            capture_output=True,
            check=False,
            timeout=_LOAD_DEADLINE,
        )
        if run.returncode:
            raise Wrong(f"the load generator failed: {run.stderr.decode(errors='replace')[-2000:]}")
        loaded = msgspec.json.decode(run.stdout, type=Loaded)
        if loaded.refused:
            raise Wrong(f"{system.name} refused {loaded.refused} requests, the first with {loaded.first_refusal}")
        return load, loaded

    def accept(self, system: System, mode: workload.Mode, count: int) -> Figure:
        """Take `count` notifications while nothing sends."""
        before = processes.cpu_us(system.roots())
        _, loaded = self._load(system, mode, count)
        after = processes.cpu_us(system.roots())
        return _figure(before, after, count, loaded.seconds, loaded.p50, loaded.p99, loaded.p999)

    def drain(self, system: System, count: int) -> None:
        """Wait until `count` notifications that were accepted before have been sent and recorded."""
        self._await_arrivals(count)
        processes.settle(system.roots(), _DRAIN_DEADLINE)
        self._vendor.reset()

    def flow(self, system: System, mode: workload.Mode, count: int) -> Figure:
        """Everything from the request to the recorded result, as fast as it goes."""
        self._vendor.reset()
        earlier = system.recorded()
        before, started = processes.cpu_us(system.roots()), time.monotonic()
        self._load(system, mode, count)
        self._await_arrivals(count)
        seconds = time.monotonic() - started
        processes.settle(system.roots(), _DRAIN_DEADLINE)
        after = processes.cpu_us(system.roots())
        self._check(system, mode, count, earlier)
        return _figure(before, after, count, seconds)

    def latency(self, system: System, mode: workload.Mode, count: int, rate: float) -> Figure:
        """The same at a fixed rate: from the instant a request was due until it arrived at the vendor."""
        self._vendor.reset()
        earlier = system.recorded()
        before, started = processes.cpu_us(system.roots()), time.monotonic()
        load, _ = self._load(system, mode, count, rate)
        self._await_arrivals(count)
        seconds = time.monotonic() - started
        processes.settle(system.roots(), _DRAIN_DEADLINE)
        after = processes.cpu_us(system.roots())
        self._check(system, mode, count, earlier)
        due = array("q", Path(load.instants).read_bytes())
        arrived = self._vendor.arrivals(load.first, count)
        waits = sorted((came - left) / 1e6 for came, left in zip(arrived, due, strict=True))
        quantiles = (percentile(waits, 0.5), percentile(waits, 0.99), percentile(waits, 0.999))
        return _figure(before, after, count, seconds, *quantiles)

    def idle(self, system: System, seconds: float) -> Figure:
        """CPU while nothing happens, as a share of one core, and memory."""
        processes.settle(system.roots(), _DRAIN_DEADLINE)
        before, then = processes.cpu_us(system.roots()), time.monotonic()
        time.sleep(seconds)
        after, now = processes.cpu_us(system.roots()), time.monotonic()
        shares = {name: (used - before[name]) / 1e6 / (now - then) for name, used in after.items()}
        memory = {name: size / 1e6 for name, size in processes.memory_bytes(system.roots()).items()}
        return Figure(
            idle_share=sum(shares.values()), memory_mb=sum(memory.values()), parts=shares, memory_parts=memory
        )

    def _await_arrivals(self, count: int) -> None:
        """Return when `count` have arrived; give up when none arrives for a while."""
        seen, since = -1, time.monotonic()
        while seen < count:
            arrivals = self._vendor.count().arrivals
            if arrivals > seen:
                seen, since = arrivals, time.monotonic()
            elif time.monotonic() - since > _STALL_DEADLINE:
                raise Wrong(f"only {seen} of {count} arrived at the vendor; the last one {_STALL_DEADLINE:.0f} s ago")
            time.sleep(0.02)

    def _check(self, system: System, mode: workload.Mode, count: int, earlier: int) -> None:
        counted = self._vendor.count()
        if counted.arrivals != count or counted.repeated:
            raise Wrong(f"{system.name}: {counted.arrivals} of {count} arrived, {counted.repeated} of them twice")
        if mode.personal and counted.requests != count:
            raise Wrong(f"{system.name}: {counted.requests} vendor requests for {count} notifications")
        eventually(
            lambda: system.recorded() - earlier == count, 30.0, f"{system.name} to record {count} as sent", pause=0.5
        )


def _figure(
    before: dict[str, int],
    after: dict[str, int],
    count: int,
    seconds: float,
    p50: float = 0.0,
    p99: float = 0.0,
    p999: float = 0.0,
) -> Figure:
    parts = {name: (used - before[name]) / count for name, used in after.items()}
    return Figure(cpu_us=sum(parts.values()), rate=count / seconds, p50=p50, p99=p99, p999=p999, parts=parts)
