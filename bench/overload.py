"""Overload: at three times the sustainable load, how much arrives, how fast, and how much is refused.

`python -m bench.overload` measures only this and prints its part of the report.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import BinaryIO

import msgspec
from msgspec import Struct

from bench import processes, workload
from bench.load import Load, Loaded, percentile
from bench.measure import InvalidRun, Vendor
from bench.postgres import Postgres
from bench.processes import eventually
from bench.servers import python
from bench.system import UNLIMITED_BACKLOG, Tidings
from tidings.model.vocabulary import Priority

OVERLOAD_FACTOR = 3.0
"""The offered rate during the overload, as a multiple of the sustainable rate."""
CALM_FACTOR = 0.5
"""The same for the calm phases."""
BACKLOG_S = 5.0
"""The allowed backlog, in seconds of the sustainable rate: less than advised, so that the run stays short."""
LANES = [Priority.CRITICAL if turn == 7 else Priority.NORMAL if turn % 2 else Priority.BULK for turn in range(20)]
"""The lane of each of 20 requests: 5 % critical, 45 % normal, 50 % bulk."""
ITEM = workload.SINGLE.item[:-1] + ',"priority":"@lane@"}'
ACCEPTED, REFUSED = 202, 503
PHASES = ("calm", "overload", "after")
WARM_UP = 2_000
_CONNECTIONS = 64
_ANSWER_WITHIN_S = 120.0
_DRAIN_WITHIN_S = 120.0


class Spans(Struct, frozen=True):
    """The length of each phase. `sustained` is the number of notifications that finds out the sustainable rate."""

    sustained: int
    calm_s: float
    lead_s: float
    window_s: float


QUICK = Spans(sustained=10_000, calm_s=4.0, lead_s=6.0, window_s=6.0)
FULL = Spans(sustained=24_000, calm_s=8.0, lead_s=8.0, window_s=20.0)


class Case(Struct, frozen=True):
    """`batch` notifications in each request (0: one alone) while the vendor grants `vendor_rate_per_s`.

    With `vendor_rate_per_s` 0 the machine is the bound, and generator, vendor and refusals use a part of it.
    """

    batch: int
    vendor_rate_per_s: float = 0.0

    @property
    def title(self) -> str:
        """The case in words."""
        title = f"{self.batch or 'one'} in each request"
        return title + f", the vendor grants {self.vendor_rate_per_s:.0f}/s" if self.vendor_rate_per_s else title


CASES = (Case(20), Case(0), Case(0, vendor_rate_per_s=1_000.0))


class Latency(Struct, frozen=True):
    """From the instant at which a request was due until its notifications were at the vendor."""

    p50_ms: float
    p99_ms: float


class Overload(Struct, frozen=True, kw_only=True):
    """One measurement. Rates count notifications.

    `goodput_per_s` arrived at the vendor while `offered_per_s` was offered; `sustained_us` and `goodput_us` are the
    system's CPU for one notification at the sustainable rate and during the overload. `refused` is the refused share of
    each lane. `calm`, `overload` and `after` are latencies by lane, in each phase; `answers` are those of all HTTP
    answers during the overload. `memory_mb` is the most that each part used in the window, `growth_mb` how much it grew
    there, `cores` its CPU. The last two fields count from the last due request.
    """

    case: Case
    sustained_per_s: float
    offered_per_s: float
    goodput_per_s: float
    sustained_us: float
    goodput_us: float
    refused: dict[str, float]
    calm: dict[str, Latency]
    overload: dict[str, Latency]
    after: dict[str, Latency]
    answers: Latency
    memory_mb: dict[str, float]
    growth_mb: dict[str, float]
    cores: dict[str, float]
    bulk_accepted_after_s: float
    all_arrived_after_s: float


class _Offering(Struct, frozen=True):
    """A running load generator."""

    load: Load
    process: subprocess.Popen[bytes]
    log: BinaryIO


class _Result(Struct, frozen=True):
    """The result of a load: for each index its lane, when it was due, whether it was accepted, and when it arrived."""

    loaded: Loaded
    lanes: list[Priority]
    due_ns: array[int]
    accepted: list[bool]
    arrived_ns: list[int]

    def latency(self, lane: Priority, begin_ns: int = 0) -> Latency:
        """Return the latency of what was accepted and due from `begin_ns` on."""
        waits_ms = sorted(
            (arrived - due) / 1e6
            for of, due, accepted, arrived in zip(self.lanes, self.due_ns, self.accepted, self.arrived_ns, strict=True)
            if of is lane and accepted and due >= begin_ns
        )
        return Latency(percentile(waits_ms, 0.5), percentile(waits_ms, 0.99))

    def refused(self, begin_ns: int) -> dict[str, float]:
        """Return the refused share of each lane, of what was due from `begin_ns` on."""
        offered, refused = Counter[Priority](), Counter[Priority]()
        for lane, due, accepted in zip(self.lanes, self.due_ns, self.accepted, strict=True):
            if due >= begin_ns:
                offered[lane] += 1
                refused[lane] += not accepted
        return {lane.value: refused[lane] / max(1, offered[lane]) for lane in Priority}


class Trial:
    """Measures a system that nothing else uses meanwhile."""

    def __init__(self, folder: Path, system: Tidings, vendor: Vendor, *, by_urgency: bool = True) -> None:
        self._by_urgency = by_urgency
        self._folder = folder
        self._system = system
        self._vendor = vendor
        self._next = 1

    def measure(self, case: Case, spans: Spans) -> Overload:
        """Offer three times the sustainable rate. With a vendor's rate there is one worker: each keeps its own rate."""
        system, batch = self._system, case.batch
        together = not self._by_urgency or bool(case.vendor_rate_per_s)
        system.start_workers(together=together, sms_rate_per_s=case.vendor_rate_per_s)
        try:
            self._run(batch, WARM_UP)
            before = processes.cpu_us(system.roots())
            full_speed = self._run(batch, spans.sustained)
            used_us = sum(processes.cpu_us(system.roots()).values()) - sum(before.values())
            count = sum(full_speed.accepted)
            sustained_per_s = count / ((max(full_speed.arrived_ns) - full_speed.due_ns[0]) / 1e9)
            offered_per_s = sustained_per_s * OVERLOAD_FACTOR
            system.restart_api(backlog=int(sustained_per_s * BACKLOG_S))
            self._run(batch, WARM_UP)
            calm = self._calm(batch, sustained_per_s, spans)
            offering = self._start(batch, int(offered_per_s * (spans.lead_s + spans.window_s)), offered_per_s)
            beside = {"vendor": self._vendor.pid, "generator": offering.process.pid}
            with processes.Watch(system.roots(), beside) as watch:
                offering.process.wait(_ANSWER_WITHIN_S)
                bulk_accepted_ns = self._await_bulk()
                result = self._end(offering, besides=1)
            after = self._calm(batch, sustained_per_s, spans)
        finally:
            system.stop_workers()
            system.restart_api(backlog=UNLIMITED_BACKLOG)
        begin_ns = result.due_ns[0] + int(spans.lead_s * 1e9)
        end_ns = begin_ns + int(spans.window_s * 1e9)
        goodput_per_s = sum(begin_ns <= arrived < end_ns for arrived in result.arrived_ns) / spans.window_s
        cores = watch.cores(begin_ns, end_ns)
        return Overload(
            case=case,
            sustained_per_s=sustained_per_s,
            offered_per_s=offered_per_s,
            goodput_per_s=goodput_per_s,
            sustained_us=used_us / count,
            goodput_us=sum(cores[part] for part in system.roots()) * 1e6 / goodput_per_s,
            refused=result.refused(begin_ns),
            calm={lane.value: calm.latency(lane) for lane in Priority},
            overload={lane.value: result.latency(lane, begin_ns) for lane in Priority},
            after={lane.value: after.latency(lane) for lane in Priority},
            answers=Latency(result.loaded.p50_ms, result.loaded.p99_ms),
            memory_mb=watch.most_mb(begin_ns, end_ns),
            growth_mb=watch.growth_mb(begin_ns, end_ns),
            cores=cores,
            bulk_accepted_after_s=(bulk_accepted_ns - result.due_ns[-1]) / 1e9,
            all_arrived_after_s=(max(result.arrived_ns) - result.due_ns[-1]) / 1e9,
        )

    def _calm(self, batch: int, sustained_per_s: float, spans: Spans) -> _Result:
        rate_per_s = sustained_per_s * CALM_FACTOR
        return self._run(batch, int(rate_per_s * spans.calm_s), rate_per_s)

    def _run(self, batch: int, count: int, rate_per_s: float = 0.0) -> _Result:
        return self._end(self._start(batch, count, rate_per_s))

    def _start(self, batch: int, count: int, rate_per_s: float) -> _Offering:
        """Start the generator; with `rate_per_s` 0 in a closed loop."""
        self._vendor.reset()
        whole = (batch or 1) * len(LANES)
        load = Load(
            port=self._system.port,
            path="/v1/notifications/batch" if batch else "/v1/notifications",
            item=ITEM,
            count=max(1, count // whole) * whole,
            headers=self._system.headers,
            first=self._next,
            batch=batch,
            prefix='{"notifications":[' if batch else "",
            suffix="]}" if batch else "",
            users=workload.USERS,
            connections=_CONNECTIONS if rate_per_s or not batch else 8,
            rate_per_s=rate_per_s,
            instants_file=str(self._folder / "instants"),
            lanes=[lane.value for lane in LANES],
            statuses_file=str(self._folder / "statuses"),
        )
        self._next += load.count
        log = (self._folder / "load.log").open("w+b")
        process = subprocess.Popen(python("bench.load"), stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(load))
        process.stdin.close()
        return _Offering(load, process, log)

    def _end(self, offering: _Offering, besides: int = 0) -> _Result:
        """Wait until everything accepted has arrived, and `besides` notifications that others sent; check all of it."""
        load = offering.load
        status = offering.process.wait(_ANSWER_WITHIN_S)
        offering.log.seek(0)
        output = offering.log.read()
        offering.log.close()
        if status:
            raise InvalidRun(f"the load generator failed: {output.decode(errors='replace')[-2000:]}")
        loaded = msgspec.json.decode(output, type=Loaded)
        statuses = array("q", Path(load.statuses_file).read_bytes())
        if unknown := set(statuses) - {ACCEPTED, REFUSED}:
            raise InvalidRun(f"unexpected statuses {unknown}; the first refusal: {loaded.first_refusal}")
        per_request = load.batch or 1
        accepted = [status == ACCEPTED for status in statuses for _ in range(per_request)]
        expected = sum(accepted) + besides
        eventually(lambda: self._vendor.count().arrivals >= expected, _DRAIN_WITHIN_S, f"{expected} arrivals")
        processes.settle(self._system.roots(), _DRAIN_WITHIN_S)
        arrived_ns = self._vendor.arrivals(load.first, load.count)
        counted = self._vendor.count()
        if (
            counted.repeated
            or counted.arrivals != expected
            or any(bool(arrived) != was_accepted for arrived, was_accepted in zip(arrived_ns, accepted, strict=True))
        ):
            raise InvalidRun(f"{expected} were accepted; {counted.arrivals} arrived, {counted.repeated} of them twice")
        lanes = [LANES[number % len(LANES)] for number in range(len(statuses)) for _ in range(per_request)]
        return _Result(loaded, lanes, array("q", Path(load.instants_file).read_bytes()), accepted, arrived_ns)

    def _await_bulk(self) -> int:
        """Wait until bulk is accepted again; return the instant, in nanoseconds of the wall clock."""
        body = (
            ITEM.replace("@lane@", Priority.BULK.value).replace("@user@", "user-1").replace("@index@", str(self._next))
        )
        self._next += 1
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._system.port}/v1/notifications",
            body.encode(),
            {**self._system.headers, "content-type": "application/json"},
        )

        def is_accepted() -> bool:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return bool(answer.status == ACCEPTED)
            except urllib.error.HTTPError as error:
                if error.code != REFUSED:
                    raise
                return False

        eventually(is_accepted, _DRAIN_WITHIN_S, "bulk to be accepted again", pause_s=0.1)
        return time.time_ns()


def table(measured: Sequence[Overload]) -> str:
    """Format the medians over the rounds as lines of the report."""
    lines = [f"{OVERLOAD_FACTOR:g} times the sustainable load is offered:"]
    for case in dict.fromkeys(one.case for one in measured):
        lines += _lines([_flat(one) for one in measured if one.case == case], case.title)
    return "\n".join(lines)


def _lines(rounds: Sequence[dict[str, float]], title: str) -> list[str]:
    medians = {name: median(one[name] for one in rounds) for name in rounds[0]}
    rates = f"{medians['sustained_per_s']:.0f}/s can be sustained, {medians['offered_per_s']:.0f}/s offered"
    lines = [
        f"  {title}: {rates}, {medians['goodput_per_s']:.0f}/s arrive ({medians['share']:.0%})",
        f"    {'':<9}{'refused':>9}" + "".join(f"{phase + ' p50':>13}{'p99':>7}" for phase in PHASES) + " ms",
    ]
    for lane in Priority:
        cells = "".join(
            f"{medians[f'{phase}.{lane}.p50_ms']:>13.0f}{medians[f'{phase}.{lane}.p99_ms']:>7.0f}" for phase in PHASES
        )
        lines.append(f"    {lane:<9}{medians[f'refused.{lane}']:>9.0%}{cells}")
    parts = [name.removeprefix("memory_mb.") for name in medians if name.startswith("memory_mb.")]
    memory = ", ".join(
        f"{part} {medians[f'memory_mb.{part}']:.0f} MB ({medians[f'growth_mb.{part}']:+.0f})" for part in parts
    )
    answers = f"p50 {medians['answers.p50_ms']:.1f} ms, p99 {medians['answers.p99_ms']:.1f}"
    bulk_s, all_s = medians["bulk_accepted_after_s"], medians["all_arrived_after_s"]
    lines.append(f"    answers {answers}; bulk accepted again after {bulk_s:.1f} s, all arrived after {all_s:.1f} s")
    lines.append(f"    memory at most (and growth in the window): {memory}")
    cores = ", ".join(f"{name[6:]} {used:.2f}" for name, used in medians.items() if name.startswith("cores."))
    lines.append(f"    cores used: {cores}")
    each = f"{medians['goodput_us']:.0f} µs, {medians['sustained_us']:.0f} when nothing is refused"
    lines.append(f"    CPU for each that arrives: {each}")
    return lines


def _flat(one: Overload) -> dict[str, float]:
    """Return all numbers by their path in the struct, and `share`: the goodput as a share of the sustainable rate."""
    numbers = {"share": one.goodput_per_s / one.sustained_per_s}

    def enter(path: str, value: object) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                enter(f"{path}.{name}" if path else name, inner)
        else:
            numbers[path] = float(str(value))

    enter("", msgspec.to_builtins(one))
    return numbers


def main(arguments: Sequence[str]) -> None:
    """Measure only the overload."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description="Measure an overload.")
    parser.add_argument("--quick", action="store_true", help="shorter phases")
    numbered = {str(number): case for number, case in enumerate(CASES, 1)}
    cases_help = "; ".join(f"{number}: {case.title}" for number, case in numbered.items())
    parser.add_argument("--cases", default=",".join(numbered), help=cases_help)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one-worker", action="store_true", help="all lanes in one worker process")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the run, which has the logs")
    chosen = parser.parse_args(arguments)
    cases = chosen.cases.split(",")
    if unknown := set(cases) - set(numbered):
        parser.error(f"no such case: {', '.join(sorted(unknown))} ({cases_help})")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="tidings-bench-"))
    folder.chmod(0o755)  # PostgreSQL's own user must be able to enter
    measured: list[Overload] = []
    try:
        with ExitStack() as stack:
            vendor = Vendor(folder, 0.0)
            stack.callback(vendor.stop)
            postgres = Postgres(folder / "postgres")
            stack.callback(postgres.stop)
            system = Tidings("tidings", folder / "system", postgres, vendor.port)
            stack.callback(system.close)
            trial = Trial(folder, system, vendor, by_urgency=not chosen.one_worker)
            for _ in range(chosen.rounds):
                for number in cases:
                    measured.append(trial.measure(numbered[number], QUICK if chosen.quick else FULL))
                    print(table(measured[-1:]), flush=True)
    finally:
        if chosen.keep:
            print(f"the logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if chosen.rounds > 1:
        print(f"medians of {chosen.rounds} rounds\n{table(measured)}")


if __name__ == "__main__":
    main(sys.argv[1:])
