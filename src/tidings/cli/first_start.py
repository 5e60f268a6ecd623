"""The demo tenant's data, which the first start creates, and the greeting, which every start prints."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tidings.api.samples import DEMO_TEMPLATE, DEMO_USER, ORDER
from tidings.channels.registry import names_an_account
from tidings.cli.client import Api, Refused
from tidings.cli.folder import DataFolder
from tidings.cli.hints import command, command_name, demo_command, has_settings_file
from tidings.cli.plain import say
from tidings.cli.shop.publish import declare_categories, publish
from tidings.cli.shop.templates import TEMPLATES
from tidings.cli.tenants import DEMO_TENANT
from tidings.config import DEFAULT_FILE, Settings
from tidings.model.vocabulary import Channel
from tidings.policy.hosts import is_loopback
from tidings.sandbox.credentials import is_guarded, load_or_create, token_of

DEMO_PROFILE: dict[str, Any] = {
    "name": "Ada",
    "email": "demo@example.com",
    "phone": "+5511961234567",
    "devices": ["demo-phone"],
    "locale": "pt-BR",
    "timezone": "America/Sao_Paulo",
}


def prepare(url: str, key: str) -> None:
    """Create the demo tenant's categories, template and user. Existing ones stay as they are."""
    with Api(url, key) as api:
        declare_categories(api)
        publish(api, [template for template in TEMPLATES if template.name == DEMO_TEMPLATE])
        try:
            api.call("GET", f"/v1/users/{DEMO_USER}")
        except Refused as refused:
            if refused.status != 404:
                raise
            api.call("PUT", f"/v1/users/{DEMO_USER}", DEMO_PROFILE)


def curl(url: str, bearer: str) -> str:
    """One line that sends an order confirmation to the demo user; `bearer` is the quoted header for the shell."""
    body = shlex.quote(json.dumps(ORDER, ensure_ascii=False, separators=(",", ":")))
    return f"curl -sS {url}/v1/notifications -H {bearer} -H 'Content-Type: application/json' -d {body}"


def greet(settings: Settings, folder: DataFolder, key: str | None, took_s: float) -> None:
    """Print the addresses, the key, and commands to try.

    `key` is the demo tenant's key if this start has created it; it is shown only now. Later starts print where it is.
    """
    url = settings.http.local_url
    own_folder = None if folder.path == Path.cwd() / "tidings-data" else folder.path
    say(f"\nTidings is up, after {took_s:.1f} s.\n")
    say(f"  API            {url}")
    if settings.http.docs:
        say(f"  API reference  {url}/docs")
    if settings.uses_sandbox:
        say(f"  Sandbox viewer {viewer_url(settings, folder)}")
    if key is not None:
        say(f"  API key        {key}")
        say(f"                 (tenant {DEMO_TENANT}, may do everything; shown once, kept in {folder.demo_key_path})")
    else:
        say(f"  API key        in {folder.demo_key_path}")
        say(f"                 (tenant {DEMO_TENANT})")
    say(f"\n{_about_the_command(settings)}\n")
    say(curl(url, _bearer(key, folder)))
    say("\nThen try:\n")
    for line in _to_try(settings, own_folder, another_key=key is None):
        say(f"  {line}")
    for warning in open_to_others(settings):
        say(f"\n{warning}")
    say(f"\nCtrl-C stops everything; the data stays in {folder.path}")


def open_to_others(settings: Settings) -> list[str]:
    """A warning for each listener that other machines can reach."""
    http, operations, warnings = settings.http, settings.operations, []
    if not is_loopback(http.host):
        public_pages = [] if operations.port is not None else ["/metrics and /readyz"]
        public_pages += ["/docs"] if http.docs else []
        without_key = f" Without a key anybody reads {' and '.join(public_pages)} there." if public_pages else ""
        own_listener = "operations.port gives /metrics and /readyz a listener of their own"
        remedies = [] if operations.port is not None else [own_listener]
        remedies += ["http.docs = false closes /docs"] if http.docs else []
        warnings.append(
            f"Other machines reach the API on {http.host}:{http.port}, and it speaks no TLS: put a proxy with TLS in\n"
            f"front of it, or API keys and addresses travel in clear text.{without_key}"
            + (f"\n{'; '.join(remedies)}." if remedies else "")
        )
    if operations.port is not None and not is_loopback(operations.host):
        warnings.append(
            f"Other machines read /metrics and /readyz on {operations.host}:{operations.port} without a key."
        )
    if settings.uses_sandbox and not is_loopback(settings.sandbox.host):
        warnings.append(
            "Other machines reach the sandbox: anyone who has its token, or sees it travel without TLS, can read all\n"
            "that arrives there."
        )
    return warnings


def viewer_url(settings: Settings, folder: DataFolder) -> str:
    """The URL of the sandbox's viewer, with its token if it asks for one."""
    sandbox = settings.sandbox
    if not is_guarded(sandbox.host, sandbox.allowed_hosts):
        return sandbox.local_url
    return f"{sandbox.local_url}/?token={token_of(load_or_create(folder.path / 'sandbox'))}"


def _bearer(key: str | None, folder: DataFolder) -> str:
    if key is not None:
        return f"'Authorization: Bearer {key}'"
    return f'"Authorization: Bearer $(cat {shlex.quote(str(folder.demo_key_path))})"'


def sent_for_real(settings: Settings) -> tuple[str, ...]:
    """The channels that a real provider serves, not the sandbox, such as `email by smtp`."""
    return tuple(
        f"{channel.value} by {name}"
        for channel, names in settings.channels.items()
        for name in names
        if name in settings.providers and (not settings.uses_sandbox or names_an_account(settings.providers[name]))
    )


def _about_the_command(settings: Settings) -> str:
    real = sent_for_real(settings)
    if settings.uses_sandbox and not real:
        return (
            "Paste this line into another terminal. The sandbox viewer then shows an order confirmation as an email,\n"
            "a text message, a push notification and an item of the inbox, in the language of the user `demo`:"
        )
    rest = "; everything else goes to the sandbox" if settings.uses_sandbox else ""
    return (
        f"This is sent for real: {', '.join(real) or 'nothing'}{rest}. Give the user `{DEMO_USER}` your own\n"
        f"addresses first (PUT /v1/users/{DEMO_USER}), then paste this line into another terminal. It sends an order\n"
        "confirmation on every channel that is configured:"
    )


def _to_try(settings: Settings, own_folder: Path | None, *, another_key: bool) -> Iterator[str]:
    """Commands to paste, most of them with a note on their purpose."""
    served = [channel for channel in Channel if channel not in settings.unserved]
    only = "" if len(served) == len(Channel) else "".join(f" --channel {channel.value}" for channel in served)
    yield command(f"send --to {DEMO_USER} --subject 'Hello' --text 'From the terminal'{only}", data_dir=own_folder)
    yield command("status", data_dir=own_folder) + "      and the id that `send` prints"
    if not sent_for_real(settings):
        has_faker = find_spec("faker") is not None
        yield demo_command(own_folder, installed=has_faker) + "      a shop with 50,000 people and a day of orders"
    if another_key:
        yield command(f"key create --tenant {DEMO_TENANT}", data_dir=own_folder) + "      another API key"
    check = command("check", data_dir=own_folder)
    if settings_in_use():
        yield check + "      after you change the settings, before the next start"
    else:
        yield f"{command_name()} settings --example --write {DEFAULT_FILE}      then fill in a provider, and: {check}"


def settings_in_use() -> bool:
    """Whether there is a settings file already; then the greeting does not suggest to write one."""
    return Path(DEFAULT_FILE).exists() or has_settings_file()
