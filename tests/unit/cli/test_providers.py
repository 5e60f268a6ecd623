"""`tidings providers`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidings.channels.errors import markdown
from tidings.channels.registry import providers
from tidings.cli.application import run


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def test_providers_lists_all_kinds_and_who_serves_each_channel(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tidings.toml").write_text(
        "[channels]\nsms = ['twilio', 'twilio-eu']\n[providers.twilio-eu]\nkind = 'twilio'\nrate = 5\n"
    )
    assert run(["providers"]) == 0
    said = capsys.readouterr().out
    for kind in providers():
        assert f"\n{kind} " in f"\n{said}"
    assert "sms    by twilio\nsms    by twilio-eu (twilio), 5 a second\n" in said
    assert "email  by the sandbox\n" in said
    Path("tidings.toml").write_text(
        "[channels]\nsms = {twilio = 80, twilio-eu = 20}\n[providers.twilio-eu]\nkind = 'twilio'\n"
    )
    assert run(["providers"]) == 0
    assert "sms    by twilio, weight 80\nsms    by twilio-eu (twilio), weight 20\n" in capsys.readouterr().out
    assert "inapp  by the inbox\n" in said


def test_without_the_sandbox_nobody_serves(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tidings.toml").write_text("[sandbox]\nenabled = false\n")
    assert run(["providers"]) == 0
    assert "email  is not configured\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["twilio", "twilio-eu"])
def test_errors_shows_the_effect_of_each_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tidings.toml").write_text("[providers.twilio-eu]\nkind = 'twilio'\n")
    assert run(["providers", "errors", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 100
    [row] = [line for line in lines if line.startswith("21610")]
    assert row.split()[-3:] == ["unsubscribed", "final", "suppressed"]
    assert any(line.startswith("delivered ") for line in lines)
    assert not any(line.startswith("UNREGISTERED") for line in lines)


def test_errors_of_all_providers_are_shown_as_in_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["providers", "errors"]) == 0
    said = capsys.readouterr().out
    assert all(code in said for code in ("21610", "UNREGISTERED", "5.1.1", "group_unsubscribe"))
    assert run(["providers", "errors", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown(providers())


def test_unknown_providers_are_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["providers", "errors", "pigeon"]) == 2
    assert "there is no provider 'pigeon'; there are fcm" in capsys.readouterr().err
    assert run(["providers", "errors", "inbox"]) == 2
    assert "inbox has no vendor" in capsys.readouterr().err
    Path("tidings.toml").write_text("[channels]\nsms = ['pigeon']\n")
    assert run(["providers"]) == 2
    assert "channels.sms: there is no provider 'pigeon'" in capsys.readouterr().err
