"""Prints dead letters and replays, for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from tidings.cli.hints import command
from tidings.cli.tables import Column, print_table
from tidings.cli.times import duration, moment

WIDTH = 80
_COLOURS = {"dead": "red", "failed": "red", "uncertain": "magenta", "running": "cyan", "cancelled": "yellow"}
_LONGEST_ANSWER_CHARS = 300
"""How much of a provider's answer is shown."""


def print_letters(letters: Iterable[Mapping[str, Any]]) -> None:
    """Print each letter's id, the time when it ended, its address, and the cause."""
    rows = []
    for letter in letters:
        reason = " ".join(part for part in (letter["reason"] or letter["state"], letter["provider"]) if part)
        cause = Text(reason, style=_COLOURS.get(letter["state"], ""))
        if letter["obstacle"]:
            cause = Text(f"{letter['obstacle']}, {reason}", style="dim")
        rows.append([letter["id"], f"{moment(letter['ended_at']):%m-%d %H:%M}", letter["address"], cause])
    print_table([Column("dead letter"), Column("ended"), Column("to"), Column("cause")], rows)


def letter_lines(letter: Mapping[str, Any]) -> list[str]:
    """The lines that show a letter: its cause, its notification, its attempts, and how to send it again."""
    about = letter["notification"]
    content = about["template"] or "its own content"
    if about["template_version"]:
        content += f" (version {about['template_version']})"
    lines = [
        f"{letter['id']}  {letter['state']}",
        *_wrapped(f"{letter['channel']} to {letter['address']}: {_cause(letter)}"),
        *_wrapped("  " + letter["detail"][:_LONGEST_ANSWER_CHARS], "  "),
        "",
        f"notification  {about['id']}",
        *_wrapped(f"              {content}, category {about['category']}, priority {about['priority']}", " " * 14),
        f"              accepted {_when(letter['accepted_at'])}, ended {_when(letter['ended_at'])}",
        "",
    ]
    for attempt in letter["attempts"]:
        answer = " ".join(part for part in (attempt["reason"], attempt["detail"][:_LONGEST_ANSWER_CHARS]) if part)
        start = f"attempt {attempt['number']:<3} {moment(attempt['at']):%H:%M:%S}  {attempt['provider']}: "
        lines += _wrapped(f"{start}{attempt['state']} {answer}", " " * 14)
    lines.append("")
    if letter["replayable"]:
        lines.append(f"Send it again: {command('dead-letters replay ' + letter['id'])}")
    else:
        lines += _wrapped(f"It cannot be replayed: {letter['why']}.")
    return lines


def print_replays(replays: Iterable[Mapping[str, Any]]) -> None:
    """Print each replay's id, the time of its request, its state, how many it has replayed, and its filter."""
    rows = [
        [
            replay["id"],
            f"{moment(replay['created_at']):%m-%d %H:%M}",
            Text(replay["state"], style=_COLOURS.get(replay["state"], "")),
            f"{replay['replayed']:,}",
            _which(replay["filter"]),
        ]
        for replay in replays
    ]
    columns = ("replay", "asked", "state", "replayed", "which")
    print_table([Column(name, is_number=name == "replayed") for name in columns], rows)


def replay_lines(replay: Mapping[str, Any]) -> list[str]:
    """The lines that show a replay: its filter, its rate, the key that asked for it, and its counts."""
    key = replay["asked_by"]
    lines = [
        f"{replay['id']}  {replay['state']}",
        *_wrapped(f"{_which(replay['filter'])}, {replay['per_second']:,} a second"),
        f"asked for {_when(replay['created_at'])} with the key {key['key_prefix']}… ({key['key_id']})",
        f"{replay['replayed']:,} of {replay['found']:,} found are sent again",
    ]
    lines += [f"  {count:,} skipped: {reason}" for reason, count in sorted(replay["skipped"].items())]
    if replay["started_at"] and replay["finished_at"]:
        took = (moment(replay["finished_at"]) - moment(replay["started_at"])).total_seconds()
        lines.append(f"{replay['state']} {_when(replay['finished_at'])}, after {duration(max(0.0, took))}")
    return lines


def _cause(letter: Mapping[str, Any]) -> str:
    by = f" at {letter['provider']}" if letter["provider"] else ""
    return f"{letter['state']}{by}" + (f": {letter['reason']}" if letter["reason"] else "")


def _which(filter: Mapping[str, Any]) -> str:
    if "delivery_id" in filter:
        return str(filter["delivery_id"])
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in filter.items()) or "all dead letters"


def _when(text: str) -> str:
    return f"{moment(text):%Y-%m-%d %H:%M:%S}"


def _wrapped(text: str, indent: str = "") -> Sequence[str]:
    """The text, wrapped into lines; all but the first begin with `indent`."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent)
