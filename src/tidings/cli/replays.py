"""`tidings replays`: list, show and cancel replays of dead letters."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from tidings.cli.client import Api, connect
from tidings.cli.letters import print_replays, replay_lines
from tidings.cli.options import AsJson, DataDir, Key, SettingsFile, Url, print_json
from tidings.cli.plain import command_line, say

app = command_line(
    help="Show and stop replays of dead letters.\n\n`tidings dead-letters replay` starts one.",
    no_args_is_help=True,
)

_LOOK_EVERY_S = 0.25
_UNDER_WAY = {"waiting", "running"}

ReplayId = Annotated[str, typer.Argument(help="The replay's id, rpl_….")]
Count = Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="How many at most.")]


@app.command(name="list")
def list_(
    limit: Count = 20,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """List replays, newest first."""
    with connect(url, key, settings_file, data_dir) as api:
        replays = api.call("GET", "/v1/replays", query={"limit": str(limit)})["replays"]
    if as_json:
        print_json(replays)
    elif replays:
        print_replays(replays)
    else:
        say("nothing was replayed yet")


@app.command()
def show(
    id: ReplayId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its progress until it ends.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Show a replay.

    It shows which key asked for it, which dead letters match, how many were sent again, and why others were skipped.
    """
    with connect(url, key, settings_file, data_dir) as api:
        replay = api.call("GET", f"/v1/replays/{id}")
        if follow:
            replay = followed(api, replay)
    print_replay(replay, as_json=as_json)


@app.command()
def cancel(
    id: ReplayId,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Stop a replay within a few seconds.

    Deliveries that it has sent again already go on; the others stay dead letters.
    """
    with connect(url, key, settings_file, data_dir) as api:
        replay = api.call("POST", f"/v1/replays/{id}/cancel")
    print_replay(replay, as_json=as_json)


def followed(api: Api, replay: dict[str, Any]) -> dict[str, Any]:
    """Wait until the replay has ended, with a progress bar on standard error; the ended replay."""
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(highlight=False, stderr=True),
    )  # fmt: skip
    with bar:
        line = bar.add_task(replay["state"], total=replay["expected"])
        while replay["state"] in _UNDER_WAY:
            bar.update(line, description=replay["state"], completed=replay["found"])
            time.sleep(_LOOK_EVERY_S)
            replay = api.call("GET", f"/v1/replays/{replay['id']}")
        bar.update(line, description=replay["state"], completed=replay["found"])
    return replay


def print_replay(replay: dict[str, Any], *, as_json: bool) -> None:
    """Print the replay in words, or as JSON."""
    if as_json:
        print_json(replay)
        return
    for line in replay_lines(replay):
        say(line)
