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

_DRAIN_DEADLINE_S = 180.0
_STALL_DEADLINE_S = 20.0
_LOAD_DEADLINE_S = 300.0


class System(Protocol):
    """A system to measure."""

    @property
    def name(self) -> str:
        """Its name in the table."""
        ...

    @property
    def port(self) -> int:
        """The port of its API on 127.0.0.1."""
        ...

    @property
    def headers(self) -> dict[str, str]:
        """The headers of each request."""
        ...

    def roots(self) -> dict[str, int]:
        """Its processes: the part of the system to the id of the process, whose descendants count too."""
        ...

    def start_workers(self) -> None:
        """Start the workers."""
        ...

    def stop_workers(self) -> None:
        """Stop the workers; waiting notifications stay durable."""
        ...

    def recorded(self) -> int:
        """Count the notifications that it has recorded as sent."""
        ...


class Receiver(Protocol):
    """Where notifications arrive, and what it has counted."""

    def count(self) -> Count:
        """What arrived since the last reset."""
        ...

    def arrivals(self, first: int, count: int) -> list[int]:
        """When each index arrived: wall clock in ns, 0 for never."""
        ...

    def reset(self) -> None:
        """Count from zero again."""
        ...


class Figure(Struct, frozen=True, kw_only=True):
    """One measurement.

    `cpu_us` is for one notification. `parts` divides it (or, for the idle row, `idle_share`) by part of the system,
    `memory_parts` divides `memory_mb`.
    """

    cpu_us: float = 0.0
    rate_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    p999_ms: float = 0.0
    idle_share: float = 0.0
    memory_mb: float = 0.0
    parts: dict[str, float] = {}
    memory_parts: dict[str, float] = {}


class Vendor(Process):
    """The stand-in for the vendors, and its counts."""

    def __init__(self, folder: Path, delay_ms: float) -> None:
        self.port = free_port()
        super().__init__(python("bench.vendor", str(self.port), str(delay_ms)), folder / "vendor.log")
        self.await_port(self.port)

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def count(self) -> Count:
        """Return the counts since the last reset."""
        return msgspec.json.decode(self._get("/count"), type=Count)

    def arrivals(self, first: int, count: int) -> list[int]:
        """Return when each index arrived: wall clock in nanoseconds, 0 for never."""
        return array("q", self._get(f"/arrivals/{first}/{count}")).tolist()

    def reset(self) -> None:
        """Set all counts to zero."""
        self._get("/reset")


class InvalidRun(RuntimeError):
    """The system did not do what the row says, so its figure could not be compared with others."""


class Bench:
    """Runs measurements one after another. No index is used twice."""

    def __init__(self, folder: Path, vendor: Receiver) -> None:
        self._folder = folder
        self._vendor = vendor
        self._next = 1

    def _load(self, system: System, mode: workload.Mode, count: int, rate_per_s: float = 0.0) -> tuple[Load, Loaded]:
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
            rate_per_s=rate_per_s,
            instants_file=str(self._folder / "instants") if rate_per_s else "",
        )
        self._next += count
        run = subprocess.run(
            python("bench.load"),
            input=msgspec.json.encode(load),
            capture_output=True,
            check=False,
            timeout=_LOAD_DEADLINE_S,
        )
        if run.returncode:
            raise InvalidRun(f"the load generator failed: {run.stderr.decode(errors='replace')[-2000:]}")
        loaded = msgspec.json.decode(run.stdout, type=Loaded)
        if loaded.refused:
            raise InvalidRun(f"{system.name} refused {loaded.refused} requests, the first with {loaded.first_refusal}")
        return load, loaded

    def accept(self, system: System, mode: workload.Mode, count: int) -> Figure:
        """Measure accepting `count` notifications while no worker runs."""
        before = processes.cpu_us(system.roots())
        _, loaded = self._load(system, mode, count)
        after = processes.cpu_us(system.roots())
        return _figure(before, after, count, loaded.duration_s, loaded.p50_ms, loaded.p99_ms, loaded.p999_ms)

    def drain(self, system: System, count: int) -> None:
        """Wait until the `count` notifications that wait have been sent and recorded."""
        self._await_arrivals(count)
        processes.settle(system.roots(), _DRAIN_DEADLINE_S)
        self._vendor.reset()

    def flow(self, system: System, mode: workload.Mode, count: int) -> Figure:
        """Measure `count` notifications from the request to the recorded result, at full speed."""
        self._vendor.reset()
        earlier = system.recorded()
        before, started = processes.cpu_us(system.roots()), time.monotonic()
        self._load(system, mode, count)
        self._await_arrivals(count)
        duration_s = time.monotonic() - started
        processes.settle(system.roots(), _DRAIN_DEADLINE_S)
        after = processes.cpu_us(system.roots())
        self._check(system, mode, count, earlier)
        return _figure(before, after, count, duration_s)

    def latency(self, system: System, mode: workload.Mode, count: int, rate_per_s: float) -> Figure:
        """Measure the same at a fixed rate, with latencies from the instant a request was due to its arrival."""
        self._vendor.reset()
        earlier = system.recorded()
        before, started = processes.cpu_us(system.roots()), time.monotonic()
        load, _ = self._load(system, mode, count, rate_per_s)
        self._await_arrivals(count)
        duration_s = time.monotonic() - started
        processes.settle(system.roots(), _DRAIN_DEADLINE_S)
        after = processes.cpu_us(system.roots())
        self._check(system, mode, count, earlier)
        due_ns = array("q", Path(load.instants_file).read_bytes())
        arrived_ns = self._vendor.arrivals(load.first, count)
        waits_ms = sorted((arrived - due) / 1e6 for arrived, due in zip(arrived_ns, due_ns, strict=True))
        quantiles = (percentile(waits_ms, 0.5), percentile(waits_ms, 0.99), percentile(waits_ms, 0.999))
        return _figure(before, after, count, duration_s, *quantiles)

    def idle(self, system: System, rest_s: float, duration_s: float) -> Figure:
        """Measure CPU, as a share of one core, and memory for `duration_s`, after `rest_s` without a request."""
        processes.settle(system.roots(), _DRAIN_DEADLINE_S)
        time.sleep(rest_s)
        before, then = processes.cpu_us(system.roots()), time.monotonic()
        time.sleep(duration_s)
        after, now = processes.cpu_us(system.roots()), time.monotonic()
        shares = {name: (used - before[name]) / 1e6 / (now - then) for name, used in after.items()}
        memory = {name: size / 1e6 for name, size in processes.memory_bytes(system.roots()).items()}
        return Figure(
            idle_share=sum(shares.values()), memory_mb=sum(memory.values()), parts=shares, memory_parts=memory
        )

    def _await_arrivals(self, count: int) -> None:
        """Return when `count` have arrived; raise InvalidRun when none arrives for `_STALL_DEADLINE_S`."""
        seen, since = -1, time.monotonic()
        while seen < count:
            arrivals = self._vendor.count().arrivals
            if arrivals > seen:
                seen, since = arrivals, time.monotonic()
            elif time.monotonic() - since > _STALL_DEADLINE_S:
                raise InvalidRun(
                    f"only {seen} of {count} arrived at the vendor, and none in the last {_STALL_DEADLINE_S:.0f} s"
                )
            time.sleep(0.02)

    def _check(self, system: System, mode: workload.Mode, count: int, earlier: int) -> None:
        counted = self._vendor.count()
        if counted.arrivals != count or counted.repeated:
            raise InvalidRun(f"{system.name}: {counted.arrivals} of {count} arrived, {counted.repeated} of them twice")
        if mode.personal and counted.requests != count:
            raise InvalidRun(f"{system.name}: {counted.requests} vendor requests for {count} notifications")
        eventually(
            lambda: system.recorded() - earlier == count, 30.0, f"{system.name} to record {count} as sent", pause_s=0.5
        )


def _figure(
    before: dict[str, int],
    after: dict[str, int],
    count: int,
    duration_s: float,
    p50_ms: float = 0.0,
    p99_ms: float = 0.0,
    p999_ms: float = 0.0,
) -> Figure:
    parts = {name: (used - before[name]) / count for name, used in after.items()}
    return Figure(
        cpu_us=sum(parts.values()),
        rate_per_s=count / duration_s,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        p999_ms=p999_ms,
        parts=parts,
    )
