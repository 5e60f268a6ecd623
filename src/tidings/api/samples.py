"""The commands that the documentation shows. Each can be pasted, and works for the demo tenant of `make run`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidings.report.notifications import rfc3339

DEMO_USER = "demo"
DEMO_TEMPLATE = "order-confirmation"
_LATER_MS = 300 * 24 * 3600 * 1000

ORDER: dict[str, Any] = {
    "to": {"user_id": DEMO_USER},
    "template": DEMO_TEMPLATE,
    "data": {
        "name": "Ada",
        "order": {
            "number": "A-1001",
            "items": [{"name": "Espresso cup", "quantity": 2, "price": "9.90"}],
            "total": "19.80",
            "currency": "EUR",
        },
    },
    "category": "orders",
}
BATCH: dict[str, Any] = {
    "notifications": [
        ORDER,
        {
            "to": {"email": "ada@example.com", "locale": "de"},
            "content": {"email": {"subject": "Hello", "text": "Taken literally, for one address."}},
            "priority": "bulk",
        },
    ]
}
RECURRENCE: dict[str, Any] = {
    "name": "weekly summary",
    "rrule": "FREQ=WEEKLY;BYDAY=MO",
    "start": "2026-01-05T09:00",
    "timezone": "user",
    "request": {
        "to": {"user_id": DEMO_USER},
        "content": {"inapp": {"title": "Your week", "body": "Three orders are on their way."}},
        "category": "orders",
    },
}
VERSION: dict[str, Any] = {
    "contents": {
        "en": {
            "email": {"subject": "Welcome, {{ name }}", "html": "<h1>Welcome, {{ name }}</h1>"},
            "sms": {"text": "Welcome, {{ name }}"},
        },
        "pt": {"sms": {"text": "Boas-vindas, {{ name }}"}},
    },
    "default_locale": "en",
    "variables": {"name": {"required": True, "description": "how the person is addressed", "example": "Ada"}},
    "description": "The first thing that a new customer hears",
}
WELCOME: dict[str, Any] = {"name": "welcome", **VERSION}
_USER = {"email": "ada@example.com", "phone": "+4930901820", "locale": "de-DE", "timezone": "Europe/Berlin"}
FIRST: dict[str, Any] = {
    "to": {"email": "ada@example.com", "phone": "+4930901820", "devices": ["a-phone"]},
    "content": {
        "email": {"subject": "Hello", "text": "It works."},
        "sms": {"text": "It works."},
        "push": {"title": "Hello", "body": "It works."},
    },
}
UNREACHABLE: dict[str, Any] = {
    "to": {"phone": "+15005550002"},
    "content": {"sms": {"text": "The sandbox refuses this number for good."}},
}
_SUPPRESSION = {"channel": "email", "address": "gone@example.com", "reason": "bounced"}


def first_command(url: str, key_path: Path) -> str:
    """A command that works on any installation: addresses are inline, and the content is taken literally.

    The key is `$TIDINGS_API_KEY`, or else the content of `key_path`, where `tidings up` keeps the demo tenant's key.
    """
    contents = [f"{json.dumps(channel)}: {json.dumps(content)}" for channel, content in FIRST["content"].items()]
    content = f",\n{' ' * 19}".join(contents)
    body = f'{{"to": {json.dumps(FIRST["to"])},\n       "content": {{{content}}}}}'
    lines = (f"curl -sS {url}/v1/notifications", f"-H {_bearer(key_path)}", "-H 'Content-Type: application/json'")
    return " \\\n  ".join((*lines, f"-d '{body}'"))


def timeline_command(url: str, key_path: Path) -> str:
    """A command that shows the notification `{id}`; the key as in `first_command`."""
    return f"curl -sS {url}/v1/notifications/{{id}} -H {_bearer(key_path)}"


def _bearer(key_path: Path) -> str:
    return f'"Authorization: Bearer ${{TIDINGS_API_KEY:-$(cat {shlex.quote(str(key_path))})}}"'


def commands(
    url: str, now: int, path: str, method: str, operation: Mapping[str, Any], preparation: Mapping[str, Any]
) -> str:
    """The lines to paste: the preparations that the example needs, then the operation itself."""
    preparations = _preparations(url, now)
    lines = [preparations[name] for name in preparation.get("before", ())]
    values = {
        parameter["name"]: _example(parameter)
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "path"
    }
    values |= preparation.get("path", {})
    for name in values.keys() & {"notification_id", "delivery_id", "replay_id", "recurrence_id"}:
        values[name] = "$ID"
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", str(value))
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    authenticated = operation.get("security") != []
    lines.append(_curl(method, url + path, content.get("example"), authenticated=authenticated))
    return "\n".join(lines)


def _curl(method: str, url: str, body: Any = None, *, authenticated: bool = True) -> str:
    parts = ["curl -sS"]
    if method != "get" and not (method == "post" and body is not None):
        parts.append(f"-X {method.upper()}")
    parts.append(f'"{url}"' if set(url) & {"$", "&"} else url)
    if authenticated:
        parts.append('-H "Authorization: Bearer $TIDINGS_API_KEY"')
    if body is not None:
        parts.append("-H 'Content-Type: application/json'")
        parts.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " ".join(parts)


def _capture(command: str) -> str:
    return f'ID=$({command} | sed \'s/.*"id":"\\([^"]*\\)".*/\\1/\')'


def _dead_letter(url: str) -> str:
    """Commands that make a dead letter, wait for it, and put its id into `$ID`."""
    listed = _curl("get", f"{url}/v1/dead-letters?channel=sms&reason=no_route&limit=1")
    return "\n".join(
        [
            _curl("post", f"{url}/v1/notifications", UNREACHABLE),
            f"until ID=$({listed} | grep -o 'dlv_[a-z0-9]*'); do sleep 0.2; done",
        ]
    )


def _preparations(url: str, now: int) -> dict[str, str]:
    """The commands that an example may need first, by name. A command that creates something puts its id into `$ID`."""
    send, templates = f"{url}/v1/notifications", f"{url}/v1/templates"
    return {
        "notification": _capture(_curl("post", send, ORDER)),
        "recurrence": _capture(_curl("post", f"{url}/v1/recurrences", RECURRENCE)),
        "later": _capture(_curl("post", send, {**ORDER, "send_at": rfc3339(now + _LATER_MS)})),
        "user": _curl("put", f"{url}/v1/users/ada", _USER),
        "template": _curl("post", templates, WELCOME),
        "versions": "\n".join(
            [
                _curl("post", templates, WELCOME),
                _curl("post", f"{templates}/welcome/versions", VERSION),
                _curl("post", f"{templates}/welcome/publish", {"version": 2}),
            ]
        ),
        "category": _curl("put", f"{url}/v1/categories/marketing", {"description": "Offers and news"}),
        "letter": _dead_letter(url),
        "replay": _capture(_curl("post", f"{url}/v1/replays", {"filter": {"category": "receipts"}})),
        "slow_replay": "\n".join(
            [_dead_letter(url), _capture(_curl("post", f"{url}/v1/replays", {"per_second": 1}))],
        ),
        "suppression": _curl("post", f"{url}/v1/suppressions", _SUPPRESSION),
    }


def _example(parameter: Mapping[str, Any]) -> str:
    examples = parameter.get("examples") or parameter.get("schema", {}).get("examples") or ["example"]
    return str(next(iter(examples)))
