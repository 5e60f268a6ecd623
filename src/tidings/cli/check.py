"""`tidings check`: are the settings valid, and do the providers, PostgreSQL and Kafka that they name answer?"""

from __future__ import annotations

import asyncio
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import asyncpg
import typer
from msgspec import Struct

from tidings.backends.kafka.connecting import answering
from tidings.backends.memory.clock import SystemClock
from tidings.backends.postgres.binaries import available, choose
from tidings.channels.registry import build, kind_of, names_an_account
from tidings.channels.tools import Tools
from tidings.cli.folder import DataFolder
from tidings.cli.hints import as_called
from tidings.cli.options import AsJson, DataDir, SettingsFile, print_json, settings_from
from tidings.cli.plain import command_line
from tidings.config import DEFAULT_FILE, Settings
from tidings.model.errors import SettingsError, TidingsError
from tidings.model.vocabulary import Channel
from tidings.parts import kafka_settings
from tidings.sandbox.stand_ins import STAND_INS

app = command_line()

_WITHIN_S = 15.0
_WIDTH = 80


class Finding(Struct, frozen=True):
    """The result of checking one part."""

    part: str
    fine: bool
    text: str


@app.command()
def check(as_json: AsJson = False, settings_file: SettingsFile = None, data_dir: DataDir = None) -> None:
    """Check the settings, and whether PostgreSQL, Kafka and each provider answer.

    The exit code is 1 if something is wrong.
    """
    settings = settings_from(settings_file, data_dir)
    path = settings_file or Path(DEFAULT_FILE)
    source = f"{path} is valid" if path.exists() else "there is no settings file; the defaults are used"
    findings = [Finding("settings", True, source), *asyncio.run(_check_all(settings))]
    if as_json:
        print_json(findings)
    for finding in () if as_json else findings:
        _print(finding)
    if not all(finding.fine for finding in findings):
        sys.exit(1)


async def _check_all(settings: Settings) -> list[Finding]:
    checks = [_check("PostgreSQL", partial(_postgres, settings))]
    if settings.queue.kind == "kafka":
        checks.append(_check("Kafka", partial(asyncio.to_thread, _kafka, settings)))
    checks += [
        _check(f"{channel.value}: {name}", partial(_provider, settings, channel, name))
        for channel in Channel
        for name in settings.channels.get(channel, ())
    ]
    findings = list(await asyncio.gather(*checks))
    findings += [_without_names(settings, channel) for channel in Channel if not settings.channels.get(channel)]
    return findings + list(_unused(settings))


async def _check(part: str, ask: Callable[[], Awaitable[str]]) -> Finding:
    """The finding about a part; `ask` gives its text, or raises TidingsError if something is wrong."""
    try:
        async with asyncio.timeout(_WITHIN_S):
            return Finding(part, True, await ask())
    except TimeoutError:
        return Finding(
            part, False, f"no answer within {_WITHIN_S:.0f} s; is the address right, and reachable from this machine?"
        )
    except TidingsError as error:
        return Finding(part, False, str(error))


async def _postgres(settings: Settings) -> str:
    dsn, server = settings.database.dsn, settings.database.server
    if dsn is None:
        running = DataFolder(settings.data_dir).running()
        if running is None:
            return f"`tidings up` starts its own: {choose(None, available(server), server).origin}"
        dsn = running.dsn
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise SettingsError(
            f"cannot connect: {str(error) or type(error).__name__}. Check database.dsn: "
            "postgresql://user:password@host:5432/name"
        ) from error
    try:
        return str(await connection.fetchval("SELECT version()")).partition(" on ")[0]
    finally:
        await connection.close()


def _kafka(settings: Settings) -> str:
    brokers = answering(kafka_settings(settings))
    if brokers < settings.queue.replication:
        raise SettingsError(
            f"there are {brokers} brokers, too few for queue.replication = {settings.queue.replication}"
        )
    return f"{brokers} brokers answer"


async def _provider(settings: Settings, channel: Channel, name: str) -> str:
    section = settings.providers.get(name, {})
    serves = kind_of(name, section).channel
    if serves is not channel:
        raise SettingsError(f"it serves {serves.value}; name it under channels.{serves.value}")
    if settings.uses_sandbox and not names_an_account(section):
        why = "names no account" if name in settings.providers else "is not there"
        return f"the section [providers.{name}] {why}, so the sandbox stands in for it"
    provider = build(name, section, Tools(f"{settings.public_url}/v1/receipts", SystemClock(), None))
    try:
        return await provider.check()
    finally:
        await provider.close()


def _without_names(settings: Settings, channel: Channel) -> Finding:
    """What happens to notifications on a channel for which the settings name no provider."""
    if channel in settings.channels:
        return Finding(channel.value, True, "off: its notifications are recorded as suppressed, channel_off")
    if channel is Channel.INAPP:
        return Finding(channel.value, True, "the inbox")
    if settings.uses_sandbox:
        return Finding(channel.value, True, "the sandbox: nothing is sent")
    (name, *_) = STAND_INS[channel]
    return Finding(
        channel.value, True, f'not configured: requests for it are refused. To use it: {channel.value} = ["{name}"]'
    )


def _unused(settings: Settings) -> Iterator[Finding]:
    """Provider sections that no channel names: they are neither checked nor used."""
    named = {name for names in settings.channels.values() for name in names}
    for name, section in settings.providers.items():
        if name in named:
            continue
        part = f"providers.{name}"
        try:
            channel = kind_of(name, section).channel.value
        except SettingsError as error:
            yield Finding(part, False, str(error))
        else:
            yield Finding(part, False, f'is not used: write {channel} = ["{name}"] under [channels]')


def _print(finding: Finding) -> None:
    mark = typer.style("ok   ", fg="green") if finding.fine else typer.style("wrong", fg="red", bold=True)
    start = f"{finding.part:<18} "
    indent = " " * (6 + len(start))
    lines = [
        piece for line in as_called(finding.text).splitlines() for piece in textwrap.wrap(line, _WIDTH - len(indent))
    ] or [""]
    typer.echo(f"{mark} {start}{lines[0]}")
    for line in lines[1:]:
        typer.echo(indent + line)
