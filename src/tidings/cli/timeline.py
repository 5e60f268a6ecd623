"""A notification's timeline in a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from tidings.cli.times import duration, moment

WIDTH = 80
_INDENT = " " * 2
_STATE_WIDTH = 10
_CHANNEL_WIDTH = 6
_COLOURS = {
    "delivered": "green",
    "sent": "green",
    "failed": "red",
    "dead": "red",
    "expired": "yellow",
    "cancelled": "yellow",
    "suppressed": "yellow",
    "uncertain": "magenta",
}
MEANINGS = {
    "opted_out": "the user does not want this category here",
    "muted": "the user has muted everything",
    "quiet_hours": "waits until the user's quiet hours are over",
    "send_at": "waits for its time",
    "changed": "waits for its new time, or with its new data",
    "no_address": "the user has no address on this channel",
    "unknown_user": "there is no such user",
    "address_suppressed": "the address is on the suppression list",
    "no_content": "the template has no content for this channel",
    "template_error": "the template could not be rendered",
    "empty_content": "there is nothing in it to see",
    "too_long": "it is longer than the channel takes",
    "retry": "is tried again",
    "fallback": "is tried at another provider",
    "attempts_exhausted": "every attempt failed",
    "replayed": "a person had it sent again",
    "swept": "was lost on its way; goes back into its queue",
    "stuck": "was lost on its way again and again",
    "may_have_been_sent": "the provider may or may not have taken it",
    "throttled": "the provider asked for less",
    "provider_open": "the provider fails, and is left alone for a while",
    "provider_failing": "the provider could not be offered anything",
    "provider_busy": "the provider has enough to do",
    "capped": "the user has had enough of these for now",
}
"""Reasons in words."""

_FOR_A_PROVIDER = frozenset({"throttled", "provider_open", "provider_failing", "provider_busy"})


def render(view: Mapping[str, Any]) -> list[str]:
    """The lines: the notification, then each delivery with what happened to it, with the time since it was accepted."""
    created = moment(view["created_at"])
    lines = [f"{view['id']}  {_state(view['state'])}"]
    what = view["template"] or "its own content"
    if view["template_version"]:
        what += f" (version {view['template_version']})"
    to = view["user_id"] or "inline addresses"
    about = f"{what}, to {to}, category {view['category']}, priority {view['priority']}"
    lines += textwrap.wrap(about, WIDTH)
    lines.append(f"accepted {created:%Y-%m-%d %H:%M:%S %Z}")
    if view.get("send_at_local"):
        lines.append(f"send at {view['send_at_local'].replace('T', ' ')} on the user's clock")
    for name in ("send_at", "expires_at", "next_at"):
        if view.get(name):
            lines.append(f"{name.replace('_', ' ')} {moment(view[name]):%Y-%m-%d %H:%M:%S %Z}")
    general = [entry for entry in view["timeline"] if entry["delivery"] is None]
    if general:
        lines += ["", *entries(general, view["created_at"])]
    for delivery in view["deliveries"]:
        lines += ["", *_heading(delivery)]
        own = [entry for entry in view["timeline"] if entry["delivery"] == delivery["id"]]
        lines += entries(gathered(own, delivery.get("next_at")), view["created_at"])
    return lines


def gathered(timeline: Sequence[Mapping[str, Any]], next_at: str | None) -> list[Mapping[str, Any]]:
    """A delivery's entries, each wait for a provider as one, however often it was looked at.

    `next_at`: when the delivery goes on, if it waits.
    """
    found: list[Mapping[str, Any]] = []
    looks = 0
    for place, entry in enumerate(timeline):
        looks = looks + 1 if _waits(entry) else 0
        if looks > 1:
            found.pop()
        if not looks:
            found.append(entry)
            continue
        following = timeline[place + 1]["at"] if place + 1 < len(timeline) else next_at
        first = timeline[place - looks + 1]
        detail = entry["detail"]
        if looks > 1:
            detail = ", ".join([detail, f"{looks} looks"] if detail else [f"{looks} looks"])
        if following:
            detail = f"until {moment(following):%Y-%m-%d %H:%M:%S}" + (f", {detail}" if detail else "")
        found.append({**entry, "at": first["at"], "detail": detail})
    return found


def goes_on_waiting(timeline: Sequence[Mapping[str, Any]], place: int) -> bool:
    """Whether the entry at this place is one more look of a wait for a provider that was told before."""
    before = [entry for entry in timeline[:place] if entry["delivery"] == timeline[place]["delivery"]]
    return bool(before) and _waits(before[-1]) and _waits(timeline[place])


def _waits(entry: Mapping[str, Any]) -> bool:
    return bool(entry["state"] == "deferred" and entry["reason"] in _FOR_A_PROVIDER)


def entries(timeline: Iterable[Mapping[str, Any]], created_at: str, *, mixed: bool = False) -> list[str]:
    """A line, or a few, for each entry of a timeline; `created_at` is when the notification was accepted.

    `mixed`: entries of several deliveries follow each other, so each tells its channel.
    """
    created = moment(created_at)
    lines = []
    for entry in timeline:
        at = moment(entry["at"])
        since = duration(max(0.0, (at - created).total_seconds()))
        start = f"{_INDENT}{at:%H:%M:%S}.{at.microsecond // 1000:03} {'+' + since:>11}  "
        if mixed:
            start += f"{entry['channel'] or '':<{_CHANNEL_WIDTH}} "
        lines += _wrapped(start, entry["state"], _told(entry))
    return lines


def _heading(delivery: Mapping[str, Any]) -> list[str]:
    by = f" by {delivery['provider']}" if delivery["provider"] else ""
    tries = len(delivery["attempts"])
    count = f" after {tries} attempts" if tries > 1 else ""
    line = f"{delivery['channel']:<6} {delivery['address'] or '(no address)'}: "
    tail = f"{delivery['state']}{by}{count}"
    if len(line) + len(tail) > WIDTH:
        room = WIDTH - len(tail) - 3
        line = line[: max(8, room)] + "…: "
    return [line + _state(delivery["state"]) + tail.removeprefix(delivery["state"])]


def _told(entry: Mapping[str, Any]) -> str:
    parts = []
    if entry["attempt"] and entry["provider"]:
        parts.append(f"attempt {entry['attempt']} at {entry['provider']}")
    elif entry["provider"]:
        parts.append(entry["provider"])
    reason = entry["reason"]
    if reason:
        meaning = MEANINGS.get(reason)
        parts.append(f"{reason} ({meaning})" if meaning else reason)
    if entry["detail"]:
        parts.append(entry["detail"])
    return ", ".join(parts)


def _wrapped(start: str, state: str, text: str) -> list[str]:
    indent = " " * (len(start) + _STATE_WIDTH + 1)
    first, *rest = textwrap.wrap(text, WIDTH - len(indent)) or [""]
    padding = " " * (_STATE_WIDTH - len(state) + 1) if first else ""
    return [start + typer.style(state, fg=_COLOURS.get(state)) + padding + first, *(indent + line for line in rest)]


def _state(state: str) -> str:
    return typer.style(state, fg=_COLOURS.get(state), bold=True)
