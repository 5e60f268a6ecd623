"""One tenant floods a lane: how long do another tenant's single notifications take?

`python -m bench.fairness` measures it without and with fair shares, in turns, and prints a table.
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
from bench.measure import Vendor, Wrong
from bench.postgres import Postgres
from bench.processes import eventually
from bench.servers import python
from bench.system import WITHOUT_BOUND, Tidings, prepare

OTHER = "other"
RATE = 10.0
"""Single notifications a second of the other tenant, while the flood lasts."""
BATCH = 500
LEAD = 3.0
"""Seconds of the flood before the other tenant begins."""
WARM_UP = 2_000
NOT_FOUND = 404
_WITHIN = 900.0


class Beside(Struct, frozen=True, kw_only=True):
    """What the other tenant saw beside a flood.

    Latencies are in milliseconds from due: until the API's answer, until the vendor has it, until it is recorded.

    `flood_rate` is how many of the flood arrived in a second meanwhile; `left` how many were still to come at the end.
    """

    shares: bool
    answer_p50: float
    answer_p99: float
    calm_p50: float
    calm_p99: float
    p50: float
    p99: float
    most: float
    recorded_p50: float
    recorded_most: float
    flood_rate: float
    left: int


class Trial:
    """Measures one system, which nothing else uses meanwhile."""

    def __init__(self, folder: Path, system: Tidings, vendor: Vendor, secret: str) -> None:
        self._folder = folder
        self._system = system
        self._vendor = vendor
        self._headers = {"authorization": f"Bearer {secret}"}
        self._next = 1

    def measure(self, count: int, seconds: float, *, shares: bool) -> Beside:
        """Let `count` flood the normal lane, and look at the other tenant for so many seconds meanwhile."""
        system = self._system
        system.shares = shares
        system.restart_api(WITHOUT_BOUND)
        system.start_workers()
        try:
            self._flood(WARM_UP).wait(_WITHIN)
            self._arrived(WARM_UP)
            self._vendor.reset()
            calm, _ = self._singles(seconds / 2)
            self._vendor.reset()
            flood_first, flood = self._next, self._flood(count)
            time.sleep(LEAD)
            before, since = self._vendor.count().arrivals, time.monotonic()
            recorded: list[float] = []
            over = threading.Event()
            watching = threading.Thread(target=self._watch, args=(recorded, over))
            watching.start()
            waits, seen = self._singles(seconds)
            over.set()
            watching.join()
            passed = self._vendor.count().arrivals - before - len(waits) - len(recorded)
            rate = passed / (time.monotonic() - since)
            if flood.wait(_WITHIN):
                raise Wrong("the load generator of the flood failed")
            count -= BATCH * self._seen(flood_first).refused  # "storing takes too long", on a busy machine
            left = count - passed - before
            if shares and left <= 0:  # without them the single ones come after the whole flood
                raise Wrong("the flood was over before the other tenant was: let it be larger, or look for less long")
            self._arrived(count + len(waits) + len(recorded))
        finally:
            system.stop_workers()
        return Beside(
            shares=shares,
            answer_p50=seen.p50,
            answer_p99=seen.p99,
            calm_p50=percentile(calm, 0.5),
            calm_p99=percentile(calm, 0.99),
            p50=percentile(waits, 0.5),
            p99=percentile(waits, 0.99),
            most=waits[-1],
            recorded_p50=percentile(sorted(recorded), 0.5),
            recorded_most=max(recorded, default=0.0),
            flood_rate=rate,
            left=left,
        )

    def _flood(self, count: int) -> subprocess.Popen[bytes]:
        load = self._load(count, self._system.headers, batch=BATCH, connections=4)
        return self._start(load)

    def _singles(self, seconds: float) -> tuple[list[float], Loaded]:
        """Send single ones at a steady pace.

        How long each took from due to the vendor, ascending, in milliseconds; and what the generator saw.
        """
        load = self._load(int(seconds * RATE), self._headers, rate=RATE, instants=str(self._folder / "instants"))
        if self._start(load).wait(_WITHIN):
            raise Wrong("the load generator of the other tenant failed")
        due = array("q", Path(load.instants).read_bytes())
        eventually(lambda: all(self._vendor.arrivals(load.first, load.count)), _WITHIN, "the single ones to arrive")
        arrived = self._vendor.arrivals(load.first, load.count)
        return sorted((came - at) / 1e6 for came, at in zip(arrived, due, strict=True)), self._seen(load.first)

    def _seen(self, first: int) -> Loaded:
        """What the generator saw whose first index this is."""
        return msgspec.json.decode((self._folder / f"{first}.json").read_bytes(), type=Loaded)

    def _watch(self, recorded: list[float], over: threading.Event) -> None:
        """Send one at a time, and note how long it takes until it is recorded as sent, in milliseconds."""
        while not over.is_set():
            body = workload.SINGLE.item.replace("@user@", "user-1").replace("@index@", str(self._next))
            self._next += 1
            began = time.monotonic()
            answer = self._call("/v1/notifications", body.encode())
            while not self._is_sent(answer["id"]):
                time.sleep(0.02)
            recorded.append((time.monotonic() - began) * 1000)

    def _is_sent(self, id: str) -> bool:
        try:
            return bool(self._call(f"/v1/notifications/{id}")["state"] == "sent")
        except urllib.error.HTTPError as error:
            if error.code != NOT_FOUND:
                raise
            return False  # the recorder has not come to it

    def _call(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {**self._headers, "content-type": "application/json"}
        request = urllib.request.Request(self._system.url + path, body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

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

    def _arrived(self, count: int) -> None:
        eventually(lambda: self._vendor.count().arrivals >= count, _WITHIN, f"{count} arrivals", pause=0.2)
        processes.settle(self._system.roots(), _WITHIN)
        if self._vendor.count().repeated:
            raise Wrong("some arrived twice")


def table(found: Sequence[Beside]) -> str:
    """The figures as lines of the report."""
    lines = [
        "| shares | alone p50, p99 | answer p50, p99 | vendor p50, p99, most | recorded p50, most | the flood |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {'fair' if one.shares else 'none'} | {one.calm_p50:.0f}, {one.calm_p99:.0f} ms "
        f"| {one.answer_p50:.0f}, {one.answer_p99:.0f} ms "
        f"| {one.p50:.0f}, {one.p99:.0f}, {one.most:.0f} ms | {one.recorded_p50:.0f}, {one.recorded_most:.0f} ms "
        f"| {one.flood_rate:.0f}/s, {one.left:,} left |"
        for one in found
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Measure it."""
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description="A single one beside a flood.")
    parser.add_argument("--count", type=int, default=200_000, help="how many the flood has")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long the other tenant is looked at")
    parser.add_argument("--only", choices=["fair", "none"], help="one of the two")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kafka", action="store_true", help="with Kafka as the queue")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="tidings-bench-"))
    folder.chmod(0o755)  # PostgreSQL's own user must be able to pass
    found: list[Beside] = []
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
            trial = Trial(folder, system, vendor, asyncio.run(prepare(system.dsn, OTHER)))
            for _ in range(chosen.rounds):
                for shares in (False, True):
                    if chosen.only is None or (chosen.only == "fair") is shares:
                        found.append(trial.measure(chosen.count, chosen.seconds, shares=shares))
                        print(table(found[-1:]), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
