"""`tidings providers`: the kinds of providers, the channels that they serve, and the effects of vendors' answers."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import Annotated

import typer

from tidings.channels.errors import Table, markdown, tables
from tidings.channels.registry import kind_of, providers
from tidings.cli.options import AsJson, DataDir, SettingsFile, print_json, settings_from
from tidings.cli.plain import CannotGoOn, command_line, say
from tidings.config import Settings
from tidings.model.errors import SettingsError
from tidings.model.vocabulary import Channel

app = command_line(
    help="List the providers, or the effects of their answers.",
    invoke_without_command=True,
    no_args_is_help=False,
)

_NARROWEST, _WIDEST = 60, 140
_MEANING = 1


@app.callback()
def list_(
    context: typer.Context, as_json: AsJson = False, settings_file: SettingsFile = None, data_dir: DataDir = None
) -> None:
    """List all kinds of providers, and the providers of your channels.

    `tidings providers errors NAME` shows the effect of each answer and each event of one provider.
    """
    if context.invoked_subcommand is not None:
        return
    about = {
        kind: " ".join((provider.__doc__ or "").strip().split("\n\n")[0].split())
        for kind, provider in providers().items()
    }
    if as_json:
        settings = settings_from(settings_file, data_dir)
        kinds = [
            {"kind": kind, "channel": provider.channel, "about": about[kind]} for kind, provider in providers().items()
        ]
        print_json({"kinds": kinds, "channels": settings.channels, "sandbox": settings.uses_sandbox})
        return
    for kind, provider in providers().items():
        say(f"{kind:<10} {provider.channel.value:<6} {about[kind]}")
    say()
    for line in _serving(settings_from(settings_file, data_dir)):
        say(line)


@app.command()
def errors(
    name: Annotated[str | None, typer.Argument(help="A kind of provider, or one of your providers [all].")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as in the documentation.")] = False,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Show the effect of each error code and each event of a vendor.

    It shows what is tried again and when, what goes to another provider, and what suppresses the address.
    """
    chosen = providers()
    if name is not None:
        section = settings_from(settings_file, data_dir).providers.get(name, {})
        provider = kind_of(name, section)
        chosen = {provider.kind: provider}
    if as_markdown:
        say(markdown(chosen).rstrip("\n"))
        return
    tables_by_kind = {kind: found for kind, provider in chosen.items() if (found := list(tables(provider)))}
    if not tables_by_kind:
        raise CannotGoOn(f"{name} has no vendor, and no error codes")
    width = min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST)
    for kind, kind_tables in tables_by_kind.items():
        say(f"{kind}: {chosen[kind].ERRORS_PAGE}")
        for table in kind_tables:
            say()
            for line in _lines(table, width):
                say(line)
        say()


def _serving(settings: Settings) -> list[str]:
    lines = []
    for channel in Channel:
        names = settings.channels.get(channel, {})
        has_weights = sum(weight > 0 for weight in names.values()) > 1
        if not names:
            lines.append(f"{channel.value:<6} {_without_names(settings, channel)}")
        for name in names:
            try:
                kind = kind_of(name, settings.providers.get(name, {})).kind
            except SettingsError as error:
                raise CannotGoOn(f"channels.{channel.value}: {error}") from error
            rate = settings.providers.get(name, {}).get("rate")
            details = "" if kind == name else f" ({kind})"
            details += f", weight {names[name]}" if has_weights else ""
            details += "" if rate is None else f", {rate} a second"
            lines.append(f"{channel.value:<6} by {name}{details}")
    return lines


def _without_names(settings: Settings, channel: Channel) -> str:
    if channel in settings.channels:
        return "is off"
    if channel is Channel.INAPP:
        return "by the inbox"
    return "by the sandbox" if settings.uses_sandbox else "is not configured"


def _lines(table: Table, width: int) -> list[str]:
    """The table with aligned columns. The meanings are wrapped into the width that the other columns leave."""
    rows = [table.header, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    others = sum(widths) - widths[_MEANING] + 2 * (len(widths) - 1)
    widths[_MEANING] = min(widths[_MEANING], max(24, width - others))
    return [line for row in rows for line in _row(row, widths)]


def _row(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *more = textwrap.wrap(row[_MEANING], widths[_MEANING]) or [""]
    cells = [*row[:_MEANING], first, *row[_MEANING + 1 :]]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True)).rstrip()]
    return lines + [" " * (widths[0] + 2) + line for line in more]
