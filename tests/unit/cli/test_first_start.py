from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tidings.api.samples import ORDER
from tidings.cli import first_start
from tidings.cli.first_start import curl, greet
from tidings.cli.folder import DataFolder
from tidings.cli.shop import templates
from tidings.cli.shop.templates import TEMPLATES
from tidings.config import Settings
from tidings.model.vocabulary import Channel
from tidings.sections import Sandbox


def test_the_command_to_paste_is_one_line_that_a_shell_understands() -> None:
    line = curl("http://127.0.0.1:8400", "'Authorization: Bearer tk_secret'")
    assert "\n" not in line
    words = shlex.split(line)
    assert words[:3] == ["curl", "-sS", "http://127.0.0.1:8400/v1/notifications"]
    assert "Authorization: Bearer tk_secret" in words
    assert json.loads(words[-1]) == ORDER


def test_the_sample_order_fits_the_demo_template() -> None:
    template = next(template for template in TEMPLATES if template.name == ORDER["template"])
    assert template.name == templates.ORDER_CONFIRMATION
    assert set(template.channels) == {"email", "sms", "push", "inapp"}
    assert set(ORDER["data"]) == set(template.variables)
    assert ORDER["category"] == template.category


def test_the_greeting_has_the_command_on_a_line_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    greet(Settings(), DataFolder(tmp_path), "tk_secret", 3.21)
    lines = capsys.readouterr().out.splitlines()
    assert curl("http://127.0.0.1:8400", "'Authorization: Bearer tk_secret'") in lines
    assert "  API            http://127.0.0.1:8400" in lines
    assert "  API reference  http://127.0.0.1:8400/docs" in lines
    assert "  Sandbox viewer http://127.0.0.1:8401" in lines
    assert "  API key        tk_secret" in lines
    assert any("send" in line and f"--data-dir {tmp_path}" in line for line in lines)


def test_a_later_start_shows_no_key_and_its_command_reads_it_from_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = DataFolder(tmp_path)
    folder.keep_demo_key("tk_secret")
    greet(Settings(), folder, None, 3.21)
    text = capsys.readouterr().out
    assert "tk_secret" not in text
    assert f"  API key        in {tmp_path / 'demo.key'}" in text.splitlines()
    (line,) = [line for line in text.splitlines() if line.startswith("curl ")]
    said = subprocess.run(
        ["/bin/sh", "-c", line.replace("curl ", "echo ", 1)], capture_output=True, text=True, check=True
    )
    assert "Authorization: Bearer tk_secret" in said.stdout


@pytest.mark.parametrize(
    ("on", "words"),
    [
        (True, "sent for real: email by smtp; everything else goes to the sandbox"),
        (None, "sent for real: email by smtp. Give"),
    ],
)
def test_the_greeting_says_what_is_sent_for_real(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], on: bool | None, words: str
) -> None:
    smtp = {"host": "mail.example.com", "from_address": "news@example.com"}
    greet(
        Settings(
            channels={Channel.EMAIL: {"smtp": 1}},
            providers={"smtp": smtp},
            sandbox=Sandbox.model_validate({"enabled": on}),
        ),
        DataFolder(tmp_path),
        "tk_secret",
        3.21,
    )
    text = capsys.readouterr().out
    assert words in text
    assert ("Sandbox viewer" in text) is (on is True)
    assert "The sandbox viewer then shows" not in text


def test_the_greeting_offers_a_demo_that_can_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_start, "find_spec", lambda _name: None)
    greet(Settings(), DataFolder(tmp_path), "tk_secret", 3.21)
    assert f"make demo ARGS='--data-dir {tmp_path}'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, []),
        ({"http": {"host": "localhost"}}, []),
        ({"http": {"host": "0.0.0.0"}}, ["speaks no TLS", "/metrics and /readyz and /docs"]),
        ({"http": {"host": "::", "docs": False}, "operations": {"port": 9}}, ["speaks no TLS", "in clear text."]),
        ({"http": {"host": "::"}, "operations": {"port": 9}}, ["Without a key anybody reads /docs", "closes /docs."]),
        ({"operations": {"port": 9, "host": "10.0.0.1"}}, ["Other machines read /metrics and /readyz on 10.0.0.1:9"]),
        ({"sandbox": {"host": "0.0.0.0"}}, ["Other machines reach the sandbox"]),
        ({"sandbox": {"host": "0.0.0.0", "enabled": False}}, []),
    ],
)
def test_the_greeting_warns_of_listeners_that_other_machines_reach(
    settings: dict[str, object], words: list[str]
) -> None:
    said = "\n".join(first_start.open_to_others(Settings.model_validate(settings)))
    assert all(word in said for word in words)
    assert bool(said) is bool(words)


def test_the_warning_advises_nothing_that_is_done_already() -> None:
    closed = {"http": {"host": "::", "docs": False}, "operations": {"port": 9}}
    (said,) = first_start.open_to_others(Settings.model_validate(closed))
    assert "operations.port" not in said
    assert "http.docs" not in said


def test_the_first_hint_sends_only_on_configured_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mail = {"kind": "smtp", "host": "mail.example.com", "sender": "a@example.com"}
    sections = {"channels": {"email": ["mail"]}, "providers": {"mail": mail}, "http": {"docs": False}}
    greet(Settings.model_validate(sections), DataFolder(tmp_path), "tk_secret", 3.21)
    text = capsys.readouterr().out
    (hint,) = [line for line in text.splitlines() if " send --to demo" in line]
    assert "--channel email --channel inapp" in hint
    assert "--channel sms" not in hint
    assert "/docs" not in text, "the reference is turned off"
