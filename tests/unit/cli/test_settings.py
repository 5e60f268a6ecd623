from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from tidings.channels.registry import config_of, providers
from tidings.cli.application import run
from tidings.cli.settings import example_file, public_view
from tidings.config import Settings, load


def uncommented(text: str) -> str:
    """The example with all settings uncommented."""
    lines = []
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        is_setting = bare.startswith("[providers.") or (
            bare.partition(" = ")[0].replace("_", "").isalnum() and " = " in bare
        )
        lines.append(bare if is_setting else line)
    return "\n".join(lines)


def test_the_example_as_it_is_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tidings.toml"
    file.write_text(example_file())
    assert load(file, {}) == Settings()


def test_the_example_names_every_setting() -> None:
    tree = tomllib.loads(uncommented(example_file()))
    for name, section in Settings():
        if isinstance(section, BaseModel):
            assert set(tree[name]) == set(type(section).model_fields)
    [second] = set(tree["providers"]) - set(providers())
    assert tree["providers"][second]["kind"] in providers()
    for name, provider in providers().items():
        assert set(tree["providers"][name]) == set(config_of(provider).model_fields)
        assert tree["providers"][name]["kind"] == name
    assert {name for names in tree["channels"].values() for name in names} == set(providers())


def test_the_example_explains_every_setting_that_needs_it() -> None:
    for line in example_file().splitlines():
        assert len(line) <= 100


def test_secrets_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tidings.toml"
    file.write_text(
        "[database]\ndsn = 'postgresql://u:very-secret@h/d'\n[providers.sendgrid]\napi_key = 'very-secret'\n"
        "from_address = 'hello@shop.example'\nunknown = 'very-secret'\n[providers.nobody]\nkey = 'very-secret'\n"
        "[providers.sendgrid-2]\nkind = 'sendgrid'\napi_key = 'very-secret'\nfrom_address = 'b@shop.example'\n"
        "[providers.sendgrid-3]\nkind = 'pigeon'\napi_key = 'very-secret'\n"
    )
    assert run(["settings", "--settings", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "very-secret" not in shown
    assert json.loads(shown)["providers"]["sendgrid"]["from_address"] == "hello@shop.example"
    assert json.loads(shown)["providers"]["sendgrid-2"]["from_address"] == "b@shop.example"
    assert public_view(Settings())["database"]["dsn"] is None


def test_the_secrets_of_a_section_are_hidden_and_reach_a_child_process(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("password", "key_password", "client_secret")
    settings = load(None, {f"TIDINGS_KAFKA__{name.upper()}": "very-secret" for name in names})
    assert "very-secret" not in repr(settings) + json.dumps(public_view(settings))
    assert public_view(settings)["kafka"]["password"] == "(set, not shown)"
    assert public_view(Settings())["kafka"]["password"] == ""
    child = Settings.model_validate_json(settings.model_dump_json())
    assert {getattr(child.kafka, name).get_secret_value() for name in names} == {"very-secret"}
