"""`tidings demo`: a shop with 50,000 people in twenty countries, and a day of its orders."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tidings.cli.client import Api
from tidings.cli.first_start import sent_for_real
from tidings.cli.folder import DataFolder, Running
from tidings.cli.hints import command_name
from tidings.cli.options import DataDir, SettingsFile, settings_from
from tidings.cli.plain import CannotGoOn, command_line, say, step
from tidings.cli.shop.account import account, show
from tidings.cli.shop.day import MINUTES, plan
from tidings.cli.shop.people import Person, people
from tidings.cli.shop.play import Shop, shop
from tidings.cli.shop.publish import declare_categories, publish
from tidings.cli.shop.templates import TEMPLATES
from tidings.cli.tenants import new_key, now, opened
from tidings.model.tenant import Scope, Tenant

app = command_line()

_PEOPLE_AT_ONCE = 1_000
_START_WITHIN_S = 120.0
_REST_WITHIN_S = 180.0
"""How long the demo waits, after the day, until all deliveries rest."""


@app.command()
def demo(
    users: Annotated[int, typer.Option(min=10, help="How many people the shop has.")] = 50_000,
    orders: Annotated[int, typer.Option(min=1, help="How many orders are placed in the day.")] = 12_000,
    seconds: Annotated[float, typer.Option(min=0, help="How many seconds the day takes, at least.")] = 120.0,
    seed: Annotated[int, typer.Option(help="The same number gives the same people and orders.")] = 1,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Play a day of a shop with 50,000 people.

    Its people, templates and orders go through the API; then it prints the account of the day. It uses the running
    `tidings up`, or starts one for the time of the demo. The exit code is 1 if the sums do not close.
    """
    settings = settings_from(settings_file, data_dir)
    folder = DataFolder(settings.data_dir)
    already_running = folder.running()
    refuse_for_real(already_running.real if already_running else sent_for_real(settings))
    next(people(1, seed))  # raises CannotGoOn now, before anything starts, if the name generator is missing
    with _running(folder, settings_file) as running:
        faults = asyncio.run(_demo(running, users, orders, seconds, seed))
    after = folder.running()
    if after is not None and after.sandbox_url:
        say(f"\nWhat arrived last: {after.sandbox_url}")
    if faults:
        sys.exit(1)


def refuse_for_real(real: Sequence[str]) -> None:
    """Raises CannotGoOn if a channel is sent for real: some of the invented phone numbers belong to people."""
    if real:
        raise CannotGoOn(
            f"the demo needs the sandbox, but these channels are sent for real: {', '.join(real)}. It would write to "
            "thousands of invented addresses. Run it in a folder without that settings file, with a data folder of "
            f"its own: {command_name()} demo --data-dir demo-data"
        )


async def _demo(running: Running, users: int, orders: int, seconds: float, seed: int) -> list[str]:
    console = Console()
    run = f"shop-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    async with opened(running.dsn) as tenants:
        await tenants.add(Tenant(run, "The demo's shop", now()))
        key = await new_key(tenants, run, tuple(Scope), "made by tidings demo")
    say(f"The shop is the tenant {run}; its API key:\n  {key}")
    with step(f"Templates: {len(TEMPLATES)} in {len(TEMPLATES[0].contents())} languages"):
        await asyncio.to_thread(_prepare, running.api_url, key)
    async with shop(running.api_url, key, run) as client:
        with _progress(console) as progress:
            customers = await _welcome(client, users, seed, progress)
            events = await asyncio.to_thread(plan, customers, orders, seed, datetime.now(UTC).date())
            bar = progress.add_task("the day, 00:00", total=len(events))

            def passed(minute: int, sent: int) -> None:
                shown = f"the day, {minute // 60 % 24:02}:{minute % 60:02}" if minute < MINUTES else "the day is over"
                progress.update(bar, advance=sent, description=shown)

            began = time.monotonic()
            await client.play(events, seconds, passed)
            took = time.monotonic() - began
            rest = progress.add_task("until all rest", total=len(events))
            end = await client.rest(
                lambda moving: progress.update(rest, completed=max(0, len(events) - moving)), _REST_WITHIN_S
            )
            sample = await client.sample(seed)
        books = client.books
    rate = books.accepted.total() / max(took, 0.001)
    say(f"The day took {took:.0f} s: {rate:,.0f} notifications a second on average.\n")
    result = account(books, end.tally, end.waits)
    show(console, result, books, sample, end.waits)
    return result.faults


async def _welcome(client: Shop, count: int, seed: int, progress: Progress) -> Sequence[Person]:
    bar = progress.add_task("people", total=count)
    welcomed: list[Person] = []
    generated = people(count, seed)
    while len(welcomed) < count:
        page = await asyncio.to_thread(_take, generated, min(_PEOPLE_AT_ONCE, count - len(welcomed)))
        await client.welcome(page)
        welcomed += page
        progress.update(bar, advance=len(page))
    return welcomed


def _take(generated: Iterator[Person], count: int) -> list[Person]:
    return [next(generated) for _ in range(count)]


def _prepare(url: str, key: str) -> None:
    with Api(url, key) as api:
        declare_categories(api)
        publish(api, TEMPLATES)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console,
    )  # fmt: skip


@contextmanager
def _running(folder: DataFolder, settings_file: Path | None) -> Iterator[Running]:
    """The `tidings up` that runs on the folder; if none does, one that runs for as long as the context lasts."""
    already_running = folder.running()
    if already_running is not None:
        yield already_running
        return
    folder.prepare()
    log = folder.logs / "up.log"
    command = [sys.executable, "-m", "tidings.cli", "up", "--port", "0", "--data-dir", str(folder.path), "--supervised"]
    command += ["--settings", str(settings_file)] if settings_file else []
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
        )
    try:
        with step("Nothing runs yet: tidings up"):
            running = _wait(folder, process, log)
        yield running
    finally:
        process.terminate()
        process.wait()


def _wait(folder: DataFolder, process: subprocess.Popen[bytes], log: Path) -> Running:
    deadline = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CannotGoOn(f"`tidings up` did not start:\n{log.read_text(errors='replace')}")
        # The greeting is the last thing that `up` prints when it is ready.
        if "Tidings is up" in log.read_text(errors="replace"):
            running = folder.running()
            if running is not None:
                return running
        time.sleep(0.1)
    raise CannotGoOn(f"`tidings up` was not ready after {_START_WITHIN_S:.0f} s; its output: {log}", 1)
