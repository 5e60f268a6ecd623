"""Settings of providers: a plain sentence names each fault, and shows no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.fcm import FcmVendor
from support.vendors import TwilioVendor, tools_for
from tidings.channels.registry import build, config_of, kind_of, names_an_account, providers
from tidings.channels.settings import is_loopback, is_private
from tidings.model.errors import SettingsError

GOOD = {"account_sid": TwilioVendor.sid, "auth_token": TwilioVendor.token, "from_number": "+15005550006"}


def fault(**more: Any) -> str:
    section = {name: value for name, value in (GOOD | more).items() if value is not ...}
    with pytest.raises(SettingsError) as caught:
        build("twilio", section, tools_for())
    return str(caught.value)


def test_the_registry_knows_every_file() -> None:
    assert list(providers()) == ["fcm", "inbox", "sendgrid", "smtp", "twilio"]
    for provider in providers().values():
        assert config_of(provider).__doc__


def test_an_unknown_provider_is_told_with_those_that_there_are() -> None:
    with pytest.raises(
        SettingsError, match="there is no provider 'pigeon'; there are fcm, inbox, sendgrid, smtp, twilio"
    ):
        build("pigeon", {}, tools_for())


@pytest.mark.parametrize(
    ("name", "section", "words"),
    [
        (
            "twilio-eu",
            {},
            r'there is no provider .twilio-eu.; there are fcm, .* kind = "…" under \[providers.twilio-eu\]',
        ),
        ("twilio-eu", {"kind": "twillio"}, r"providers.twilio-eu.kind is 'twillio', .* there are fcm.* mean twilio\?"),
        (
            "twilio",
            {"kind": "pigeon"},
            "providers.twilio.kind is 'pigeon', and there is no such provider; there are fcm",
        ),
        ("twilio-eu", {"kind": 7}, "providers.twilio-eu.kind is 7"),
        ("Twilio EU", {"kind": "twilio"}, "cannot be called 'Twilio EU'.*lower-case letters"),
        ("a/b", {"kind": "twilio"}, "cannot be called 'a/b'"),
    ],
)
def test_a_kind_that_is_none_is_told(name: str, section: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        build(name, GOOD | section, tools_for())


def test_a_section_may_be_of_another_kind_than_its_name() -> None:
    assert kind_of("twilio-eu", {"kind": "twilio"}) is providers()["twilio"]
    assert kind_of("smtp", {"kind": "sendgrid"}) is providers()["sendgrid"]
    assert "providers.twilio-eu.account_sid is missing" in _told("twilio-eu", {"kind": "twilio", "auth_token": "x"})


def _told(name: str, section: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        build(name, section, tools_for())
    return str(caught.value)


def test_what_makes_a_section_an_account_of_ones_own() -> None:
    assert not names_an_account({})
    assert not names_an_account({"kind": "twilio", "rate": 5, "timeout": 2.0, "concurrency": 9})
    assert names_an_account({"kind": "twilio", "account_sid": "AC1"})


def test_a_missing_setting_is_explained() -> None:
    assert fault(auth_token=...) == (
        "providers.twilio.auth_token is missing. It is the account's Auth Token; it also checks the signatures of "
        "receipts."
    )


def test_every_fault_is_named_at_once() -> None:
    text = fault(account_sid="SK1", timeout="long", colour="red")
    assert "providers.twilio.account_sid cannot be used" in text
    assert "providers.twilio.timeout cannot be used" in text
    assert "providers.twilio.colour is not a setting of twilio" in text


@pytest.mark.parametrize("token", ["", "has space", "has\nline", "ünïcode", "tab\t"])
def test_a_secret_that_no_header_can_carry(token: str) -> None:
    text = fault(auth_token=token)
    assert "providers.twilio.auth_token cannot be used: it must be visible ASCII" in text
    assert not token or token not in text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.twilio.com",
        "ftp://api.twilio.com",
        "http://",
        "http://user:pass@host/",
        "http://host/?a=1",
        "http://host/#x",
        "http://ho st/",
        "http://host:99999/",
        "http://[::1/",
        "http://host/\r\nX: 1",
        "http://host\t/",
    ],
)
def test_a_url_that_cannot_be_called(url: str) -> None:
    assert "providers.twilio.base_url cannot be used" in fault(base_url=url)


def test_text_from_the_environment_is_read() -> None:
    provider: Any = build("twilio", GOOD | {"timeout": "2.5", "connect_timeout": "1"}, tools_for())
    assert provider._config.timeout == 2.5


def test_connecting_must_end_before_the_request_does() -> None:
    assert "connect_timeout must be smaller than timeout" in fault(timeout=2, connect_timeout=2)


def test_settings_do_not_tell_secrets() -> None:
    provider: Any = build("twilio", GOOD, tools_for())
    assert TwilioVendor.token not in repr(provider._config)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8400/x", "http://localhost/", "http://[::1]:80/", "http://a.localhost"]
)
def test_what_is_this_machine(url: str) -> None:
    assert is_loopback(url)
    assert is_private(url)


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://api/", "http://a.internal", "http://192.168.1.5:8400"])
def test_what_is_a_private_network(url: str) -> None:
    assert is_private(url)
    assert not is_loopback(url)


@pytest.mark.parametrize("url", ["https://api.twilio.com", "http://8.8.8.8/", "https://notify.example.com/v1"])
def test_what_is_public(url: str) -> None:
    assert not is_private(url)


@pytest.mark.parametrize("url", ["http://api.twilio.example", "http://10.0.0.7:8401", "http://api.internal"])
def test_secrets_do_not_go_readable_over_the_network(url: str) -> None:
    with pytest.raises(SettingsError, match="readable over the network"):
        build("twilio", {**GOOD, "base_url": url}, tools_for())
    assert build("twilio", {**GOOD, "base_url": url, "allow_insecure": True}, tools_for()).kind == "twilio"


@pytest.mark.parametrize("url", ["http://127.0.0.1:8401", "http://localhost:1", "http://[::1]:1", "https://a.example"])
def test_this_machine_and_https_need_no_leave(url: str) -> None:
    assert build("twilio", {**GOOD, "base_url": url}, tools_for()).kind == "twilio"


def test_nor_where_access_tokens_come_from(tmp_path: Path) -> None:
    account = FcmVendor().account() | {"token_uri": "http://accounts.example/token"}
    file = tmp_path / "account.json"
    file.write_bytes(msgspec.json.encode(account))
    for section in ({"service_account": account}, {"service_account_file": str(file)}):
        with pytest.raises(SettingsError, match=r"token_uri = http://accounts\.example/token would send"):
            build("fcm", section, tools_for())
        assert build("fcm", {**section, "allow_insecure": True}, tools_for()).kind == "fcm"


def test_a_ca_file_is_looked_at_when_it_starts(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("")
    for path, words in ((empty, "no certificates"), (tmp_path / "none.pem", "cannot be read"), (tmp_path, "cannot be")):
        with pytest.raises(SettingsError, match=rf"providers\.twilio\.ca_file cannot be used: .*{words}"):
            build("twilio", {**GOOD, "ca_file": str(path)}, tools_for())
