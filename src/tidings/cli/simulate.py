"""`tidings simulate`: runs the whole system in virtual time, with faults that a seed determines."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from tidings.cli.hints import command
from tidings.cli.options import AsJson, SettingsFile, print_json, settings_from
from tidings.cli.plain import command_line, say
from tidings.sections import Delivering
from tidings.simulation.observers import Rule
from tidings.simulation.run import Report, simulate
from tidings.simulation.seeds import simulate_seeds

app = command_line()

_MOST_SHOWN = 5
_PROGRESS_EVERY_S = 5.0


@app.command(name="simulate")
def run_seeds(
    seed: Annotated[int | None, typer.Option("--seed", help="Run only this seed.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds to run.")] = 200,
    first: Annotated[int, typer.Option("--from", metavar="SEED", help="The first seed.")] = 1,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Run seeds for so many minutes, instead of --seeds.")
    ] = None,
    cores: Annotated[int | None, typer.Option("--cores", min=1, help="How many processes [one for each core].")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="With --seed: print everything that happens.")] = False,
    as_json: AsJson = False,
    settings_file: SettingsFile = None,
) -> None:
    """Search for unknown bugs, in virtual time.

    Each seed determines a small day of notifications and its faults: processes that are killed at any point, lost
    answers, providers that hang, lie and throttle, clocks that jump, people who change their minds. The simulation then
    checks from outside that nothing was lost, doubled or sent against a wish. A seed does the same in every run.

    With --settings all seeds use the section [deliver] of that file. The exit code is 1 if a rule was broken; the last
    line is then the command that runs that seed again.
    """
    delivering = None if settings_file is None else settings_from(settings_file, None).deliver
    if seed is not None:
        report = simulate(seed, delivering, traced=trace)
        for line in () if as_json else report.trace:
            say(line)
        _conclude([report], as_json=as_json)
        return
    count, seconds = (seeds, None) if minutes is None else (None, minutes * 60)
    reports = _watched(first, count, seconds, cores or os.cpu_count() or 1, delivering, quiet=as_json)
    _conclude(reports, as_json=as_json)


def _watched(
    first: int, count: int | None, seconds: float | None, cores: int, delivering: Delivering | None, *, quiet: bool
) -> list[Report]:
    """Run the seeds, and print the progress now and then."""
    reports: list[Report] = []
    printed_at = time.monotonic()
    for report in simulate_seeds(first, count, delivering, cores=cores, seconds=seconds):
        reports.append(report)
        if not quiet and time.monotonic() - printed_at > _PROGRESS_EVERY_S:
            printed_at = time.monotonic()
            broken = sum(bool(report.violations) for report in reports)
            say(f"  {len(reports)} seeds{'' if count is None else f' of {count}'}, {broken} of them broke a rule")
    return reports


def _conclude(reports: list[Report], *, as_json: bool) -> None:
    """Print the results. Ends the command with exit code 1 if a rule was broken."""
    broken = [report for report in reports if report.violations]
    if as_json:
        print_json(_as_json(reports))
        if broken:
            sys.exit(1)
        return
    for report in broken[:_MOST_SHOWN]:
        say(f"seed {report.seed} broke a rule:")
        for violation in report.violations[:_MOST_SHOWN]:
            say(f"  {violation}")
    say(_summary(reports))
    limited = [report for report in reports if report.limits]
    if limited:
        say(f"{len(limited)} of them met a known limit (docs/reliability.md); the first is seed {limited[0].seed}:")
        say(f"  {limited[0].limits[0]}")
    if not broken:
        say("Every rule was kept.")
        return
    for rule, times in _rules(broken).most_common():
        say(f"  {times} seeds did not keep: {rule.value}")
    say("This command runs the first of them again; --trace prints everything that happens:")
    say(command(f"simulate --seed {broken[0].seed}"))
    sys.exit(1)


def _as_json(reports: list[Report]) -> dict[str, Any]:
    broken = {
        report.seed: [str(violation) for violation in report.violations] for report in reports if report.violations
    }
    return {
        "seeds": len(reports),
        "notifications": sum(report.notifications for report in reports),
        "calls": sum(report.calls for report in reports),
        "virtual_s": sum(report.seconds for report in reports),
        "broken": broken,
        "known_limits": {report.seed: list(report.limits) for report in reports if report.limits},
    }


def _summary(reports: list[Report]) -> str:
    notifications = sum(report.notifications for report in reports)
    calls = sum(report.calls for report in reports)
    days = sum(report.seconds for report in reports) / 86_400
    return (
        f"{len(reports)} seeds: {notifications} notifications, {calls} deliveries offered to providers, "
        f"{days:.1f} days of virtual time"
    )


def _rules(broken: Iterable[Report]) -> Counter[Rule]:
    return Counter(rule for report in broken for rule in {violation.rule for violation in report.violations})
