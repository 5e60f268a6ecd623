"""`python -m bench`: measure Tidings and the peer in turn, print a table, and write all figures to a JSON file."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

import msgspec

from bench import kafka, overload, report, rows, smtp
from bench.measure import Bench, System, Vendor
from bench.peer.system import Peer
from bench.postgres import Postgres
from bench.queue_alone import QueueRun
from bench.servers import ROOT
from bench.system import Tidings

RESULTS = ROOT / "bench" / "results"
SYSTEMS = ("tidings", "tidings+kafka", "peer")


def main(arguments: Sequence[str]) -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure CPU, rates and latencies of Tidings and a peer."
    )
    parser.add_argument("--quick", action="store_true", help="one short round of 5 minutes, with rough figures")
    parser.add_argument("--rounds", type=int, help="the number of rounds")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help=f"comma-separated, from: {', '.join(SYSTEMS)}")
    parser.add_argument(
        "--vendor-delay", type=float, default=0.0, metavar="MS", help="the vendors answer after MS milliseconds"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder of the run, which has the logs")
    chosen = parser.parse_args(arguments)
    systems = [name.strip() for name in chosen.systems.split(",")]
    if unknown := set(systems) - set(SYSTEMS):
        parser.error(f"no such system: {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    if missing := _missing(systems):
        parser.error(f"{', '.join(missing)} not found on the PATH: install it, or leave its system out with --systems")
    sizes = rows.QUICK if chosen.quick else rows.FULL
    if chosen.rounds:
        sizes = msgspec.structs.replace(sizes, rounds=chosen.rounds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="tidings-bench-"))
    folder.chmod(0o755)  # PostgreSQL's own user must be able to enter
    try:
        run(folder, systems, sizes, chosen.vendor_delay, quick=chosen.quick)
    finally:
        if chosen.keep:
            print(f"the logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path, systems: Sequence[str], sizes: rows.Sizes, vendor_delay_ms: float, *, quick: bool) -> None:
    """Measure the systems in `folder`, print the tables and write the JSON file."""
    table, started = rows.Table(), time.time()
    overloads: list[overload.Overload] = []
    with ExitStack() as stack:
        vendor = Vendor(folder, vendor_delay_ms)
        stack.callback(vendor.stop)
        bench = Bench(folder, vendor)
        running: dict[str, System] = {name: _start(name, folder, vendor.port, stack) for name in systems}
        queue_runs = _queue_runs(running, sizes.queue)
        facts = _facts(running, sizes, vendor_delay_ms)
        for name, system in running.items():
            _say(f"warming up {name}")
            rows.warm_up(bench, system)
        for number in range(sizes.rounds):
            # Each round begins with another system, so that no system always comes first.
            order = list(running)[number % len(running) :] + list(running)[: number % len(running)]
            for name in order:
                _say(f"round {number + 1} of {sizes.rounds}: {name}")
                for row, figure in rows.measure(bench, running[name], sizes, peer=name == "peer", first=number == 0):
                    table.add(row, name, figure)
                if name in queue_runs:
                    queue_run, servers = queue_runs[name]
                    for row, figure in rows.queue_alone(queue_run, servers):
                        table.add(row, name, figure)
                if isinstance(system := running[name], Tidings) and system.kafka is None:
                    for row, security in _smtp_rows().items():
                        _say(f"round {number + 1} of {sizes.rounds}: {name}, {row}")
                        table.add(row, name, smtp.measure(security, sizes.batched // 2 // 500 * 500))
                    trial = overload.Trial(folder, system, vendor)
                    for case in overload.CASES:
                        _say(f"round {number + 1} of {sizes.rounds}: {name}, overload, {case.title}")
                        overloads.append(trial.measure(case, overload.QUICK if quick else overload.FULL))
    medians = table.medians()
    print(report.table(medians, facts))
    if overloads:
        print(overload.table(overloads))
    path = report.write(RESULTS, facts, medians, table.figures, overloads, time.time() - started)
    print(f"written to {path}")


def _start(name: str, folder: Path, vendor_port: int, stack: ExitStack) -> System:
    _say(f"starting {name}")
    own = folder / name
    own.mkdir()
    postgres = Postgres(own / "postgres")
    stack.callback(postgres.stop)
    system: Peer | Tidings
    if name == "peer":
        system = Peer(own / "system", postgres, vendor_port)
    elif name == "tidings+kafka":
        broker = kafka.broker(own / "kafka")
        stack.callback(broker.stop)
        system = Tidings(name, own / "system", postgres, vendor_port, broker)
    else:
        system = Tidings(name, own / "system", postgres, vendor_port)
    stack.callback(system.close)
    return system


def _smtp_rows() -> dict[str, str]:
    missing = smtp.missing()
    if missing:
        _say(f"without the SMTP rows: {', '.join(missing)} not found; `sh .ci/smtp-sink` brings them on Debian")
    return {} if missing else smtp.ROWS


def _queue_runs(running: dict[str, System], count: int) -> dict[str, tuple[QueueRun, dict[str, int]]]:
    """For each Tidings system: the measurement of its queue alone, and the servers whose CPU counts."""
    found: dict[str, tuple[QueueRun, dict[str, int]]] = {}
    for name, system in running.items():
        if isinstance(system, Tidings):
            if system.kafka is not None:
                found[name] = QueueRun("kafka", system.kafka.bootstrap, count), {"kafka": system.kafka.pid}
            else:
                found[name] = QueueRun("postgres", system.dsn, count), {"postgres": system.postgres.pid}
    return found


def _facts(running: dict[str, System], sizes: rows.Sizes, vendor_delay_ms: float) -> dict[str, str]:
    postgres = next((system.postgres for system in running.values() if isinstance(system, Tidings | Peer)), None)
    libraries = ("fastapi", "celery", "sqlalchemy", "psycopg", "redis", "requests", "uvicorn", "asyncpg")
    return {
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "python": platform.python_version(),
        "postgres": postgres.version() if postgres else "",
        "rounds": str(sizes.rounds),
        "vendor delay ms": f"{vendor_delay_ms:g}",
        "rate of the paced row": f"{sizes.paced_rate_per_s:g}/s",
        "libraries": ", ".join(f"{name} {metadata.version(name)}" for name in libraries),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _missing(systems: Sequence[str]) -> list[str]:
    needed = {"peer": ["redis-server"], "tidings+kafka": ["java"]}
    return [program for name in systems for program in needed.get(name, []) if shutil.which(program) is None]


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
