"""Which providers and readings follow from the settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from twilio.request_validator import RequestValidator

from support.flow import Flow
from support.vendors import MemoryInbox, StillClock, id_of
from tidings.config import Settings
from tidings.model import topics
from tidings.model.duties import ALL_BUT_CRITICAL, CRITICAL_ALONE, EVERYTHING, Duties, Duty, duties_of
from tidings.model.errors import BadReceipt, SettingsError
from tidings.model.ids import DELIVERY_PREFIX, to_text
from tidings.model.sending import InboundRequest
from tidings.model.vocabulary import Channel, Priority
from tidings.parts import Parts, build_providers
from tidings.ports.provider import Provider
from tidings.roles.worker import readings
from tidings.wiring import ROLES


def made(folder: Path, **settings: Any) -> dict[str, Provider[Any]]:
    whole = Settings.model_validate({"data_dir": folder, **settings})
    return {provider.name: provider for _, provider in build_providers(whole, MemoryInbox(), StillClock())}


def account(letter: str, **more: Any) -> dict[str, Any]:
    return {"account_sid": f"AC{letter * 32}", "auth_token": letter * 32, "from_number": "+15005550006", **more}


def status(token: str, name: str) -> InboundRequest:
    where = urlencode({"delivery": to_text(DELIVERY_PREFIX, id_of(1)), "tenant": "shop", "attempt": 1})
    url = f"https://notify.example.com/v1/receipts/{name}?{where}"
    form = {"MessageSid": "SM1", "MessageStatus": "delivered"}
    signature = RequestValidator(token).compute_signature(url, form)
    return InboundRequest(url, {"x-twilio-signature": signature}, {}, urlencode(form).encode())


def test_without_settings_the_sandbox_serves_every_channel(tmp_path: Path) -> None:
    assert list(made(tmp_path)) == ["sendgrid", "twilio", "fcm", "inbox"]


def test_two_accounts_of_a_vendor_have_their_own_names_rates_and_keys(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        http={"public_url": "https://notify.example.com"},
        channels={"sms": ["twilio", "twilio-eu"]},
        providers={"twilio": account("a", rate=80), "twilio-eu": account("b", kind="twilio")},
    )
    first, second = found["twilio"], found["twilio-eu"]
    assert (first.kind, second.kind) == ("twilio", "twilio")
    assert (first.rate, second.rate) == (80, None)
    assert len(first.receipts(status("a" * 32, "twilio"))) == 1
    assert len(second.receipts(status("b" * 32, "twilio-eu"))) == 1
    with pytest.raises(BadReceipt, match=r"providers\.twilio-eu\.auth_token"):
        second.receipts(status("a" * 32, "twilio-eu"))
    with pytest.raises(BadReceipt, match=r"providers\.twilio\.auth_token"):
        first.receipts(status("b" * 32, "twilio"))


def test_the_sandbox_stands_in_for_a_section_that_names_no_account(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"twilio": {"rate": 10}, "twilio-eu": {"kind": "twilio", "timeout": 5}}
    found = made(tmp_path, channels={"sms": ["twilio", "twilio-eu"]}, providers=sections)
    assert (found["twilio"].rate, found["twilio-eu"].rate) == (10, None)
    sections |= {"smtp": {"host": "mail.example", "from_address": "hello@shop.example"}}
    channels = {"email": ["smtp"], "sms": ["twilio"]}
    with pytest.raises(SettingsError, match=r"providers\.twilio\.account_sid is missing"):
        made(tmp_path, sandbox={"enabled": False}, channels=channels, providers=sections)


def test_a_section_of_ones_own_is_never_filled_up_from_the_sandbox(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"providers\.twilio\.auth_token is missing"):
        made(tmp_path, providers={"twilio": {"account_sid": "AC" + "a" * 32}})


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        ({"sms": ["smtp"]}, "channels.sms: smtp serves email"),
        ({"sms": ["twilio-eu"]}, r"there is no provider .twilio-eu.; there are fcm"),
    ],
)
def test_a_provider_that_cannot_serve_is_reported(tmp_path: Path, channels: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        made(tmp_path, channels=channels)


def read_by(parts: Parts, duties: Duties) -> list[tuple[str, str]]:
    return [(reading.stage, reading.topic) for reading in readings(parts, duties)]


@pytest.mark.parametrize(
    "workers",
    [
        [CRITICAL_ALONE, ALL_BUT_CRITICAL],
        [duties_of([duty]) for duty in Duty],
        [
            duties_of(["deliver:email"]),
            duties_of(["deliver:sms", "deliver:push", "deliver:inapp:critical"]),
            duties_of(["route", "record", "schedule", "rounds", "deliver:inapp:bulk:normal"]),
        ],
    ],
)
def test_workers_read_everything_between_them_and_nothing_twice(tmp_path: Path, workers: list[Duties]) -> None:
    parts = Flow(tmp_path).parts()
    between_them = [topic for duties in workers for topic in read_by(parts, duties)]
    assert sorted(between_them) == sorted(read_by(parts, EVERYTHING))
    assert {topic for _, topic in between_them} == set(topics.subscriptions())


def test_the_critical_process_routes_and_delivers_the_critical_lanes_alone(tmp_path: Path) -> None:
    found = read_by(Flow(tmp_path).parts(), CRITICAL_ALONE)
    assert {topics.LANES[topic].priority for _, topic in found} == {Priority.CRITICAL}
    assert {stage for stage, _ in found} == {topics.ROUTE, topics.DELIVER}


MAIL_SERVER = {"smtp": {"host": "mail.example", "from_address": "hello@shop.example"}}


def test_one_real_provider_turns_the_sandbox_off(tmp_path: Path) -> None:
    found = made(tmp_path, channels={"email": ["smtp"]}, providers=MAIL_SERVER)
    assert list(found) == ["smtp", "inbox"]
    whole = Settings.model_validate({"channels": {"email": ["smtp"]}, "providers": MAIL_SERVER})
    assert not whole.uses_sandbox
    assert whole.unserved == {Channel.SMS, Channel.PUSH}


def test_the_sandbox_stays_beside_real_providers_where_it_is_asked_for(tmp_path: Path) -> None:
    sections = {"channels": {"email": ["smtp"]}, "providers": MAIL_SERVER, "sandbox": {"enabled": True}}
    assert list(made(tmp_path, **sections)) == ["smtp", "twilio", "fcm", "inbox"]
    assert Settings.model_validate(sections).unserved == frozenset()


@pytest.mark.parametrize(
    ("settings", "uses"),
    [
        ({}, True),
        ({"channels": {"sms": []}}, True),
        ({"channels": {"sms": ["twilio"]}}, True),
        ({"channels": {"sms": ["twilio"]}, "providers": {"twilio": {"rate": 5}}}, True),
        ({"channels": {"sms": ["twilio"]}, "providers": {"twilio": account("a")}}, False),
        ({"channels": {"sms": {"eu": 1}}, "providers": {"eu": account("a", kind="twilio")}}, False),
        ({"providers": {"twilio": account("a")}}, True),
        ({"sandbox": {"enabled": False}}, False),
    ],
)
def test_when_the_sandbox_serves(settings: dict[str, Any], uses: bool) -> None:
    assert Settings.model_validate(settings).uses_sandbox is uses


def test_an_empty_list_turns_a_channel_off(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"channels": {"sms": [], "inapp": []}}
    assert list(made(tmp_path, **settings)) == ["sendgrid", "fcm"]
    assert Settings.model_validate(settings).unserved == frozenset()


@pytest.mark.parametrize(
    ("role", "without"),
    [
        ("worker", ["fastapi", "uvicorn.main", "tidings.sandbox.server"]),
        ("api", ["tidings.roles.worker", "tidings.sandbox.server"]),
        ("sandbox", ["fastapi", "asyncpg", "tidings.parts"]),
    ],
)
def test_a_process_imports_only_its_own_roles(role: str, without: Sequence[str]) -> None:
    code = f"import sys, tidings.cli.run, {ROLES[role]}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(result.stdout.split())
    assert ROLES[role] in imported
    assert not imported.intersection(without)
