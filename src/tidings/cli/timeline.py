"""Shows a notification and its timeline, in a terminal of 80 columns."""

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
    "opted_out": "the user has opted out of this category on this channel",
    "muted": "the user has muted everything",
    "quiet_hours": "waits until the user's quiet hours are over",
    "send_at": "waits for its send time",
    "changed": "was changed; waits for its send time",
    "no_address": "the user has no address on this channel",
    "unknown_user": "there is no such user",
    "address_suppressed": "the address is on the suppression list",
    "no_content": "the template has no content for this channel",
    "template_error": "the template could not be rendered",
    "empty_content": "the content is empty",
    "too_long": "the content is longer than the channel permits",
    "retry": "is tried again",
    "fallback": "is tried at another provider",
    "attempts_exhausted": "every attempt failed",
    "replayed": "a person replayed it",
    "swept": "was lost on its way; is put back into its queue",
    "stuck": "was lost on its way several times",
    "may_have_been_sent": "the provider may or may not have taken it",
    "throttled": "the provider asked for fewer requests",
    "provider_open": "the provider fails; its circuit breaker is open",
    "provider_failing": "the provider is out",
    "provider_busy": "all of the provider's capacity is in use",
    "capped": "the user's cap is reached",
}
"""Reasons in words."""

_FOR_A_PROVIDER = frozenset({"throttled", "provider_open", "provider_failing", "provider_busy"})
_FOR_A_TIME = frozenset({"send_at", "changed", "quiet_hours", "retry"})


def render(view: Mapping[str, Any]) -> list[str]:
    """The lines that show the notification, and each delivery with its timeline since acceptance."""
    created = moment(view["created_at"])
    lines = [f"{view['id']}  {_state(view['state'])}"]
    content = view["template"] or "its own content"
    if view["template_version"]:
        content += f" (version {view['template_version']})"
    to = view["user_id"] or "inline addresses"
    about = f"{content}, to {to}, category {view['category']}, priority {view['priority']}"
    lines += textwrap.wrap(about, WIDTH)
    lines.append(f"accepted {created:%Y-%m-%d %H:%M:%S %Z}")
    if view.get("send_at_local"):
        lines.append(f"send at {view['send_at_local'].replace('T', ' ')} on the user's clock")
    for name in ("send_at", "expires_at", "next_at"):
        if view.get(name):
            lines.append(f"{name.replace('_', ' ')} {moment(view[name]):%Y-%m-%d %H:%M:%S %Z}")
    general = [entry for entry in view["timeline"] if entry["delivery"] is None]
    if general:
        lines += ["", *entries(gathered(general, view.get("next_at")), view["created_at"])]
    for delivery in view["deliveries"]:
        lines += ["", *_heading(delivery)]
        own = [entry for entry in view["timeline"] if entry["delivery"] == delivery["id"]]
        lines += entries(gathered(own, delivery.get("next_at")), view["created_at"])
    return lines


def gathered(timeline: Sequence[Mapping[str, Any]], next_at: str | None) -> list[Mapping[str, Any]]:
    """The entries of one delivery, or of the notification itself; each wait says until when.

    Repeated entries of one wait for a provider are merged into one, with their number. `next_at`: when the delivery is
    due, if it waits.
    """
    merged: list[Mapping[str, Any]] = []
    looks = 0
    for index, entry in enumerate(timeline):
        looks = looks + 1 if _waits_for_provider(entry) else 0
        if looks > 1:
            merged.pop()
        if not looks and not _waits_for_time(entry):
            merged.append(entry)
            continue
        until = timeline[index + 1]["at"] if index + 1 < len(timeline) else next_at
        first = timeline[index - looks + 1] if looks else entry
        detail = entry["detail"]
        if looks > 1:
            detail = ", ".join([detail, f"{looks} looks"] if detail else [f"{looks} looks"])
        if until:
            detail = f"until {moment(until):%Y-%m-%d %H:%M:%S}" + (f", {detail}" if detail else "")
        merged.append({**entry, "at": first["at"], "detail": detail})
    return merged


def goes_on_waiting(timeline: Sequence[Mapping[str, Any]], index: int) -> bool:
    """Whether the entry at `index` continues its delivery's wait for a provider."""
    before = [entry for entry in timeline[:index] if entry["delivery"] == timeline[index]["delivery"]]
    return bool(before) and _waits_for_provider(before[-1]) and _waits_for_provider(timeline[index])


def _waits_for_provider(entry: Mapping[str, Any]) -> bool:
    return bool(entry["state"] == "deferred" and entry["reason"] in _FOR_A_PROVIDER)


def _waits_for_time(entry: Mapping[str, Any]) -> bool:
    return bool(entry["state"] == "deferred" and entry["reason"] in _FOR_A_TIME)


def entries(timeline: Iterable[Mapping[str, Any]], created_at: str, *, mixed: bool = False) -> list[str]:
    """The lines of a timeline's entries; `created_at` is when the notification was accepted.

    `mixed`: the entries belong to several deliveries, so each line names its channel.
    """
    created = moment(created_at)
    lines = []
    for entry in timeline:
        at = moment(entry["at"])
        since = duration(max(0.0, (at - created).total_seconds()))
        start = f"{_INDENT}{at:%H:%M:%S}.{at.microsecond // 1000:03} {'+' + since:>11}  "
        if mixed:
            start += f"{entry['channel'] or '':<{_CHANNEL_WIDTH}} "
        lines += _wrapped(start, entry["state"], _details(entry))
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


def _details(entry: Mapping[str, Any]) -> str:
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
