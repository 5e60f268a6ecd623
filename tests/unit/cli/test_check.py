from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.ports import free_port
from tidings.cli.application import run


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The output, with all whitespace collapsed."""
    return " ".join(capsys.readouterr().out.split())


def test_the_defaults_are_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check"]) == 0
    said = told(capsys)
    assert "ok settings there is no settings file; the defaults are used" in said
    assert "ok email the sandbox: nothing is sent" in said
    assert "wrong" not in said


def test_all_faults_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    Path("tidings.toml").write_text(
        f"[database]\ndsn = 'postgresql://u:p@127.0.0.1:{port}/d'\n"
        f"[queue]\nkind = 'kafka'\n"
        "[channels]\nemail = ['smtp']\nsms = ['smtp', 'pigeon']\n"
        f"[providers.smtp]\nhost = '127.0.0.1'\nport = {port}\nfrom_address = 'hello@shop.example'\nsecurity = 'none'\n"
        "[providers.twilio]\naccount_sid = 'x'\n[providers.telegraph]\n"
    )
    assert run(["check"]) == 1
    said = told(capsys)
    assert "wrong PostgreSQL cannot connect" in said
    assert "wrong Kafka queue.brokers is empty" in said
    assert "wrong email: smtp" in said
    assert "wrong sms: smtp it serves email; name it under channels.email" in said
    assert "wrong sms: pigeon there is no provider 'pigeon'; there are" in said
    assert 'wrong providers.twilio is not used: write sms = ["twilio"] under [channels]' in said
    assert "wrong providers.telegraph there is no provider 'telegraph'; there are" in said


def test_a_channel_without_a_section_uses_the_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tidings.toml").write_text("[channels]\nemail = ['smtp']\n")
    assert run(["check"]) == 0
    assert "email: smtp the section [providers.smtp] is not there, so the sandbox stands in for it" in told(capsys)


def test_a_section_without_an_account_uses_the_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tidings.toml").write_text(
        "[channels]\nsms = ['twilio', 'twilio-eu']\n[providers.twilio-eu]\nkind = 'twilio'\nrate = 5\n"
    )
    assert run(["check"]) == 0
    said = told(capsys)
    assert "sms: twilio the section [providers.twilio] is not there, so the sandbox stands in for it" in said
    assert "sms: twilio-eu the section [providers.twilio-eu] names no account, so the sandbox stands in for it" in said


def test_accounts_are_checked_by_their_kind(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tidings.toml").write_text(
        "[channels]\nsms = ['twilio-eu', 'twilio-us']\nemail = ['twilio-eu']\n"
        "[providers.twilio-eu]\nkind = 'twilio'\naccount_sid = 'x'\n"
        "[providers.twilio-us]\nkind = 'twillio'\naccount_sid = 'x'\n"
        "[providers.spare]\nkind = 'smtp'\nhost = 'x'\n[providers.odd]\nkind = 'pigeon'\n"
    )
    assert run(["check"]) == 1
    said = told(capsys)
    assert "providers.twilio-eu.account_sid cannot be used" in said
    assert "providers.twilio-us.kind is 'twillio', and there is no such provider; there are" in said
    assert "wrong email: twilio-eu it serves sms; name it under channels.sms" in said
    assert 'wrong providers.spare is not used: write email = ["spare"] under [channels]' in said
    assert "wrong providers.odd providers.odd.kind is 'pigeon'" in said


def test_without_the_sandbox_a_channel_without_a_provider_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tidings.toml").write_text("[sandbox]\nenabled = false\n[channels]\npush = []\n")
    assert run(["check"]) == 0
    said = told(capsys)
    assert 'ok email not configured: requests for it are refused. To use it: email = ["sendgrid"]' in said
    assert "ok push off: its notifications are recorded as suppressed, channel_off" in said
    assert "ok inapp the inbox" in said


def test_plaintext_to_brokers_elsewhere_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tidings.toml").write_text("[queue]\nkind = 'kafka'\nbrokers = 'kafka-1.example:9092'\n")
    assert run(["check"]) == 1
    assert "wrong Kafka the Kafka broker kafka-1.example is not on this machine" in told(capsys)


def test_brokers_that_do_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tidings.toml").write_text(f"[queue]\nkind = 'kafka'\nbrokers = '127.0.0.1:{free_port()}'\n")
    assert run(["check"]) == 1
    assert "wrong Kafka Kafka does not answer at 127.0.0.1" in told(capsys)


def test_a_running_database_is_asked(postgres_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tidings.toml").write_text(f"[database]\ndsn = '{postgres_dsn}'\n")
    assert run(["check"]) == 0
    assert "ok PostgreSQL PostgreSQL 1" in told(capsys)


@pytest.mark.parametrize(
    "command", [["providers"], ["settings"], ["check"], ["simulate", "--seeds", "2", "--cores", "1"]]
)
def test_commands_answer_programs_in_json(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [] if command[0] == "simulate" else ["--data-dir", str(tmp_path)]
    assert run([*command, "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out)
