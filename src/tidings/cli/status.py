"""`tidings status`: the state and the timeline of a notification."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import typer

from tidings.cli.client import Api, connect
from tidings.cli.options import AsJson, DataDir, Key, SettingsFile, Url
from tidings.cli.plain import command_line
from tidings.cli.timeline import entries, goes_on_waiting, render
from tidings.model.vocabulary import State
from tidings.policy.transitions import RESTING

app = command_line()

_LOOK_EVERY_S = 0.25
_RECEIPTS_WITHIN_S = 2.0
"""After so long without a new fact, --follow does not wait for receipts any more."""


@app.command()
def status(
    id: Annotated[str, typer.Argument(help="The notification's id, ntf_….")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its progress until it ends.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Show the state of a notification.

    It shows the timeline of each delivery, with times, attempts, providers and reasons.
    """
    with connect(url, key, settings_file, data_dir) as api:
        show(api, id, follow=follow, as_json=as_json)


def show(api: Api, id: str, *, follow: bool, as_json: bool) -> None:
    """Print a notification. With `follow`, first print its facts as they come, until no more are expected."""
    view = _read(api, id)
    printed = 0
    last_fact_at = time.monotonic()
    while follow and _goes_on(view, time.monotonic() - last_fact_at):
        if len(view["timeline"]) > printed:
            last_fact_at = time.monotonic()
            if not as_json:
                timeline = view["timeline"]
                new = [timeline[at] for at in range(printed, len(timeline)) if not goes_on_waiting(timeline, at)]
                for line in entries(new, view["created_at"], mixed=True):
                    typer.echo(line)
            printed = len(view["timeline"])
        time.sleep(_LOOK_EVERY_S)
        view = _read(api, id)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(view)).decode())
        return
    if printed and not as_json:
        typer.echo()
    for line in render(view):
        typer.echo(line)


def _goes_on(view: dict[str, Any], silence_s: float) -> bool:
    """Whether more facts are expected; `silence_s` is the time since the last one."""
    states = [State(delivery["state"]) for delivery in view["deliveries"]] or [State(view["state"])]
    if any(state not in RESTING for state in states):
        return True
    return State.SENT in states and silence_s < _RECEIPTS_WITHIN_S


def _read(api: Api, id: str) -> dict[str, Any]:
    view: dict[str, Any] = api.call("GET", f"/v1/notifications/{id}")
    return view
