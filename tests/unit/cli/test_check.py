from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.ports import free_port
from tidings.cli.application import run


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check(capsys: pytest.CaptureFixture[str], settings: str | None = None) -> tuple[int, str]:
    """The exit code of `tidings check` with this settings file, and its output with all whitespace collapsed."""
    if settings is not None:
        Path("tidings.toml").write_text(settings)
    code = run(["check"])
    return code, " ".join(capsys.readouterr().out.split())


def test_the_defaults_are_fine(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = check(capsys)
    assert code == 0
    assert "ok settings there is no settings file; the defaults are used" in output
    assert "ok email the sandbox: nothing is sent" in output
    assert "wrong" not in output


def test_all_faults_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    code, output = check(
        capsys,
        f"[database]\ndsn = 'postgresql://u:p@127.0.0.1:{port}/d'\n"
        f"[queue]\nkind = 'kafka'\n"
        "[channels]\nemail = ['smtp']\nsms = ['smtp', 'pigeon']\n"
        f"[providers.smtp]\nhost = '127.0.0.1'\nport = {port}\nfrom_address = 'hello@shop.example'\nsecurity = 'none'\n"
        "[providers.twilio]\naccount_sid = 'x'\n[providers.telegraph]\n",
    )
    assert code == 1
    assert "wrong PostgreSQL cannot connect" in output
    assert "wrong Kafka queue.brokers is empty" in output
    assert "wrong email: smtp" in output
    assert "wrong sms: smtp it serves email; name it under channels.email" in output
    assert "wrong sms: pigeon there is no provider 'pigeon'; there are" in output
    assert 'wrong providers.twilio is not used: write sms = ["twilio"] under [channels]' in output
    assert "wrong providers.telegraph there is no provider 'telegraph'; there are" in output


def test_a_channel_without_a_section_uses_the_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = check(capsys, "[channels]\nemail = ['smtp']\n")
    assert code == 0
    assert "email: smtp the section [providers.smtp] is not there, so the sandbox stands in for it" in output


def test_a_section_without_an_account_uses_the_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = check(
        capsys,
        "[channels]\nsms = ['twilio', 'twilio-eu']\n[providers.twilio-eu]\nkind = 'twilio'\nrate = 5\n",
    )
    assert code == 0
    assert "sms: twilio the section [providers.twilio] is not there, so the sandbox stands in for it" in output
    assert (
        "sms: twilio-eu the section [providers.twilio-eu] names no account, so the sandbox stands in for it" in output
    )


def test_accounts_are_checked_by_their_kind(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = check(
        capsys,
        "[channels]\nsms = ['twilio-eu', 'twilio-us']\nemail = ['twilio-eu']\n"
        "[providers.twilio-eu]\nkind = 'twilio'\naccount_sid = 'x'\n"
        "[providers.twilio-us]\nkind = 'twillio'\naccount_sid = 'x'\n"
        "[providers.spare]\nkind = 'smtp'\nhost = 'x'\n[providers.odd]\nkind = 'pigeon'\n",
    )
    assert code == 1
    assert "providers.twilio-eu.account_sid cannot be used" in output
    assert "providers.twilio-us.kind is 'twillio', and there is no such provider; there are" in output
    assert "wrong email: twilio-eu it serves sms; name it under channels.sms" in output
    assert 'wrong providers.spare is not used: write email = ["spare"] under [channels]' in output
    assert "wrong providers.odd providers.odd.kind is 'pigeon'" in output


def test_without_the_sandbox_a_channel_without_a_provider_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = check(capsys, "[sandbox]\nenabled = false\n[channels]\npush = []\n")
    assert code == 0
    assert 'ok email not configured: requests for it are refused. To use it: email = ["sendgrid"]' in output
    assert "ok push off: its notifications are recorded as suppressed, channel_off" in output
    assert "ok inapp the inbox" in output


def test_plaintext_to_brokers_elsewhere_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = check(capsys, "[queue]\nkind = 'kafka'\nbrokers = 'kafka-1.example:9092'\n")
    assert code == 1
    assert "wrong Kafka the Kafka broker kafka-1.example is not on this machine" in output


def test_brokers_that_do_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = check(capsys, f"[queue]\nkind = 'kafka'\nbrokers = '127.0.0.1:{free_port()}'\n")
    assert code == 1
    assert "wrong Kafka Kafka does not answer at 127.0.0.1" in output


def test_a_running_database_is_asked(postgres_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = check(capsys, f"[database]\ndsn = '{postgres_dsn}'\n")
    assert code == 0
    assert "ok PostgreSQL PostgreSQL 1" in output


@pytest.mark.parametrize(
    "command", [["providers"], ["settings"], ["check"], ["simulate", "--seeds", "2", "--cores", "1"]]
)
def test_commands_answer_programs_in_json(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [] if command[0] == "simulate" else ["--data-dir", str(tmp_path)]
    assert run([*command, "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out)
