"""`tidings dead-letters`: list, show and replay deliveries that ended without success."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from tidings.cli.client import Api, connect
from tidings.cli.hints import command
from tidings.cli.letters import letter_lines, print_letters
from tidings.cli.options import AsJson, DataDir, Key, SettingsFile, Url, print_json
from tidings.cli.plain import CannotGoOn, command_line, say
from tidings.cli.replays import Count, followed, print_replay
from tidings.model.vocabulary import Channel

app = command_line(
    help="Find deliveries that ended without success, see why, and send them again.\n\n"
    "After an outage: look with `tidings dead-letters list --provider NAME`, "
    "then `tidings dead-letters replay --provider NAME --per-second 20`.",
    no_args_is_help=True,
)

State = Annotated[
    Literal["dead", "failed", "uncertain"] | None,
    typer.Option(help="In this state [dead and failed]. A replayed uncertain one may arrive twice."),
]
OnChannel = Annotated[Channel | None, typer.Option("--channel", help="On this channel.")]
OfCategory = Annotated[str | None, typer.Option("--category", help="Of this category.")]
AtProvider = Annotated[str | None, typer.Option("--provider", help="Last tried at this provider.")]
ForReason = Annotated[str | None, typer.Option("--reason", help="Ended for this reason.")]
ToUser = Annotated[str | None, typer.Option("--user", metavar="USER", help="To this user.")]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="Accepted at or after this time: 2026-01-31T09:00:00Z.")
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Accepted before this time.")]
LetterId = Annotated[str, typer.Argument(help="The delivery's id, dlv_….")]


@app.command(name="list")
def list_(
    state: State = None,
    channel: OnChannel = None,
    category: OfCategory = None,
    provider: AtProvider = None,
    reason: ForReason = None,
    user: ToUser = None,
    since: Since = None,
    until: Until = None,
    limit: Count = 20,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """List dead letters, newest first."""
    filter = _filter(state, channel, category, provider, reason, user, since, until)
    with connect(url, key, settings_file, data_dir) as api:
        letters, has_more = _listed(api, filter, limit)
    if as_json:
        print_json(letters)
        return
    if not letters:
        say("no dead letters" + (" match" if filter else ""))
        return
    print_letters(letters)
    if has_more:
        say(f"These are the newest {len(letters)}; --limit shows more, the other options narrow it down.")
    say(f"Details:       {command('dead-letters show ID')}\nSend it again: {command('dead-letters replay ID')}")


@app.command()
def show(
    id: LetterId,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Show a dead letter.

    It shows the cause, every attempt with the provider's answer, the notification, and whether it can be replayed.
    """
    with connect(url, key, settings_file, data_dir) as api:
        letter = api.call("GET", f"/v1/dead-letters/{id}")
    if as_json:
        print_json(letter)
        return
    for line in letter_lines(letter):
        say(line)


@app.command()
def replay(
    id: Annotated[str | None, typer.Argument(help="One delivery's id, dlv_…; or use the options.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are dead or failed.")] = False,
    state: State = None,
    channel: OnChannel = None,
    category: OfCategory = None,
    provider: AtProvider = None,
    reason: ForReason = None,
    user: ToUser = None,
    since: Since = None,
    until: Until = None,
    per_second: Annotated[int, typer.Option(min=1, max=10_000, help="How many a second, at most.")] = 50,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait until the replay has ended.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Send dead letters again: one by its id, all that match the options, or --all.

    Repeating the command does not send a dead letter twice. After Ctrl-C the replay goes on: `tidings replays` shows
    and stops it.
    """
    filter = _filter(state, channel, category, provider, reason, user, since, until)
    if (id is not None) + everything + bool(filter) != 1:
        raise CannotGoOn("say which: one id, or options such as --provider NAME and --since TIME, or --all")
    with connect(url, key, settings_file, data_dir) as api:
        if id is not None:
            new_replay = api.call("POST", f"/v1/dead-letters/{id}/replay")
        else:
            new_replay = api.call("POST", "/v1/replays", {"filter": filter, "per_second": per_second})
        if not detach:
            new_replay = followed(api, new_replay)
    print_replay(new_replay, as_json=as_json)
    if detach and not as_json:
        say(f"Its progress: {command('replays show --follow ' + new_replay['id'])}")


def _filter(
    state: str | None,
    channel: Channel | None,
    category: str | None,
    provider: str | None,
    reason: str | None,
    user: str | None,
    since: str | None,
    until: str | None,
) -> dict[str, str]:
    given = {
        "state": state,
        "channel": channel and channel.value,
        "category": category,
        "provider": provider,
        "reason": reason,
        "user_id": user,
        "since": since,
        "until": until,
    }
    return {name: value for name, value in given.items() if value is not None}


def _listed(api: Api, filter: Mapping[str, str], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Up to `limit` letters, and whether there are more. Pages are read until then: any page may be short."""
    letters: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.call("GET", "/v1/dead-letters", query={**filter, **cursor, "limit": str(limit - len(letters))})
        letters += page["dead_letters"]
        if page["next"] is None or len(letters) >= limit:
            return letters, page["next"] is not None
        cursor = {"cursor": page["next"]}
