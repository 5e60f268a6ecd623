"""Three times what can be done is offered: what still gets through, how fast, and what is turned away.

`python -m bench.overload` measures this alone and prints its part of the report.
"""

from __future__ import annotations

import argparse
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
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import BinaryIO, Self

import msgspec
from msgspec import Struct

from bench import processes, workload
from bench.load import Load, Loaded, percentile
from bench.measure import Vendor, Wrong
from bench.postgres import Postgres
from bench.processes import eventually
from bench.servers import python
from bench.system import WITHOUT_BOUND, Tidings
from tidings.model.vocabulary import Priority

TIMES = 3.0
"""What is offered, as a multiple of what can be done."""
CALM = 0.5
BACKLOG_SECONDS = 5.0
"""The backlog that is allowed, in seconds of what can be done: less than is advised, so that the run stays short."""
TURNS = [Priority.CRITICAL if turn == 7 else Priority.NORMAL if turn % 2 else Priority.BULK for turn in range(20)]
"""The lane of each of 20 requests: 5 % critical, 45 % normal, 50 % bulk."""
ITEM = workload.SINGLE.item[:-1] + ',"priority":"@turn@"}'
ACCEPTED, REFUSED = 202, 503
PHASES = ("calm", "loaded", "after")
WARM_UP = 2_000
_CONNECTIONS = 64
_ANSWER_WITHIN = 120.0
_DRAIN_WITHIN = 120.0


class Spans(Struct, frozen=True):
    """How long each phase is, in seconds, and how many notifications find out what can be done."""

    sustained: int
    calm: float
    lead: float
    window: float


QUICK = Spans(sustained=10_000, calm=4.0, lead=6.0, window=6.0)
FULL = Spans(sustained=24_000, calm=8.0, lead=8.0, window=20.0)


class Case(Struct, frozen=True):
    """`batch` notifications in each request (0: one, unwrapped); `granted`: sends a second that the vendor grants.

    Without `granted` (0) the machine is the bound, and generator, vendor and refusals take their part of it.
    """

    batch: int
    granted: float = 0.0

    @property
    def title(self) -> str:
        """For people."""
        title = f"{self.batch or 'one'} in each request"
        return title + f", the vendor grants {self.granted:.0f}/s" if self.granted else title


CASES = (Case(20), Case(0), Case(0, granted=1_000.0))


class Latency(Struct, frozen=True):
    """From the instant at which a request was due until its notifications were at the vendor, in milliseconds."""

    p50: float
    p99: float


class Overload(Struct, frozen=True, kw_only=True):
    """One measurement. Rates are notifications a second; times are seconds.

    `sustained` is what can be done, `goodput` what arrived at the vendor while `offered` was offered; `sustained_us`
    and `goodput_us` are the CPU of the system for each of them. `refused` is the share of each lane that was turned
    away. `calm`, `loaded` and `after` are latencies by lane: at half of what can be done, during the overload, and when
    it is over; `answers` those of all HTTP answers during the overload. `memory` is the most of each part in MB,
    `growth` how much of it was added during the window; `cores` is the CPU that each used.
    """

    case: Case
    sustained: float
    offered: float
    goodput: float
    sustained_us: float
    goodput_us: float
    refused: dict[str, float]
    calm: dict[str, Latency]
    loaded: dict[str, Latency]
    after: dict[str, Latency]
    answers: Latency
    bulk_again: float
    drained: float
    memory: dict[str, float]
    growth: dict[str, float]
    cores: dict[str, float]


class _Offering(Struct, frozen=True):
    """The generator at work."""

    load: Load
    process: subprocess.Popen[bytes]
    log: BinaryIO


class _Run(Struct, frozen=True):
    """What came of it, for each index: its lane, when it was due, whether it was taken, when it arrived."""

    loaded: Loaded
    lanes: list[Priority]
    due: array[int]
    taken: list[bool]
    arrived: list[int]

    def latency(self, lane: Priority, begin: int = 0) -> Latency:
        """Of what was taken and was due from `begin` (ns) on."""
        waits = sorted(
            (came - due) / 1e6
            for of, due, taken, came in zip(self.lanes, self.due, self.taken, self.arrived, strict=True)
            if of is lane and taken and due >= begin
        )
        return Latency(percentile(waits, 0.5), percentile(waits, 0.99))

    def refused(self, begin: int) -> dict[str, float]:
        """The share of each lane that was turned away, of what was due from `begin` (ns) on."""
        offered, refused = Counter[Priority](), Counter[Priority]()
        for lane, due, taken in zip(self.lanes, self.due, self.taken, strict=True):
            if due >= begin:
                offered[lane] += 1
                refused[lane] += not taken
        return {lane.value: refused[lane] / max(1, offered[lane]) for lane in Priority}


class Trial:
    """Measures one system, which nothing else uses meanwhile."""

    def __init__(self, folder: Path, system: Tidings, vendor: Vendor, *, by_urgency: bool = True) -> None:
        self._by_urgency = by_urgency
        self._folder = folder
        self._system = system
        self._vendor = vendor
        self._next = 1

    def measure(self, case: Case, spans: Spans) -> Overload:
        """Offer three times what can be done. A vendor's rate is kept by each worker, so with one there is one."""
        system, batch = self._system, case.batch
        system.start_workers(together=not self._by_urgency or bool(case.granted), granted=case.granted)
        try:
            self._run(batch, WARM_UP)
            before = processes.cpu_us(system.roots())
            most = self._run(batch, spans.sustained)
            used = sum(processes.cpu_us(system.roots()).values()) - sum(before.values())
            taken = sum(most.taken)
            sustained = taken / ((max(most.arrived) - most.due[0]) / 1e9)
            system.restart_api(backlog=int(sustained * BACKLOG_SECONDS))
            self._run(batch, WARM_UP)
            calm = self._run(batch, int(sustained * CALM * spans.calm), sustained * CALM)
            offering = self._start(batch, int(sustained * TIMES * (spans.lead + spans.window)), sustained * TIMES)
            with _Watch(system, {"vendor": self._vendor.pid, "generator": offering.process.pid}) as watch:
                offering.process.wait(_ANSWER_WITHIN)
                let_in = self._await_bulk()
                run = self._end(offering, besides=1)
            after = self._run(batch, int(sustained * CALM * spans.calm), sustained * CALM)
        finally:
            system.stop_workers()
            system.restart_api(backlog=WITHOUT_BOUND)
        begin = run.due[0] + int(spans.lead * 1e9)
        end = begin + int(spans.window * 1e9)
        goodput = sum(begin <= came < end for came in run.arrived) / spans.window
        cores = watch.cores(begin, end)
        return Overload(
            case=case,
            sustained=sustained,
            offered=sustained * TIMES,
            goodput=goodput,
            sustained_us=used / taken,
            goodput_us=sum(cores[part] for part in system.roots()) * 1e6 / goodput,
            refused=run.refused(begin),
            calm={lane.value: calm.latency(lane) for lane in Priority},
            loaded={lane.value: run.latency(lane, begin) for lane in Priority},
            after={lane.value: after.latency(lane) for lane in Priority},
            answers=Latency(run.loaded.p50, run.loaded.p99),
            bulk_again=(let_in - run.due[-1]) / 1e9,
            drained=(max(run.arrived) - run.due[-1]) / 1e9,
            memory=watch.most(begin, end),
            growth=watch.growth(begin, end),
            cores=cores,
        )

    def _run(self, batch: int, count: int, rate: float = 0.0) -> _Run:
        return self._end(self._start(batch, count, rate))

    def _start(self, batch: int, count: int, rate: float) -> _Offering:
        """Start the generator; `rate` 0: closed loop."""
        self._vendor.reset()
        whole = (batch or 1) * len(TURNS)
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
            connections=_CONNECTIONS if rate or not batch else 8,
            rate=rate,
            instants=str(self._folder / "instants"),
            turns=[lane.value for lane in TURNS],
            statuses=str(self._folder / "statuses"),
        )
        self._next += load.count
        log = (self._folder / "load.log").open("w+b")
        process = subprocess.Popen(python("bench.load"), stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(load))
        process.stdin.close()
        return _Offering(load, process, log)

    def _end(self, offering: _Offering, besides: int = 0) -> _Run:
        """Wait until everything that was taken has arrived; `besides` it, so many more were sent."""
        load = offering.load
        status = offering.process.wait(_ANSWER_WITHIN)
        offering.log.seek(0)
        said = offering.log.read()
        offering.log.close()
        if status:
            raise Wrong(f"the load generator failed: {said.decode(errors='replace')[-2000:]}")
        loaded = msgspec.json.decode(said, type=Loaded)
        statuses = array("q", Path(load.statuses).read_bytes())
        if unknown := set(statuses) - {ACCEPTED, REFUSED}:
            raise Wrong(f"answers {unknown}, the first refusal: {loaded.first_refusal}")
        per_request = load.batch or 1
        taken = [status == ACCEPTED for status in statuses for _ in range(per_request)]
        expected = sum(taken) + besides
        eventually(lambda: self._vendor.count().arrivals >= expected, _DRAIN_WITHIN, f"{expected} arrivals")
        processes.settle(self._system.roots(), _DRAIN_WITHIN)
        arrived = self._vendor.arrivals(load.first, load.count)
        counted = self._vendor.count()
        if (
            counted.repeated
            or counted.arrivals != expected
            or any(bool(came) != let_in for came, let_in in zip(arrived, taken, strict=True))
        ):
            raise Wrong(f"{expected} were accepted; {counted.arrivals} arrived, {counted.repeated} of them twice")
        lanes = [TURNS[number % len(TURNS)] for number in range(len(statuses)) for _ in range(per_request)]
        return _Run(loaded, lanes, array("q", Path(load.instants).read_bytes()), taken, arrived)

    def _await_bulk(self) -> int:
        """When bulk is let in again (wall clock, ns)."""
        body = (
            ITEM.replace("@turn@", Priority.BULK.value).replace("@user@", "user-1").replace("@index@", str(self._next))
        )
        self._next += 1
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._system.port}/v1/notifications",
            body.encode(),
            {**self._system.headers, "content-type": "application/json"},
        )

        def is_taken() -> bool:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return bool(answer.status == ACCEPTED)
            except urllib.error.HTTPError as error:
                if error.code != REFUSED:
                    raise
                return False

        eventually(is_taken, _DRAIN_WITHIN, "bulk to be let in again", pause=0.1)
        return time.time_ns()


class _Look(Struct, frozen=True):
    at: int
    memory: dict[str, float]
    cpu: dict[str, float]


class _Watch:
    """Looks once a second at the memory of the system's processes, and at the CPU that they and the others used."""

    def __init__(self, system: Tidings, beside: Mapping[str, int]) -> None:
        self._roots = system.roots()
        self._beside = dict(beside)
        self._seen: list[_Look] = []
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._looking.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._looking.join()

    def most(self, begin: int, end: int) -> dict[str, float]:
        """The most memory of each part between two instants (ns), in MB."""
        looks = self._between(begin, end)
        return {part: max(look.memory[part] for look in looks) for part in self._roots}

    def growth(self, begin: int, end: int) -> dict[str, float]:
        """How much more memory it was in the last quarter than in the first, by their medians, in MB."""
        looks = self._between(begin, end)
        quarter = max(1, len(looks) // 4)
        return {
            part: median(look.memory[part] for look in looks[-quarter:])
            - median(look.memory[part] for look in looks[:quarter])
            for part in self._roots
        }

    def cores(self, begin: int, end: int) -> dict[str, float]:
        """How many cores each part used, and `others` everything else on the machine."""
        first, *_, last = self._between(begin, end)
        span = (last.at - first.at) / 1e9
        return {part: (last.cpu[part] - first.cpu[part]) / span for part in last.cpu}

    def _between(self, begin: int, end: int) -> list[_Look]:
        return [look for look in self._seen if begin <= look.at < end]

    def _look(self) -> None:
        while not self._over.wait(1.0):
            memory = {part: size / 1e6 for part, size in processes.memory_bytes(self._roots).items()}
            try:
                used = processes.cpu_us(self._roots | self._beside)
            except processes.ProcessGone:
                return  # the generator has offered everything
            cpu = {part: microseconds / 1e6 for part, microseconds in used.items()}
            cpu["others"] = processes.machine_us() / 1e6 - sum(cpu.values())
            self._seen.append(_Look(time.time_ns(), memory, cpu))


def table(found: Sequence[Overload]) -> str:
    """The medians over the rounds as lines of the report."""
    lines = [f"{TIMES:g} times what can be done is offered:"]
    for case in dict.fromkeys(one.case for one in found):
        lines += _lines([_flat(one) for one in found if one.case == case], case.title)
    return "\n".join(lines)


def _lines(rounds: Sequence[dict[str, float]], title: str) -> list[str]:
    middle = {name: median(one[name] for one in rounds) for name in rounds[0]}
    can, offered, arrive = middle["sustained"], middle["offered"], middle["goodput"]
    lines = [
        f"  {title}: {can:.0f}/s can be done, {offered:.0f}/s offered, {arrive:.0f}/s arrive ({middle['share']:.0%})",
        f"    {'':<9}{'refused':>9}" + "".join(f"{phase + ' p50':>13}{'p99':>7}" for phase in PHASES) + " ms",
    ]
    for lane in Priority:
        cells = "".join(
            f"{middle[f'{phase}.{lane}.p50']:>13.0f}{middle[f'{phase}.{lane}.p99']:>7.0f}" for phase in PHASES
        )
        lines.append(f"    {lane:<9}{middle[f'refused.{lane}']:>9.0%}{cells}")
    parts = [name.removeprefix("memory.") for name in middle if name.startswith("memory.")]
    memory = ", ".join(f"{part} {middle[f'memory.{part}']:.0f} MB ({middle[f'growth.{part}']:+.0f})" for part in parts)
    answers = f"p50 {middle['answers.p50']:.1f} ms, p99 {middle['answers.p99']:.1f}"
    again, drained = middle["bulk_again"], middle["drained"]
    lines.append(f"    answers {answers}; bulk let in again after {again:.1f} s, all arrived after {drained:.1f} s")
    lines.append(f"    memory at most (and growth in the window): {memory}")
    cores = ", ".join(f"{name[6:]} {used:.2f}" for name, used in middle.items() if name.startswith("cores."))
    lines.append(f"    cores used: {cores}")
    each = f"{middle['goodput_us']:.0f} µs, {middle['sustained_us']:.0f} when nothing is turned away"
    lines.append(f"    CPU for each that arrives: {each}")
    return lines


def _flat(one: Overload) -> dict[str, float]:
    """All numbers, by their path."""
    found = {"share": one.goodput / one.sustained}

    def enter(path: str, value: object) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                enter(f"{path}.{name}" if path else name, inner)
        else:
            found[path] = float(str(value))

    enter("", msgspec.to_builtins(one))
    return found


def main(arguments: Sequence[str]) -> None:
    """Measure the overload alone."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description="What gets through an overload.")
    parser.add_argument("--quick", action="store_true", help="shorter phases")
    numbered = {str(number): case for number, case in enumerate(CASES, 1)}
    told = "; ".join(f"{number}: {case.title}" for number, case in numbered.items())
    parser.add_argument("--cases", default=",".join(numbered), help=told)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one-worker", action="store_true", help="all lanes in one worker process")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder, with the logs")
    chosen = parser.parse_args(arguments)
    cases = chosen.cases.split(",")
    if unknown := set(cases) - set(numbered):
        parser.error(f"no such case: {', '.join(sorted(unknown))} ({told})")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="tidings-bench-"))
    folder.chmod(0o755)  # PostgreSQL's own user must be able to pass
    found: list[Overload] = []
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
                    found.append(trial.measure(numbered[number], QUICK if chosen.quick else FULL))
                    print(table(found[-1:]), flush=True)
    finally:
        if chosen.keep:
            print(f"the logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if chosen.rounds > 1:
        print(f"medians of {chosen.rounds} rounds\n{table(found)}")


if __name__ == "__main__":
    main(sys.argv[1:])
