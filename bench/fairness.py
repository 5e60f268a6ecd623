"""Fairness: how long another tenant's single notifications take while one tenant floods a lane.

`python -m bench.fairness` measures this in turn without and with fair shares, and prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bench import processes, workload
from bench.kafka import KafkaBroker
from bench.load import Load, Loaded, percentile
from bench.measure import InvalidRun, Vendor
from bench.postgres import Postgres
from bench.processes import eventually
from bench.servers import python
from bench.system import UNLIMITED_BACKLOG, Tidings, prepare_tenant

OTHER = "other"
SINGLES_PER_S = 10.0
"""Single notifications of the other tenant during the flood."""
BATCH = 500
LEAD_S = 3.0
"""How long the flood runs before the other tenant begins."""
WARM_UP = 2_000
NOT_FOUND = 404
_WITHIN_S = 900.0


class BesideFlood(Struct, frozen=True, kw_only=True):
    """What the other tenant experienced beside a flood.

    Latencies count from the instant at which a notification is due: `alone` to the vendor without a flood; during the
    flood `answer` to the API's answer, `vendor` to the vendor, `recorded` to the record. `flood_per_s` of the flood
    arrived meanwhile; `flood_left` had not arrived at the end.
    """

    shares: bool
    alone_p50_ms: float
    alone_p99_ms: float
    answer_p50_ms: float
    answer_p99_ms: float
    vendor_p50_ms: float
    vendor_p99_ms: float
    vendor_most_ms: float
    recorded_p50_ms: float
    recorded_most_ms: float
    flood_per_s: float
    flood_left: int


class Trial:
    """Measures a system that nothing else uses meanwhile."""

    def __init__(self, folder: Path, system: Tidings, vendor: Vendor, secret: str) -> None:
        self._folder = folder
        self._system = system
        self._vendor = vendor
        self._headers = {"authorization": f"Bearer {secret}"}
        self._next = 1

    def measure(self, count: int, duration_s: float, *, shares: bool) -> BesideFlood:
        """Flood the normal lane with `count` notifications, and watch the other tenant for `duration_s` meanwhile."""
        system = self._system
        system.shares = shares
        system.restart_api(UNLIMITED_BACKLOG)
        system.start_workers()
        try:
            self._flood(WARM_UP).wait(_WITHIN_S)
            self._await_arrivals(WARM_UP)
            self._vendor.reset()
            alone_ms, _ = self._singles(duration_s / 2)
            self._vendor.reset()
            flood_first, flood = self._next, self._flood(count)
            time.sleep(LEAD_S)
            before, since = self._vendor.count().arrivals, time.monotonic()
            recorded_ms: list[float] = []
            over = threading.Event()
            watching = threading.Thread(target=self._watch, args=(recorded_ms, over))
            watching.start()
            vendor_ms, answers = self._singles(duration_s)
            over.set()
            watching.join()
            passed = self._vendor.count().arrivals - before - len(vendor_ms) - len(recorded_ms)
            flood_per_s = passed / (time.monotonic() - since)
            if flood.wait(_WITHIN_S):
                raise InvalidRun("the load generator of the flood failed")
            # On a busy machine the API refuses some batches, because storing takes too long.
            count -= BATCH * self._loaded(flood_first).refused
            left = count - passed - before
            if shares and left <= 0:  # without shares the single ones come after the whole flood
                raise InvalidRun("the flood ended before the other tenant did: raise --count, or lower --seconds")
            self._await_arrivals(count + len(vendor_ms) + len(recorded_ms))
        finally:
            system.stop_workers()
        return BesideFlood(
            shares=shares,
            alone_p50_ms=percentile(alone_ms, 0.5),
            alone_p99_ms=percentile(alone_ms, 0.99),
            answer_p50_ms=answers.p50_ms,
            answer_p99_ms=answers.p99_ms,
            vendor_p50_ms=percentile(vendor_ms, 0.5),
            vendor_p99_ms=percentile(vendor_ms, 0.99),
            vendor_most_ms=vendor_ms[-1],
            recorded_p50_ms=percentile(sorted(recorded_ms), 0.5),
            recorded_most_ms=max(recorded_ms, default=0.0),
            flood_per_s=flood_per_s,
            flood_left=left,
        )

    def _flood(self, count: int) -> subprocess.Popen[bytes]:
        load = self._load(count, self._system.headers, batch=BATCH, connections=4)
        return self._start(load)

    def _singles(self, duration_s: float) -> tuple[list[float], Loaded]:
        """Send single notifications at a steady pace.

        Returns the milliseconds from due to the vendor, ascending, and the load generator's numbers.
        """
        instants_file = str(self._folder / "instants")
        load = self._load(
            int(duration_s * SINGLES_PER_S), self._headers, rate_per_s=SINGLES_PER_S, instants_file=instants_file
        )
        if self._start(load).wait(_WITHIN_S):
            raise InvalidRun("the load generator of the other tenant failed")
        due_ns = array("q", Path(load.instants_file).read_bytes())
        eventually(lambda: all(self._vendor.arrivals(load.first, load.count)), _WITHIN_S, "the single ones to arrive")
        arrived_ns = self._vendor.arrivals(load.first, load.count)
        waits_ms = sorted((arrived - due) / 1e6 for arrived, due in zip(arrived_ns, due_ns, strict=True))
        return waits_ms, self._loaded(load.first)

    def _loaded(self, first: int) -> Loaded:
        """Read the numbers of the load generator whose first index this is."""
        return msgspec.json.decode((self._folder / f"{first}.json").read_bytes(), type=Loaded)

    def _watch(self, recorded_ms: list[float], over: threading.Event) -> None:
        """Until `over` is set, send one notification at a time; add how long each takes to be recorded as sent."""
        while not over.is_set():
            body = workload.SINGLE.item.replace("@user@", "user-1").replace("@index@", str(self._next))
            self._next += 1
            began = time.monotonic()
            answer = self._call("/v1/notifications", body.encode())
            while not self._is_sent(answer["id"]):
                time.sleep(0.02)
            recorded_ms.append((time.monotonic() - began) * 1000)

    def _is_sent(self, id: str) -> bool:
        try:
            return bool(self._call(f"/v1/notifications/{id}")["state"] == "sent")
        except urllib.error.HTTPError as error:
            if error.code != NOT_FOUND:
                raise
            return False  # not recorded yet

    def _call(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {**self._headers, "content-type": "application/json"}
        request = urllib.request.Request(self._system.url + path, body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            decoded: dict[str, Any] = json.load(answer)
            return decoded

    def _load(self, count: int, headers: dict[str, str], batch: int = 0, **fields: Any) -> Load:
        load = Load(
            port=self._system.port,
            path="/v1/notifications/batch" if batch else "/v1/notifications",
            item=workload.SINGLE.item,
            count=count,
            headers=headers,
            first=self._next,
            batch=batch,
            prefix='{"notifications":[' if batch else "",
            suffix="]}" if batch else "",
            users=workload.USERS,
            **fields,
        )
        self._next += count
        return load

    def _start(self, load: Load) -> subprocess.Popen[bytes]:
        with (self._folder / "load.log").open("ab") as log, (self._folder / f"{load.first}.json").open("wb") as output:
            process = subprocess.Popen(python("bench.load"), stdin=subprocess.PIPE, stdout=output, stderr=log)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(load))
        process.stdin.close()
        return process

    def _await_arrivals(self, count: int) -> None:
        eventually(lambda: self._vendor.count().arrivals >= count, _WITHIN_S, f"{count} arrivals", pause_s=0.2)
        processes.settle(self._system.roots(), _WITHIN_S)
        if self._vendor.count().repeated:
            raise InvalidRun(f"{self._vendor.count().repeated} notifications arrived twice")


def table(measured: Sequence[BesideFlood]) -> str:
    """Format the figures as a Markdown table."""
    lines = [
        "| shares | alone p50, p99 | answer p50, p99 | vendor p50, p99, most | recorded p50, most | the flood |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {'fair' if one.shares else 'none'} | {one.alone_p50_ms:.0f}, {one.alone_p99_ms:.0f} ms "
        f"| {one.answer_p50_ms:.0f}, {one.answer_p99_ms:.0f} ms "
        f"| {one.vendor_p50_ms:.0f}, {one.vendor_p99_ms:.0f}, {one.vendor_most_ms:.0f} ms "
        f"| {one.recorded_p50_ms:.0f}, {one.recorded_most_ms:.0f} ms "
        f"| {one.flood_per_s:.0f}/s, {one.flood_left:,} left |"
        for one in measured
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Measure fairness as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.fairness", description="Measure single notifications beside a flood."
    )
    parser.add_argument("--count", type=int, default=200_000, help="notifications in the flood")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long to watch the other tenant")
    parser.add_argument("--only", choices=["fair", "none"], help="measure only with, or only without, fair shares")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kafka", action="store_true", help="with Kafka as the queue")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="tidings-bench-"))
    folder.chmod(0o755)  # PostgreSQL's own user must be able to enter
    measured: list[BesideFlood] = []
    try:
        with ExitStack() as stack:
            vendor = Vendor(folder, 0.0)
            stack.callback(vendor.stop)
            postgres = Postgres(folder / "postgres")
            stack.callback(postgres.stop)
            kafka = None
            if chosen.kafka:
                kafka = KafkaBroker(folder / "kafka")
                stack.callback(kafka.stop)
            system = Tidings("tidings", folder / "system", postgres, vendor.port, kafka)
            stack.callback(system.close)
            trial = Trial(folder, system, vendor, asyncio.run(prepare_tenant(system.dsn, OTHER)))
            for _ in range(chosen.rounds):
                for shares in (False, True):
                    if chosen.only is None or (chosen.only == "fair") is shares:
                        measured.append(trial.measure(chosen.count, chosen.seconds, shares=shares))
                        print(table(measured[-1:]), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(measured))


if __name__ == "__main__":
    main(sys.argv[1:])
